//! What was measured of one migration, and the truth.

use anyhow::{Context as _, Result};
use migtrace_lab::{ObservedEvent, Side};
use serde_json::Value;

const MS: i64 = 1_000_000;
/// QEMU stamps its events in whole microseconds.
const STAMP_NS: i64 = 1_000;

/// A figure with its bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounded {
    pub(super) low: i64,
    pub(super) value: i64,
    pub(super) high: i64,
}

impl Bounded {
    pub(super) const fn width_ns(self) -> u64 {
        self.high.abs_diff(self.low)
    }

    /// Whether the truth, which is known but for `uncertain`, can lie within the bounds.
    pub(super) const fn allows(self, truth: i64, uncertain: i64) -> bool {
        self.low <= truth + uncertain && truth - uncertain <= self.high
    }
}

/// What was measured of one migration, and the truth.
#[derive(Debug)]
pub(super) struct Measured {
    /// The other host's clock less that of the first, which is 0.
    pub(super) clock: Bounded,
    /// The time from STOP to RESUME.
    pub(super) stop: Bounded,
    /// Its true length.
    pub(super) true_ns: i64,
    /// QEMU's own `downtime`.
    pub(super) qemu_ns: i64,
    /// libvirt's `Total downtime`, if libvirt has driven the migration.
    pub(super) libvirt_ns: Option<i64>,
}

impl Measured {
    /// From a record of both hosts' logs, and what drove the migration has received.
    pub(super) fn of(
        record: &Value,
        events: &[ObservedEvent],
        qemu_ms: u64,
        libvirt_ms: Option<u64>,
    ) -> Result<Self> {
        let (clock, stop) =
            figures(record).with_context(|| format!("the record lacks a figure: {record}"))?;
        let true_us =
            stamp_us(events, Side::Destination, "RESUME")? - stamp_us(events, Side::Source, "STOP")?;
        Ok(Self {
            clock,
            stop,
            true_ns: true_us * 1_000,
            qemu_ns: qemu_ms.cast_signed() * MS,
            libvirt_ns: libvirt_ms.map(|ms| ms.cast_signed() * MS),
        })
    }

    /// How far a length is from the true one.
    pub(super) const fn off_by(&self, length_ns: i64) -> u64 {
        length_ns.abs_diff(self.true_ns)
    }

    pub(super) const fn is_stop_outside(&self) -> bool {
        !self.stop.allows(self.true_ns, STAMP_NS)
    }
}

/// What a record says of the other host's clock, and of the time from STOP to RESUME. None if it lacks one.
fn figures(record: &Value) -> Option<(Bounded, Bounded)> {
    let alignment = &record["observers"][1]["alignment"];
    let of_clock = |name: &str| alignment[name].as_i64();
    let downtime = &record["downtime"];
    let of_stop = |name: &str| downtime["stop"][name].as_i64();
    // The guest itself may run only later than RESUME, so the stop has no upper bound; its parts end at RESUME.
    let parts = downtime["parts"].as_array()?.iter();
    let high = parts.map(|part| part["length"]["high_ns"].as_i64()).sum::<Option<i64>>()?;
    let clock =
        Bounded { low: of_clock("low_ns")?, value: of_clock("offset_ns")?, high: of_clock("high_ns")? };
    Some((clock, Bounded { low: of_stop("low_ns")?, value: of_stop("value_ns")?, high }))
}

/// QEMU's own stamp of the first event of this name from this side.
fn stamp_us(events: &[ObservedEvent], side: Side, name: &str) -> Result<i64> {
    let observed = events.iter().find(|observed| observed.side == side && observed.event.name == name);
    let event = &observed.with_context(|| format!("QEMU has not said {name}"))?.event;
    Ok(event.qemu_realtime_us.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use migtrace_lab::QmpEvent;
    use serde_json::json;

    fn observed(side: Side, name: &str, qemu_realtime_us: u64) -> ObservedEvent {
        let event = QmpEvent { name: name.into(), data: Value::Null, qemu_realtime_us, received_ns: 0 };
        ObservedEvent { side, event }
    }

    fn record(clock_low_ns: i64, last_high_ns: i64) -> Value {
        json!({
            "observers": [{}, { "alignment": { "offset_ns": 10, "low_ns": clock_low_ns, "high_ns": 5_000 } }],
            "downtime": {
                "stop": { "value_ns": 30_020_000, "low_ns": 29_990_000, "high_ns": null },
                "parts": [
                    { "length": { "value_ns": 10_000_000, "low_ns": 9_990_000, "high_ns": 10_010_000 } },
                    { "length": { "value_ns": 20_020_000, "low_ns": 0, "high_ns": last_high_ns } },
                ],
            },
        })
    }

    #[test]
    fn a_true_length_is_compared_with_the_bounds_and_with_each_figure() {
        let events = [
            observed(Side::Source, "STOP", 5_000_000),
            observed(Side::Source, "RESUME", 5_001_000),
            observed(Side::Destination, "RESUME", 5_030_000),
        ];
        let of = |record: &Value| Measured::of(record, &events, 28, Some(33)).unwrap();
        let right = of(&record(-5_000, 20_030_000));
        assert_eq!((right.true_ns, right.off_by(right.stop.value)), (30_000_000, 20_000));
        assert_eq!(
            (right.off_by(right.qemu_ns), right.off_by(right.libvirt_ns.unwrap())),
            (2_000_000, 3_000_000)
        );
        assert_eq!((right.stop.width_ns(), right.clock.width_ns()), (50_000, 10_000));
        assert!(!right.is_stop_outside() && right.clock.allows(0, 0));
        let wrong = of(&record(1, 19_980_000));
        assert!(wrong.is_stop_outside() && !wrong.clock.allows(0, 0));
    }
}
