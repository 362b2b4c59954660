//! The files of a QEMU, in the directory of its host.

use std::path::{Path, PathBuf};

pub(super) fn qmp_socket(directory: &Path) -> PathBuf {
    directory.join("qmp.sock")
}

pub(super) fn spare_qmp_socket(directory: &Path) -> PathBuf {
    directory.join("qmp-spare.sock")
}

pub(crate) fn converge_qmp_socket(directory: &Path) -> PathBuf {
    directory.join("qmp-converge.sock")
}

/// What the guest writes to its serial console.
pub(super) fn console(directory: &Path) -> PathBuf {
    directory.join("console.log")
}

/// What QEMU itself writes to its standard output and error.
pub(super) fn log(directory: &Path) -> PathBuf {
    directory.join("qemu.log")
}

pub(super) fn pid(directory: &Path) -> PathBuf {
    directory.join("qemu.pid")
}
