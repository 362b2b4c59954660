//! What QEMU was doing, in order and without holes, and what crossed the wire meanwhile.

mod borders;
mod counts;

pub(super) use counts::{BytesUnknown, total};

use borders::borders;
use counts::{Snapshot, counts_at};

use super::migration::{Ending, MigrationFacts};
use crate::record::PhaseName;
use crate::units::MonotonicNs;

/// A phase, in this host's time and from this host's point of view.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Stretch {
    pub(super) name: PhaseName,
    pub(super) pass: Option<u64>,
    pub(super) start: MonotonicNs,
    pub(super) end: MonotonicNs,
    pub(super) traffic: Option<Snapshot>,
}

/// The phases, and why the bytes of some are unknown.
pub(super) fn phases(migration: &MigrationFacts<'_>) -> (Vec<Stretch>, Option<BytesUnknown>) {
    let borders = borders(migration);
    let end = borders.last().map_or(migration.start, |b| b.at).max(migration.end.at());
    let end = match migration.end {
        Ending::Superseded(_) => end,
        _ => end.max(migration.last_packet().unwrap_or(end)),
    };
    let (counts, unknown) = counts_at(migration, &borders);
    let mut stretches = Vec::with_capacity(borders.len());
    for (i, border) in borders.into_iter().enumerate() {
        stretches.push(Stretch {
            name: border.name,
            pass: border.pass,
            start: border.at,
            end,
            traffic: counts[i].zip(counts[i + 1]).map(|(from, to)| to.since(&from)),
        });
    }
    for i in 1..stretches.len() {
        stretches[i - 1].end = stretches[i].start;
    }
    (stretches, unknown)
}
