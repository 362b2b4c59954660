//! What crossed the wire over time, as averages between two samples.

use crate::record::Record;
use crate::units::Directions;

/// The most steps of a curve: about as many as a screen shows apart.
const MOST_STEPS: usize = 180;

/// What crossed from one sample to a later one.
pub(in crate::report::html) struct Step {
    /// The sample at which it begins; none where it begins with the first connection.
    pub(in crate::report::html) since: Option<usize>,
    /// The sample at which it ends.
    pub(in crate::report::html) until: usize,
    pub(in crate::report::html) from_ns: i64,
    pub(in crate::report::html) to_ns: i64,
    /// When the sample was taken: after the last packet, perhaps.
    pub(in crate::report::html) sampled_ns: i64,
    pub(in crate::report::html) wire_bytes: Directions<u64>,
    /// Of these, what the copies of disks took.
    pub(in crate::report::html) disk: Directions<u64>,
}

impl Step {
    pub(in crate::report::html) const fn length_ns(&self) -> u64 {
        self.to_ns.abs_diff(self.from_ns)
    }
}

/// The steps of a record. Samples that lie close together are one. The last step ends with the last packet: what a later
/// sample shows had crossed by then.
pub(in crate::report::html) fn steps(record: &Record) -> Vec<Step> {
    let samples = &record.traffic.samples;
    let Some(last) = samples.last() else { return Vec::new() };
    let (mut since, mut from_ns) = match beginning(record) {
        Some(first_ns) if first_ns < samples[0].at_ns => (None, first_ns),
        _ => (Some(0), samples[0].at_ns),
    };
    let end_ns = last_packet(record).unwrap_or(last.at_ns);
    let least_ns = last.at_ns.min(end_ns).abs_diff(from_ns) / MOST_STEPS as u64;
    let mut steps = Vec::new();
    for (until, sample) in samples.iter().enumerate() {
        let to_ns = sample.at_ns.min(end_ns);
        let length_ns = to_ns.saturating_sub(from_ns).max(0).unsigned_abs();
        if length_ns == 0 || length_ns < least_ns && until + 1 < samples.len() {
            continue;
        }
        let before = since.map(|since| &samples[since]);
        let wire_bytes = more(sample.wire_bytes, before.map(|before| before.wire_bytes));
        let disk = more(
            sample.disk_wire_bytes.unwrap_or_default(),
            before.and_then(|before| before.disk_wire_bytes),
        );
        steps.push(Step { since, until, from_ns, to_ns, sampled_ns: sample.at_ns, wire_bytes, disk });
        (since, from_ns) = (Some(until), to_ns);
    }
    steps
}

fn more(now: Directions<u64>, before: Option<Directions<u64>>) -> Directions<u64> {
    let before = before.unwrap_or_default();
    Directions { tx: now.tx.saturating_sub(before.tx), rx: now.rx.saturating_sub(before.rx) }
}

/// Nothing crossed after it.
fn last_packet(record: &Record) -> Option<i64> {
    record.traffic.flows.iter().map(|flow| flow.last_ns).max()
}

/// When the first connection began, if all were seen from their beginning: until then nothing had crossed.
fn beginning(record: &Record) -> Option<i64> {
    let flows = &record.traffic.flows;
    let all_seen = flows.iter().all(|flow| flow.from_start);
    flows.iter().map(|flow| flow.first_ns).min().filter(|_| all_seen)
}
