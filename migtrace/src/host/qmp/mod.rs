//! The optional active client: asks a QEMU for its own figures over a QMP socket (`--qmp`).
//!
//! Everything else in migtrace watches from outside. This client speaks to QEMU, but it only asks: none of its commands
//! changes anything. It keeps every answer as JSON, since QEMU's lists of events and states grow with each release.

mod client;
mod error;
mod message;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use client::Qmp;
pub use error::QmpError;

/// How long to wait for QEMU by default. Its main loop may be held up for a second or more at the end of a migration.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
