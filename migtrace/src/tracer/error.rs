//! Why tracing cannot begin or go on.

use std::io;
use std::path::PathBuf;

use crate::host::links::CountingError;
use crate::kernel::KernelError;

/// Why tracing cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TracerError {
    /// The kernel side failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// Packets cannot be counted at the requested interfaces, or at any.
    #[error(transparent)]
    Interfaces(#[from] CountingError),
    /// A file that was named as QEMU's executable cannot be one.
    #[error("cannot take {} for QEMU's executable", path.display())]
    QemuBinary {
        /// Its path.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// This host's state cannot be read.
    #[error("cannot {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What happened.
        source: io::Error,
    },
}

/// The error of an attempt to learn something about this host.
pub(crate) fn host(what: &'static str) -> impl FnOnce(io::Error) -> TracerError {
    move |source| TracerError::Host { what, source }
}
