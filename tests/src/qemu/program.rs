//! Which QEMU is run.

use crate::apt::{self, Apt};
use crate::cache;
use crate::programs;
use anyhow::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The name of QEMU's executable.
const EXECUTABLE: &str = "qemu-system-x86_64";

/// The suite that has a newer QEMU, which runs on this suite's libraries.
const BACKPORTS: &str = "bookworm-backports";

/// Its parts: the programs, their modules, and their firmware.
const PACKAGES: [&str; 3] = ["qemu-system-x86", "qemu-system-common", "qemu-system-data"];

/// The folders with firmware on a machine where QEMU is installed.
const FIRMWARE: [&str; 2] = ["/usr/share/seabios", "/usr/share/qemu"];

/// A QEMU that can be run.
#[derive(Debug, Clone)]
pub struct QemuProgram {
    path: PathBuf,
    /// Where it was unpacked, if it is not installed.
    root: Option<PathBuf>,
}

/// The QEMU that is unpacked in a directory.
fn unpacked(directory: &Path) -> Option<QemuProgram> {
    let path = directory.join("usr/bin").join(EXECUTABLE);
    path.exists().then(|| QemuProgram { path, root: Some(directory.to_owned()) })
}

impl QemuProgram {
    /// The one that is installed on this machine.
    ///
    /// # Errors
    ///
    /// When there is none. The message names its package.
    pub fn installed() -> Result<Self> {
        Ok(Self { path: programs::find(EXECUTABLE)?, root: None })
    }

    /// The newer one of Debian's backports, from the mirror that this machine uses. It is unpacked into the lab's cache and
    /// never installed. The first call downloads it, which takes some seconds.
    ///
    /// # Errors
    ///
    /// When it cannot be downloaded.
    pub fn of_backports() -> Result<Self> {
        cache::get(
            "qemu-backports",
            |directory| Ok(unpacked(directory)),
            |directory| {
                let lists = cache::directory()?.join("suites").join(BACKPORTS);
                Apt::of_suite(BACKPORTS, apt::MAIN, &lists)?.unpack(&PACKAGES.map(String::from), directory)
            },
        )
    }

    /// Its executable.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        if let Some(root) = &self.root {
            command.env("QEMU_MODULE_DIR", root.join("usr/lib/x86_64-linux-gnu/qemu"));
            command.arg("-L").arg(root.join("usr/share/qemu"));
            for folder in FIRMWARE {
                command.args(["-L", folder]);
            }
        }
        command
    }
}
