//! What the kernel has counted of a stream, as its figures.

use migtrace_ebpf::echo_session::bucket_start_ns;

use crate::kernel::echo::Session;
use crate::vocabulary::{Echo, RoundTrip};

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
