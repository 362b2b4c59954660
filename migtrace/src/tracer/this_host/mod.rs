//! What runs on this host: its QEMUs, their taps, and the interfaces at which packets are counted.

pub(super) mod attachments;
pub(super) mod interfaces;
mod pretenders;
pub(super) mod qemus;
pub(super) mod scans;
pub(super) mod taps;
