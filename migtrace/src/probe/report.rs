//! What a probe found, and its JSON form.

use std::net::IpAddr;

use migtrace_ebpf::echo_session::bucket_start_ns;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::kernel::echo::Session;
use crate::record::Gap;
use crate::vocabulary::{AttachMode, Echo, NotMeasured, RoundTrip};

/// The schema name that every probe report carries.
pub const SCHEMA: &str = "migtrace.probe/1";

/// What a probe found. Times are nanoseconds since its start.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct ProbeReport {
    /// The name of the schema: `migtrace.probe/1`.
    pub schema: String,
    /// migtrace's version.
    pub migtrace: String,
    /// The host that observed.
    pub host: String,
    /// Its kernel's release.
    pub kernel: String,
    /// The probed address.
    pub target: IpAddr,
    /// The interface at which requests and replies were stamped.
    pub interface: String,
    /// How the programs were attached.
    pub attach: AttachMode,
    /// What was sent; null if the requests were somebody else's.
    pub sending: Option<Sending>,
    /// Silences certainly shorter than this are not gaps.
    pub min_gap_ns: u64,
    /// When the observation began.
    pub start: ProbeStart,
    /// How long it lasted.
    pub duration_ns: u64,
    /// Why it ended.
    pub end: ProbeEndReason,
    /// What the pre-flight found; null if there was none.
    pub preflight: Option<Preflight>,
    /// The streams of requests that were followed.
    pub streams: Vec<EchoStream>,
    /// What was not measured, and why.
    pub not_measured: Vec<NotMeasured>,
}

/// What was sent.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Sending {
    /// The configured time between two requests.
    pub interval_ns: u64,
    /// Data bytes after the ICMP header.
    pub data_bytes: u16,
    /// Requests that the kernel refused to send.
    pub refused: u64,
}

/// A stream of requests, and the gaps in its replies.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct EchoStream {
    /// The stream as a whole.
    pub echo: Echo,
    /// In the order of their starts.
    pub gaps: Vec<Gap>,
}

/// When an observation began.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct ProbeStart {
    /// Wall time, nanoseconds since the Unix epoch.
    pub realtime_ns: i64,
    /// Error bound of `realtime_ns`.
    pub error_ns: u64,
    /// The same instant on this host's `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
}

/// Why a probe ended.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeEndReason {
    /// All requests were sent.
    Count,
    /// The duration elapsed.
    Duration,
    /// The first gap ended.
    Gap,
    /// A signal asked to stop (SIGINT, SIGTERM, SIGHUP).
    Interrupted,
}

/// What the pre-flight found before the observation.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Preflight {
    /// Requests.
    pub sent: u64,
    /// Requests that were answered.
    pub answered: u64,
}

/// The figures of a stream as a whole.
pub(super) fn echo(session: &Session, round_trips: &[u64]) -> Echo {
    let state = &session.state;
    let gaps_between = state.sent.saturating_sub(1);
    Echo {
        target: session.target,
        peer: session.peer,
        identifier: session.identifier,
        sent: state.sent,
        answered: state.answered,
        lost: state.sent.saturating_sub(state.answered),
        late: state.late,
        duplicate: state.duplicate,
        interval_ns: state.last_request_ns.saturating_sub(state.first_request_ns).checked_div(gaps_between),
        longest_interval_ns: state.longest_interval_ns,
        round_trip: round_trip(round_trips, state.longest_round_trip_ns),
        worst_since_last_gap_ns: (state.worst_round_trip_ns > 0).then_some(state.worst_round_trip_ns),
    }
}

fn round_trip(counts: &[u64], max_ns: u64) -> Option<RoundTrip> {
    Some(RoundTrip {
        p50_ns: percentile(counts, 50)?.min(max_ns),
        p99_ns: percentile(counts, 99)?.min(max_ns),
        max_ns,
    })
}

/// An upper bound of the percentile: the end of the bucket that it is in.
fn percentile(counts: &[u64], percent: u64) -> Option<u64> {
    let total: u64 = counts.iter().sum();
    let rank = (total * percent).div_ceil(100);
    let mut seen = 0;
    let bucket = counts.iter().position(|count| {
        seen += count;
        seen >= rank && rank > 0
    })?;
    Some(bucket_start_ns(bucket as u32 + 1) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use migtrace_ebpf::echo_session::{BUCKETS, bucket};

    #[test]
    fn percentiles_are_exact_to_within_a_sixteenth() {
        let mut counts = vec![0; BUCKETS];
        for round_trip_ns in (1..=1_000).map(|n| n * 1_000) {
            counts[bucket(round_trip_ns) as usize] += 1;
        }
        let RoundTrip { p50_ns, p99_ns, max_ns } = round_trip(&counts, 1_000_000).unwrap();
        assert!((500_000..=531_250).contains(&p50_ns), "{p50_ns}");
        assert!((990_000..=1_000_000).contains(&p99_ns), "{p99_ns}");
        assert_eq!(max_ns, 1_000_000);
        assert_eq!(round_trip(&vec![0; BUCKETS], 0), None);
    }
}
