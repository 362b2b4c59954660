//! What runs on this host: its QEMUs, their taps, and the programs at its interfaces.

pub(crate) mod attachments;
pub(in crate::tracer) mod pretenders;
pub(in crate::tracer) mod scans;
pub(in crate::tracer) mod taps;
