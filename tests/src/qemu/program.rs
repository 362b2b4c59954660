//! Which QEMU is run.

use crate::apt::{self, Apt};
use crate::cache;
use crate::programs;
use anyhow::Result;
use serde::{Deserialize, Serialize};
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

/// Which QEMU a lab runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QemuChoice {
    /// The one that is installed on this machine.
    Installed,
    /// The newer one of Debian's backports.
    Backports,
}

impl QemuChoice {
    /// Finds it, as [`QemuProgram`] does.
    pub(crate) fn find(self) -> Result<QemuProgram> {
        match self {
            Self::Installed => QemuProgram::installed(),
            Self::Backports => QemuProgram::of_backports(),
        }
    }

    /// What the guest lacks of its memory.
    ///
    /// Before 9.0, QEMU loses writes of a TCG guest while it migrates, and the guest crashes sooner or later: the fast path of
    /// `cpu_physical_memory_sync_dirty_bitmap` clears dirty bits without a word to TCG's TLB (fixed by commit 03bfc2188f). It is
    /// only taken for memory that is a multiple of 64 pages, so the guest gets a little less. The other path is so slow that a
    /// guest with many vCPUs and GiB of memory stands still for seconds when its migration begins.
    pub(crate) const fn memory_gap_kib(self) -> u64 {
        match self {
            Self::Installed => MEMORY_GAP_KIB,
            Self::Backports => 0,
        }
    }
}

/// See [`QemuChoice::memory_gap_kib`].
pub(crate) const MEMORY_GAP_KIB: u64 = 8;

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
