//! What QEMU was doing, and what crossed the wire meanwhile.

use super::content::{Column, NONE, Piece, Section, UNKNOWN, clean, left, right, table};
use super::quantities::{bytes, duration, offset, rate};
use crate::record::{Phase, Record};

/// The table's columns, from left to right.
const COLUMNS: [Column<Phase>; 7] = [
    left("Phase", |phase| clean(phase.name.as_str())),
    right("Pass", |phase| phase.pass.map_or(NONE.to_owned(), |pass| pass.to_string())),
    right("Start", |phase| offset(phase.start_ns)),
    right("Duration", |phase| duration(length_ns(phase))),
    right("Sent", |phase| phase.traffic.map_or(UNKNOWN.to_owned(), |traffic| bytes(traffic.tx.wire_bytes))),
    right("Received", |phase| {
        phase.traffic.map_or(UNKNOWN.to_owned(), |traffic| bytes(traffic.rx.wire_bytes))
    }),
    right("Rate", |phase| {
        let Some(traffic) = phase.traffic else { return UNKNOWN.to_owned() };
        rate(traffic.tx.wire_bytes, length_ns(phase)).unwrap_or_else(|| NONE.to_owned())
    }),
];

pub(super) fn section(record: &Record) -> Section {
    Section::titled("Phases (wire bytes)", vec![Piece::Table(table(&COLUMNS, &record.phases))])
}

pub(super) fn length_ns(phase: &Phase) -> u64 {
    u64::try_from(phase.end_ns.saturating_sub(phase.start_ns)).unwrap_or(0)
}
