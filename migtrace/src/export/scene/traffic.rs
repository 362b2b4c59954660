//! What crossed the wire: how fast, how much so far, and over which connections.

use super::notes::{known, note, traffic};
use super::{Content, Slice, Track, Unit};
use crate::record::{FlowRecord, Record, Sample, Step, steps};
use crate::units::Directions;

/// As many as a record has samples.
const MOST_STEPS: u32 = 2_000;

pub(super) fn tracks(record: &Record) -> Vec<Track> {
    let mut tracks = Vec::new();
    let has_disks = record.traffic.samples.iter().any(|sample| sample.disk_wire_bytes.is_some());
    let steps = steps(record, MOST_STEPS);
    for series in Series::ALL.iter().filter(|series| series.is_shown(has_disks)) {
        let points = rates(&steps, series.part);
        if !points.is_empty() {
            tracks.push(Track {
                name: series.name.to_owned(),
                content: Content::Counter(Unit::BitsPerS, points),
            });
        }
    }
    for series in Series::ALL.iter().filter(|series| series.is_shown(has_disks)) {
        let points = sums(record, &steps, series.part);
        if !points.is_empty() {
            let name = format!("{} so far", series.name);
            tracks.push(Track { name, content: Content::Counter(Unit::Bytes, points) });
        }
    }
    tracks.extend(Track::overlapping("connections", record.traffic.flows.iter().map(connection).collect()));
    tracks
}

/// What a counter counts: a part of the wire bytes and of those for disks.
type Of = fn(&Directions<u64>, &Directions<u64>) -> u64;

struct Series {
    name: &'static str,
    /// Whether it is only shown with disks (true), or only without (false); none for always.
    with_disks: Option<bool>,
    part: Of,
}

impl Series {
    const ALL: [Self; 4] = [
        Self { name: "sent", with_disks: Some(false), part: |all, _| all.tx },
        Self {
            name: "sent for memory",
            with_disks: Some(true),
            part: |all, disk| all.tx.saturating_sub(disk.tx),
        },
        Self { name: "sent for disks", with_disks: Some(true), part: |_, disk| disk.tx },
        Self { name: "received", with_disks: None, part: |all, _| all.rx },
    ];

    fn is_shown(&self, has_disks: bool) -> bool {
        self.with_disks.is_none_or(|with_disks| with_disks == has_disks)
    }
}

/// The average of each step holds for it. After the last packet nothing crossed.
fn rates(steps: &[Step], part: Of) -> Vec<(i64, f64)> {
    let rate = |step: &Step| (step.from_ns, step.bits_per_s(part(&step.wire_bytes, &step.disk)));
    let end = steps.last().map(|last| (last.to_ns, 0.0));
    steps.iter().map(rate).chain(end).collect()
}

/// The sum at the beginning, and at the end of each step.
#[expect(clippy::cast_precision_loss, reason = "exact up to 8 PiB")]
fn sums(record: &Record, steps: &[Step], part: Of) -> Vec<(i64, f64)> {
    let sum = |sample: &Sample| part(&sample.wire_bytes, &sample.disk_wire_bytes.unwrap_or_default()) as f64;
    let samples = &record.traffic.samples;
    let begin =
        steps.first().map(|first| (first.from_ns, first.since.map_or(0.0, |since| sum(&samples[since]))));
    begin.into_iter().chain(steps.iter().map(|step| (step.to_ns, sum(&samples[step.until])))).collect()
}

fn connection(flow: &FlowRecord) -> Slice {
    let mut notes = vec![note("interface", flow.interface.as_str()), note("from_start", flow.from_start)];
    notes.extend(traffic(&flow.counters));
    notes.extend(known("retransmitted_segments", flow.retransmitted_segments));
    Slice::new(format!("{}: {}", flow.purpose.name(), flow.flow), flow.first_ns, flow.last_ns, notes)
}
