//! The figures of single migrations as gauges: of the last of each VM, or of all that have passed.

use std::collections::BTreeMap;

use super::labels::Labels;
use super::text::{Family, Kind, Sample, timestamp};
use crate::export::ids::side_of;
use crate::record::{Estimate, Record};

/// One value of one gauge.
#[derive(Clone, Debug)]
pub(super) struct Gauge {
    name: &'static str,
    labels: Labels,
    value: f64,
}

/// A gauge: its name, its unit, what it says.
type Definition = (&'static str, &'static str, &'static str);

/// The value of an estimate, its lower bound and its upper bound.
type OfEstimate = [Definition; 3];

const INFO: Definition =
    ("migtrace_last_migration", "", "The last migration of the VM that this host took part in");
const ENDED: Definition =
    ("migtrace_last_migration_end_timestamp_seconds", "seconds", "When it ended, since the Unix epoch");
const DURATION: OfEstimate = [
    ("migtrace_last_migration_duration_seconds", "seconds", "From its start to the end that QEMU reported"),
    ("migtrace_last_migration_duration_low_seconds", "seconds", "The lower bound of its duration"),
    (
        "migtrace_last_migration_duration_high_seconds",
        "seconds",
        "The upper bound of its duration, if there is one",
    ),
];
const STOP: OfEstimate = [
    ("migtrace_last_migration_stop_seconds", "seconds", "How long the guest did not run"),
    ("migtrace_last_migration_stop_low_seconds", "seconds", "The lower bound of the stop"),
    ("migtrace_last_migration_stop_high_seconds", "seconds", "The upper bound of the stop, if there is one"),
];
const NETWORK_GAP: OfEstimate = [
    ("migtrace_last_migration_network_gap_seconds", "seconds", "For how long the guest's taps were silent"),
    ("migtrace_last_migration_network_gap_low_seconds", "seconds", "The lower bound of the network gap"),
    (
        "migtrace_last_migration_network_gap_high_seconds",
        "seconds",
        "The upper bound of the network gap, if there is one",
    ),
];
const REACHABILITY_GAP: OfEstimate = [
    (
        "migtrace_last_migration_reachability_gap_seconds",
        "seconds",
        "For how long pings of the guest went unanswered",
    ),
    (
        "migtrace_last_migration_reachability_gap_low_seconds",
        "seconds",
        "The lower bound of the reachability gap",
    ),
    (
        "migtrace_last_migration_reachability_gap_high_seconds",
        "seconds",
        "The upper bound of the reachability gap, if there is one",
    ),
];
const WIRE_BYTES: Definition = (
    "migtrace_last_migration_wire_bytes",
    "bytes",
    "What it sent from the source to the destination, and received, on the wire",
);
const LOST_FACTS: Definition = (
    "migtrace_last_migration_lost_facts",
    "",
    "How many facts were lost: above 0, the figures are lower bounds",
);

/// All gauges, in the order in which they are written.
fn all() -> impl Iterator<Item = Definition> {
    let estimates = [DURATION, STOP, NETWORK_GAP, REACHABILITY_GAP];
    [INFO, ENDED].into_iter().chain(estimates.into_iter().flatten()).chain([WIRE_BYTES, LOST_FACTS])
}

const NANOSECONDS: f64 = 1e9;

/// The gauges of a migration that ended at this wall time. What it does not know has none.
#[expect(clippy::cast_precision_loss, reason = "a tenth of a microsecond in a hundred years")]
pub(super) fn of(record: &Record, ended_ns: i64) -> Vec<Gauge> {
    let labels = labels(record);
    let info = labels
        .clone()
        .with("migration_id", record.migration.id.as_deref().unwrap_or_default())
        .with("mode", record.migration.mode.as_str())
        .with("outcome", record.migration.outcome.as_str());
    let gauge = |(name, ..): Definition, value| Gauge { name, labels: labels.clone(), value };
    let mut gauges = vec![Gauge { labels: info, ..gauge(INFO, 1.0) }, gauge(ENDED, timestamp(ended_ns))];
    let downtime = &record.downtime;
    let estimates = [
        (DURATION, &record.total_time),
        (STOP, &downtime.stop),
        (NETWORK_GAP, &downtime.network),
        (REACHABILITY_GAP, &downtime.reachability),
    ];
    for ([value, low, high], estimate) in estimates {
        let Some(Estimate { value_ns, low_ns, high_ns, .. }) = estimate else { continue };
        for (definition, ns) in [(value, Some(*value_ns)), (low, Some(*low_ns)), (high, *high_ns)] {
            gauges.extend(ns.map(|ns| gauge(definition, ns as f64 / NANOSECONDS)));
        }
    }
    if let Some(total) = &record.traffic.total {
        for (direction, counters) in [("sent", &total.tx), ("received", &total.rx)] {
            let labels = labels.clone().with("direction", direction);
            gauges.push(Gauge { labels, ..gauge(WIRE_BYTES, counters.wire_bytes as f64) });
        }
    }
    let lost = &record.lost;
    let lost = [lost.ring_buffer, lost.flows, lost.hook_calls, lost.qmp_lines, lost.vcpus];
    gauges.push(gauge(LOST_FACTS, lost.into_iter().fold(0, u64::saturating_add) as f64));
    gauges
}

/// What names a migration's VM and this host's part.
pub(super) fn labels(record: &Record) -> Labels {
    Labels::of_vm(&record.vm).with("role", side_of(record).as_str())
}

/// The families of many migrations, each with its time if that is given. Those of one series are in the order of their times.
pub(super) fn families<'a>(migrations: impl IntoIterator<Item = (&'a [Gauge], Option<i64>)>) -> Vec<Family> {
    let mut samples: BTreeMap<&str, Vec<Sample>> = BTreeMap::new();
    for (gauges, at_ns) in migrations {
        for Gauge { name, labels, value } in gauges {
            samples.entry(name).or_default().push(Sample { at_ns, ..Sample::new(labels.clone(), *value) });
        }
    }
    let family = |(name, unit, help): Definition| {
        let mut samples = samples.remove(name).unwrap_or_default();
        samples.sort_by(|a, b| (&a.labels, a.at_ns).cmp(&(&b.labels, b.at_ns)));
        let kind = if name == INFO.0 { Kind::Info } else { Kind::Gauge };
        Family { name: name.to_owned(), unit, help, kind, samples }
    };
    all().map(family).collect()
}
