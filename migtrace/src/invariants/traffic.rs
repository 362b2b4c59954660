//! Traffic: the total, the flows, and what was counted on the way.

use super::violations::Violations;
use crate::record::Record;
use crate::units::{Counters, Directions};
use crate::vocabulary::Echo;

/// The sum of each counter, with its name.
pub(super) fn sums<'a>(
    counts: impl IntoIterator<Item = &'a Directions<Counters>>,
) -> [(&'static str, u64); 8] {
    let mut sum = Directions::<Counters>::default();
    for count in counts {
        sum += *count;
    }
    [
        ("tx wire bytes", sum.tx.wire_bytes),
        ("tx payload bytes", sum.tx.payload_bytes),
        ("tx segments", sum.tx.segments),
        ("tx skbs", sum.tx.skbs),
        ("rx wire bytes", sum.rx.wire_bytes),
        ("rx payload bytes", sum.rx.payload_bytes),
        ("rx segments", sum.rx.segments),
        ("rx skbs", sum.rx.skbs),
    ]
}

pub(super) fn traffic(record: &Record, found: &mut Violations) {
    let traffic = &record.traffic;
    found.unless(traffic.total.is_some() != traffic.flows.is_empty(), || {
        format!("traffic: the total of {} flows is {:?}", traffic.flows.len(), traffic.total)
    });
    found.unless(traffic.samples.is_empty() == traffic.flows.is_empty(), || {
        format!("traffic: {} flows and {} samples", traffic.flows.len(), traffic.samples.len())
    });
    if let Some(total) = &traffic.total {
        let flows = sums(traffic.flows.iter().map(|flow| &flow.counters));
        for ((name, sum), (_, total)) in flows.into_iter().zip(sums([total])) {
            found.unless(sum <= total, || format!("traffic: {name}: the flows have {sum} of {total}"));
        }
    }
    let resent: Option<Vec<u64>> = traffic.flows.iter().map(|flow| flow.retransmitted_segments).collect();
    let resent = resent.filter(|counts| !counts.is_empty());
    let resent = resent.map(|counts| counts.into_iter().fold(0, u64::saturating_add));
    found.unless(resent == traffic.retransmitted_segments, || {
        format!("traffic: {:?} were resent, and by the flows {resent:?}", traffic.retransmitted_segments)
    });
    let fragments = traffic.fragments.is_none_or(|seen| seen.tx.skbs > 0 || seen.rx.skbs > 0);
    found.unless(fragments, || "traffic: fragments were seen, and there are none".to_owned());
}

/// What the record copies from the facts, and what therefore holds if the facts were coherent.
pub(super) fn copied(record: &Record, found: &mut Violations) {
    for flow in &record.traffic.flows {
        found.unless(flow.first_ns <= flow.last_ns, || {
            format!("facts: {} began at {} and ended at {}", flow.flow, flow.first_ns, flow.last_ns)
        });
    }
    for (index, pair) in record.traffic.samples.windows(2).enumerate() {
        let (before, after) = (pair[0].wire_bytes, pair[1].wire_bytes);
        found.unless(before.tx <= after.tx && before.rx <= after.rx, || {
            format!("facts: sample {index} has {before:?}, and the next {after:?}")
        });
    }
    for sample in &record.traffic.samples {
        let (all, disk) = (sample.wire_bytes, sample.disk_wire_bytes.unwrap_or_default());
        found.unless(disk.tx <= all.tx && disk.rx <= all.rx, || {
            format!("facts: the disks took more than all together: {sample:?}")
        });
    }
    if let (Some(last), Some(total)) = (record.traffic.samples.last(), &record.traffic.total) {
        let within = last.wire_bytes.tx <= total.tx.wire_bytes && last.wire_bytes.rx <= total.rx.wire_bytes;
        found.unless(within, || format!("facts: the last sample is above the total: {last:?}"));
    }
    if let Some(echo) = &record.echo {
        echo_counts(echo, found);
    }
}

pub(super) fn echo_counts(echo: &Echo, found: &mut Violations) {
    let counts = echo.sent == echo.answered.saturating_add(echo.lost) && echo.late <= echo.answered;
    found.unless(counts, || format!("facts: the echo requests do not add up: {echo:?}"));
    let known = echo.interval_ns.is_some() == (echo.sent > 1);
    found.unless(known, || format!("facts: an interval of {} echo requests", echo.sent));
    let none_seen = echo.answered == 0 && echo.round_trip.is_some();
    found.unless(!none_seen, || "facts: a round trip without a reply".to_owned());
    let sorted = echo.round_trip.is_none_or(|trip| trip.p50_ns <= trip.p99_ns && trip.p99_ns <= trip.max_ns);
    found.unless(sorted, || format!("facts: {:?}", echo.round_trip));
    let seen = echo.worst_since_last_gap_ns != Some(0);
    found.unless(seen, || "facts: 0 stands for a round trip that was not seen".to_owned());
}
