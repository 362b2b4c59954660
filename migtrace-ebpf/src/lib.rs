//! The border between the kernel programs of migtrace and its user space.
//!
//! [`abi`] holds the keys, counters and events that cross it, [`packet`] the header walk and the segment
//! arithmetic, which is plain Rust: the same code runs over a socket buffer in the kernel and over a slice in a
//! test.
#![no_std]

pub mod abi;
pub mod packet;
