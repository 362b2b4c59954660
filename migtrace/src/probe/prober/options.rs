//! What to probe, and how.

use std::net::IpAddr;
use std::time::Duration;

use super::nanoseconds;
use crate::kernel::AttachChoice;

/// The shortest interval between requests.
pub const MIN_INTERVAL: Duration = Duration::from_micros(100);
/// Silences certainly shorter than this are no gaps, unless requests are further apart than this.
const MIN_GAP: Duration = Duration::from_millis(1);

/// What to probe, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProbeOptions {
    /// The address.
    pub target: IpAddr,
    /// Time between two requests, at least [`MIN_INTERVAL`]; none: only follow requests that others send.
    pub interval: Option<Duration>,
    /// Data bytes after the ICMP header.
    pub data_bytes: u16,
    /// How many requests to send; none: no limit.
    pub count: Option<u64>,
    /// Watch and send at this interface; none: the interface of the route.
    pub interface: Option<String>,
    /// Silences certainly shorter than this are no gaps; none: the interval, at least 1 ms.
    pub min_gap: Option<Duration>,
    /// Check for loss and rate limits first.
    pub preflight: bool,
    /// How to attach the programs.
    pub attach: AttachChoice,
}

impl ProbeOptions {
    /// Probes `target` every millisecond until stopped.
    #[must_use]
    pub fn new(target: IpAddr) -> Self {
        Self {
            target,
            interval: Some(Duration::from_millis(1)),
            data_bytes: 16,
            count: None,
            interface: None,
            min_gap: None,
            preflight: true,
            attach: AttachChoice::Auto,
        }
    }

    pub(super) fn min_gap_ns(&self) -> u64 {
        nanoseconds(self.min_gap.unwrap_or_else(|| self.interval.unwrap_or_default().max(MIN_GAP)))
    }
}
