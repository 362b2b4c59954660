//! Which QEMU is run.

use crate::programs;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of QEMU's executable.
pub(crate) const EXECUTABLE: &str = "qemu-system-x86_64";

/// A QEMU that can be run.
#[derive(Debug, Clone)]
pub struct QemuProgram {
    path: PathBuf,
}

impl QemuProgram {
    /// The one that is installed on this machine.
    ///
    /// # Errors
    ///
    /// When there is none. The message names its package.
    pub fn installed() -> Result<Self> {
        Ok(Self { path: programs::find(EXECUTABLE)? })
    }

    /// Its executable.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs it.
    pub(crate) fn command(&self) -> Command {
        Command::new(&self.path)
    }
}
