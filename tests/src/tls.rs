//! A key for encrypted migrations, which both sides have.

use crate::migration::Side;
use crate::qmp::Qmp;
use anyhow::{Context as _, Result};
use serde_json::json;
use std::fs;
use std::sync::Arc;
use tempfile::TempDir;

/// The name of the key.
const USER: &str = "lab";
/// 256 bits, in hexadecimal. It protects nothing but the lab's own migrations.
const KEY: &str = "6d69677261746520746865206775657374206f66207468652074657374206c61";

/// A key in a file of its own, which is removed with the last clone of this.
#[derive(Debug, Clone)]
pub struct TlsKey(Arc<TempDir>);

impl TlsKey {
    /// Writes the file.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn new() -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a folder for a key")?;
        // QEMU looks for a file of this name.
        fs::write(directory.path().join("keys.psk"), format!("{USER}:{KEY}\n"))
            .context("cannot write a key")?;
        Ok(Self(Arc::new(directory)))
    }

    /// Makes a QEMU's credentials of this key, and returns their name.
    pub(crate) fn give(&self, qemu: &mut Qmp, side: Side) -> Result<&'static str> {
        let (name, endpoint) = match side {
            Side::Source => ("tls-client", "client"),
            Side::Destination => ("tls-server", "server"),
        };
        let mut credentials = json!({
            "qom-type": "tls-creds-psk",
            "id": name,
            "dir": self.0.path(),
            "endpoint": endpoint,
        });
        // A server takes every name that the file has.
        if side == Side::Source {
            credentials["username"] = USER.into();
        }
        qemu.execute("object-add", credentials)?;
        Ok(name)
    }
}
