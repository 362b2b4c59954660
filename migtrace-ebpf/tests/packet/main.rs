//! The packet walk against frames that are really cut: whatever a packet looks like, exactly the bytes on the wire
//! are counted.

mod examples;
mod properties;
mod walk;
