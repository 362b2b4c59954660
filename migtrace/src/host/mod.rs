//! This host: its QEMU processes, sockets, interfaces, clock, and what it allows migtrace to do.
//!
//! Everything here asks `/proc`, `/sys`, netlink or QMP and changes nothing. The functions speak of the calling
//! thread's network namespace, and block for at most a few milliseconds unless they say otherwise.

pub mod capabilities;
pub mod clock;
pub mod environment;
pub(crate) mod filters;
pub(crate) mod identity;
pub(crate) mod links;
pub(crate) mod mac;
pub(crate) mod neighbours;
mod netlink;
pub(crate) mod qemu;
pub mod qmp;
pub(crate) mod sockets;
#[cfg(test)]
pub(crate) mod testing;
