//! Quantities that must not be mixed up, and counters with one meaning on every layer.

use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An instant of `CLOCK_MONOTONIC` in nanoseconds: the clock of every kernel stamp (`bpf_ktime_get_ns`).
///
/// It has no meaning outside its host and its boot; a [`ClockSample`] ties it to wall time. A log holds no instant
/// after [`MonotonicNs::MAX`].
#[derive(Clone, Copy, Debug, Default, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct MonotonicNs(pub u64);

impl MonotonicNs {
    /// The last instant that the kernel's clock can show, 292 years after the boot (`KTIME_MAX`).
    pub const MAX: Self = Self(i64::MAX.cast_unsigned());

    /// Nanoseconds from `earlier` to `self`; negative when `self` came first. Saturates.
    #[must_use]
    pub const fn since(self, earlier: Self) -> i64 {
        let (ns, negative) =
            if self.0 >= earlier.0 { (self.0 - earlier.0, false) } else { (earlier.0 - self.0, true) };
        let ns = if ns > Self::MAX.0 { i64::MAX } else { ns.cast_signed() };
        if negative { -ns } else { ns }
    }

    /// The instant `by_ns` later; earlier for a negative number. Saturates.
    pub(crate) fn later_by(self, by_ns: i64) -> Self {
        Self(self.0.saturating_add_signed(by_ns)).min(Self::MAX)
    }
}

impl<'de> Deserialize<'de> for MonotonicNs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let at = Self(u64::deserialize(deserializer)?);
        if at > Self::MAX {
            return Err(serde::de::Error::custom(format_args!(
                "{} ns is not a time of a monotonic clock, which ends at {}",
                at.0,
                Self::MAX.0
            )));
        }
        Ok(at)
    }
}

/// What relates a host's monotonic clock to its wall clock: `realtime = monotonic + offset_ns`, to within `error_ns`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct ClockSample {
    /// `CLOCK_REALTIME - CLOCK_MONOTONIC` in nanoseconds.
    pub offset_ns: i64,
    /// How far `offset_ns` may be off, in nanoseconds: half the time between the two readings of the monotonic clock,
    /// just before and just after the reading of the wall clock.
    pub error_ns: u64,
}

impl ClockSample {
    /// Wall time of a monotonic instant, in nanoseconds since the Unix epoch, to within `error_ns`.
    #[must_use]
    pub const fn realtime_ns(&self, at: MonotonicNs) -> i64 {
        MonotonicNs::since(at, MonotonicNs(0)).saturating_add(self.offset_ns)
    }
}

/// NTP slews a clock by at most this many millionths. chrony can do more, if it is far off after its start.
pub(crate) const MOST_SLEW_PPM: u64 = 500;

/// How far a crystal's rate may be off, in millionths.
pub(crate) const MOST_CRYSTAL_PPM: u64 = 100;

/// What crossed an interface in one direction, as it is on the wire: each segment of a GSO packet counts.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Counters {
    /// L2 bytes of all segments, headers and retransmissions included, without FCS and preamble.
    pub wire_bytes: u64,
    /// TCP payload bytes in those segments, retransmissions included.
    pub payload_bytes: u64,
    /// Segments: frames on the wire.
    pub segments: u64,
    /// Socket buffers: how many (possibly aggregated) packets the kernel handled.
    pub skbs: u64,
}

impl Counters {
    /// `self - earlier`, field by field; 0 where the earlier value is larger.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            wire_bytes: self.wire_bytes.saturating_sub(earlier.wire_bytes),
            payload_bytes: self.payload_bytes.saturating_sub(earlier.payload_bytes),
            segments: self.segments.saturating_sub(earlier.segments),
            skbs: self.skbs.saturating_sub(earlier.skbs),
        }
    }
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.wire_bytes = self.wire_bytes.saturating_add(other.wire_bytes);
        self.payload_bytes = self.payload_bytes.saturating_add(other.payload_bytes);
        self.segments = self.segments.saturating_add(other.segments);
        self.skbs = self.skbs.saturating_add(other.skbs);
    }
}

/// A pair of values, one for each direction. In an event, `tx` is what this host sent. In a record, it is what went from
/// the source to the destination, on whichever host the record was made.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Directions<T> {
    /// Sent.
    pub tx: T,
    /// Received.
    pub rx: T,
}

impl<T> Directions<T> {
    /// The same pair, seen from the other end.
    #[must_use]
    pub fn swapped(self) -> Self {
        Self { tx: self.rx, rx: self.tx }
    }

    /// Applies `f` to both directions.
    pub fn map<U>(self, f: impl Fn(T) -> U) -> Directions<U> {
        Directions { tx: f(self.tx), rx: f(self.rx) }
    }
}

impl Directions<Counters> {
    /// `self - earlier` in both directions.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self { tx: self.tx.since(&earlier.tx), rx: self.rx.since(&earlier.rx) }
    }
}

impl std::ops::AddAssign for Directions<Counters> {
    fn add_assign(&mut self, other: Self) {
        self.tx += other.tx;
        self.rx += other.rx;
    }
}

/// One TCP connection, named from this host's side.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, JsonSchema, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Flow {
    /// This host's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
}

impl std::fmt::Display for Flow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} - {}", self.local, self.remote)
    }
}

/// A duration as one writes it on the command line: `500us`, `2s`.
pub(crate) fn duration_argument(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 {
        return format!("{}s", duration.as_secs());
    }
    format!("{}us", duration.as_micros())
}
