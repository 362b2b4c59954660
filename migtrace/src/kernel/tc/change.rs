//! What happened to programs that were attached.

use crate::event::TcProgram;
use crate::units::MonotonicNs;
use crate::vocabulary::AttachMode;

/// A change to programs that were attached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Change {
    /// Index of the interface.
    pub(crate) interface: u32,
    pub(crate) what: TcProgram,
    pub(crate) mode: AttachMode,
    pub(crate) news: ChangeNews,
}

/// See [`Change`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ChangeNews {
    /// Somebody removed some of the programs, or removed programs are attached again.
    Removed {
        /// The last time at which all of them are known to have been attached.
        last_seen_ns: MonotonicNs,
        /// When all of them were attached again, or why they cannot be.
        again: Result<MonotonicNs, String>,
    },
    /// Somebody else's program runs before one of them and may keep packets from it.
    Behind,
}
