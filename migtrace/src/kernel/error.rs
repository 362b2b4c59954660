//! Why the kernel side cannot work.

use aya::maps::MapError;

use super::TcAttachError;

/// Why the kernel side cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The kernel refused a map or a program.
    #[error("the kernel refused the eBPF {what}: {why}")]
    Refused {
        /// `object`, `map NAME`, `program NAME`.
        what: String,
        /// The kernel's words, with the last meaningful lines of the verifier's log.
        why: String,
    },
    /// The eBPF object has no such map or program.
    #[error(
        "the eBPF object has no {what}: it was not built from the same source as migtrace; build both again"
    )]
    Absent {
        /// `map NAME`, `program NAME`.
        what: String,
    },
    /// A map could not be read or written.
    #[error("cannot access the eBPF map {name}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What happened.
        source: MapError,
    },
    /// A table of the kernel side is full.
    #[error("the table of {what} is full: it has room for {room}")]
    Full {
        /// What it holds.
        what: &'static str,
        /// How many of them.
        room: usize,
    },
    /// The ring buffer could not be polled.
    #[error("cannot wait for the kernel's events")]
    Poll(#[from] std::io::Error),
    /// A TC program could not be attached.
    #[error(transparent)]
    Attach(#[from] TcAttachError),
}

impl KernelError {
    /// Whether a map had no room for another entry.
    pub(super) fn is_full(&self) -> bool {
        self.fails_with(libc::E2BIG)
    }

    /// Whether the kernel refused access to a map with this error.
    pub(super) fn fails_with(&self, errno: i32) -> bool {
        matches!(
            self,
            Self::Map { source: MapError::SyscallError(error), .. } if error.io_error.raw_os_error() == Some(errno)
        )
    }
}
