//! Asks a host's libvirt for its own figures of a migration, through `virsh` (`--domjobinfo`).
//!
//! It only asks, and takes nothing away from others: libvirt forgets the statistics of a job that is over once somebody reads
//! them, unless it is told to keep them (`--keep-completed`). QEMU is not asked: libvirt answers from its own memory.

mod command;
mod error;
mod job;
#[cfg(test)]
mod tests;

pub use command::Virsh;
pub use error::VirshError;
pub use job::{CompletedJob, Operation};
