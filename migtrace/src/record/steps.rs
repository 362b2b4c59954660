//! What crossed the wire over time, as averages between two samples.

use super::Record;
use crate::units::Directions;

/// What crossed from one sample to a later one.
pub(crate) struct Step {
    /// The sample at which it begins; none where it begins with the first connection.
    pub(crate) since: Option<usize>,
    /// The sample at which it ends.
    pub(crate) until: usize,
    pub(crate) from_ns: i64,
    pub(crate) to_ns: i64,
    /// When the sample was taken: after the last packet, perhaps.
    pub(crate) sampled_ns: i64,
    pub(crate) wire_bytes: Directions<u64>,
    /// Of these, what the copies of disks took.
    pub(crate) disk: Directions<u64>,
}

impl Step {
    pub(crate) const fn length_ns(&self) -> u64 {
        self.to_ns.abs_diff(self.from_ns)
    }

    /// The average rate at which `bytes` of it crossed.
    #[expect(clippy::cast_precision_loss, reason = "what an f64 does not hold of it nobody sees")]
    pub(crate) const fn bits_per_s(&self, bytes: u64) -> f64 {
        let length_ns = self.length_ns();
        if length_ns == 0 { 0.0 } else { bytes as f64 * 8e9 / length_ns as f64 }
    }
}

/// The steps of a record, at most about `most`: samples that lie close together are one. The last step ends with the last
/// packet: what a later sample shows had crossed by then.
pub(crate) fn steps(record: &Record, most: u32) -> Vec<Step> {
    let samples = &record.traffic.samples;
    let Some(last) = samples.last() else { return Vec::new() };
    let (mut since, mut from_ns) = match beginning(record) {
        Some(first_ns) if first_ns < samples[0].at_ns => (None, first_ns),
        _ => (Some(0), samples[0].at_ns),
    };
    let end_ns = last_packet(record).unwrap_or(last.at_ns);
    let least_ns = last.at_ns.min(end_ns).abs_diff(from_ns) / u64::from(most.max(1));
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
