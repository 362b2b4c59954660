//! Pings an address and finds the gaps in which it did not answer. Requests and replies are stamped by programs in the
//! kernel.
//!
//! Neither libvirt nor QEMU has to be on this host. The host only has to reach the address.
//!
//! A [`Prober`] attaches the programs at the interface that leads to the address, sends echo requests from a thread of
//! its own, and yields a [`ProbeStep`] for each gap. [`Prober::finish`] gives the [`ProbeReport`].

mod ended_streams;
mod ending;
mod error;
mod interface;
mod options;
mod preflight;
mod prober;
mod report;
mod seen_gaps;
mod sender;
mod session;
mod socket;
#[cfg(test)]
mod testing;

use std::time::Duration;

pub use error::ProbeError;
pub use options::{MIN_INTERVAL, ProbeOptions};
pub use prober::{ProbeStatus, ProbeStep, Prober};
pub use report::{EchoStream, Preflight, ProbeEndReason, ProbeReport, ProbeStart, SCHEMA, Sending};

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
