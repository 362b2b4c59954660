//! What a collector is told of the host that sends.

use std::fs;
use std::io;

use uuid::Uuid;

use super::ThisHost;
use crate::identity::Identity;
use crate::wall_clock::realtime_ns;

/// Where Linux keeps the host's identifier (machine-id(5)).
const MACHINE_ID: &str = "/etc/machine-id";

impl ThisHost {
    /// Asks this host.
    ///
    /// # Errors
    /// When the kernel does not say the host's name.
    pub fn read() -> io::Result<Self> {
        let Identity { host, kernel } = Identity::read()?;
        let id = fs::read_to_string(MACHINE_ID).ok().map(|id| id.trim().to_owned());
        let id = id.filter(|id| Uuid::try_parse(id).is_ok_and(|id| !id.is_nil()));
        let process = format!("{} {} {}", id.as_deref().unwrap_or(&host), std::process::id(), realtime_ns());
        let instance = Uuid::new_v5(&Uuid::NAMESPACE_OID, process.as_bytes()).to_string();
        Ok(Self { name: host, id, kernel, instance })
    }
}
