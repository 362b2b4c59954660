//! The border between the kernel programs of migtrace and its user space.
//!
//! [`abi`] holds the keys, counters and events that cross it, [`budget`] how much is told of what can come often,
//! [`packet`] the header walk and the segment arithmetic, [`handshake`] how a connection begins, [`stream`] how one of its
//! directions goes on, [`qmp_write`] what the first bytes of a write to a monitor tell, [`resent`] what a socket's own
//! counters tell of retransmissions, [`session`] what a stream of echo requests tells, [`vcpu_state`] what entering and
//! leaving KVM tells. All but the first are plain Rust: the same code runs in the kernel and in a test.
#![no_std]
#![cfg_attr(
    target_arch = "bpf",
    feature(core_intrinsics),
    allow(internal_features, reason = "core_intrinsics is one")
)]

#[cfg(test)]
extern crate std;

pub mod abi;
pub mod budget;
pub mod handshake;
pub mod packet;
pub mod qmp_write;
pub mod resent;
pub mod session;
pub mod stream;
pub mod vcpu_state;
pub mod word;
