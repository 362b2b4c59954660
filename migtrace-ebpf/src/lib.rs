//! The border between the kernel programs of migtrace and its user space.
//!
//! [`abi`] holds the keys, counters and events that cross it, [`packet`] the header walk and the segment
//! arithmetic, [`resent`] what a socket's own counters tell of retransmissions, [`session`] what a stream of echo
//! requests tells, [`vcpu_state`] what entering and leaving KVM tells, [`qmp_write`] what the first bytes of a write to a
//! monitor tell, [`budget`] how much one process may tell. All but the first are plain Rust: the same code runs in the
//! kernel and in a test.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod budget;
pub mod packet;
pub mod qmp_write;
pub mod resent;
pub mod session;
pub mod vcpu_state;
