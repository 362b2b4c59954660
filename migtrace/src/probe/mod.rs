//! Pings an address and finds the gaps in which it did not answer. Requests and replies are stamped by programs in the
//! kernel.
//!
//! Neither libvirt nor QEMU has to be on this host. The host only has to reach the address.
//!
//! A [`Prober`] attaches the programs at the interface that leads to the address, sends echo requests from a thread of
//! its own, and yields a [`ProbeStep`] for each gap. [`Prober::finish`] gives the [`ProbeReport`].

#[cfg(feature = "trace")]
mod ended_streams;
#[cfg(feature = "trace")]
mod ending;
#[cfg(feature = "trace")]
mod error;
#[cfg(feature = "trace")]
mod figures;
#[cfg(feature = "trace")]
mod interface;
#[cfg(feature = "trace")]
mod options;
#[cfg(feature = "trace")]
mod preflight;
#[cfg(feature = "trace")]
mod prober;
mod report;
#[cfg(feature = "trace")]
mod seen_gaps;
#[cfg(feature = "trace")]
mod sender;
#[cfg(feature = "trace")]
mod session;
#[cfg(feature = "trace")]
mod socket;
#[cfg(all(test, feature = "trace"))]
mod testing;

#[cfg(feature = "trace")]
use std::time::Duration;

#[cfg(feature = "trace")]
pub use error::ProbeError;
#[cfg(feature = "trace")]
pub use options::{MIN_INTERVAL, ProbeOptions};
#[cfg(feature = "trace")]
pub use prober::{ProbeStatus, ProbeStep, Prober};
pub use report::{EchoStream, Preflight, ProbeEndReason, ProbeReport, ProbeStart, SCHEMA, Sending};

#[cfg(feature = "trace")]
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
