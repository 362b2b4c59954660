//! This host: its QEMU processes, sockets, interfaces, clock, and what it allows migtrace to do.
//!
//! All of this asks `/proc`, `/sys`, netlink, QMP or virsh. Apart from TC filters it changes nothing. The functions
//! are about the calling thread's network namespace, and block for at most a few milliseconds unless they say otherwise.

mod attributes;
pub mod capabilities;
pub mod clock;
pub mod environment;
pub(crate) mod filters;
pub(crate) mod links;
pub(crate) mod mac;
pub(crate) mod neighbours;
mod netlink;
pub(crate) mod netns;
pub(crate) mod qemu;
pub mod qmp;
mod route_netlink;
pub(crate) mod sockets;
#[cfg(test)]
pub(crate) mod testing;
pub mod virsh;
