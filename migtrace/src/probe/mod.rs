//! Pings an address and finds the gaps in which it did not answer. Requests and replies are stamped by programs in the
//! kernel.
//!
//! Neither libvirt nor QEMU has to be on this host. The host only has to reach the address.
//!
//! A [`Prober`] attaches the programs at the interface that leads to the address, sends echo requests from a thread of
//! its own, and yields a [`ProbeStep`] for each gap. [`Prober::finish`] gives the [`ProbeReport`].

#[cfg(feature = "trace")]
mod prober;
mod report;

#[cfg(feature = "trace")]
pub use prober::{MIN_INTERVAL, ProbeError, ProbeOptions, ProbeStatus, ProbeStep, Prober};
pub use report::{EchoStream, Preflight, ProbeEndReason, ProbeReport, ProbeStart, SCHEMA, Sending};
