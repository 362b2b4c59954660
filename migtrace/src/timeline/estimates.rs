//! Lengths of time between two events, with their bounds.

use super::clocks::{Bounds, Clocks};
use super::migration::{End, Migration, Opening};
use crate::record::Estimate;
use crate::units::MonotonicNs;

const QMP_EVENTS: &str = "qmp-events";
const PACKETS: &str = "first-and-last-packet";

/// The length between two instants. The bounds hold whatever the true instants are within theirs.
fn between(from: Bounds, to: Bounds, method: &str) -> Estimate {
    let value_ns = to.latest.saturating_sub(from.latest);
    Estimate {
        value_ns,
        low_ns: to.earliest.unwrap_or(from.latest).saturating_sub(from.latest).min(value_ns),
        high_ns: from.earliest.map(|earliest| to.latest.saturating_sub(earliest)),
        method: method.to_owned(),
    }
}

/// From the start to the end that QEMU declared, or to its death.
pub(super) fn total_time(migration: &Migration<'_>, clocks: &Clocks) -> Option<Estimate> {
    let start = match migration.start_stamp {
        Some(qemu_realtime_us) => clocks.written(migration.start, qemu_realtime_us),
        None => Bounds::exact(migration.start),
    };
    let (end, method) = match migration.end {
        End::Declared(at, _) => {
            let mark = migration.marks.iter().rev().find(|m| m.at == at)?;
            let packets = matches!(migration.opening, Opening::Unseen);
            (clocks.bounds(mark), if packets { "first-packet-to-qmp-event" } else { QMP_EVENTS })
        }
        // The death is noticed later than it happens, but not before the last thing that QEMU did.
        End::Died(at) => {
            let did = migration.marks.last().map(|m| m.at).max(migration.last_packet());
            (Bounds { earliest: did.map(|d| d.0.min(at.0)), latest: at.0 }, "last-sign-of-life")
        }
        End::Closed(at) => (Bounds::exact(at), PACKETS),
        End::Superseded(_) | End::Open(_) => return None,
    };
    let mut estimate = between(start, end, method);
    // QEMU begins before it connects, so packets alone bound the time from below only.
    if !migration.start_seen || migration.opening == Opening::Transfer {
        estimate.high_ns = None;
    }
    Some(estimate)
}

/// From QEMU's `setup` to its first `active`.
pub(super) fn setup_time(migration: &Migration<'_>, clocks: &Clocks) -> Option<Estimate> {
    let mark = |status| migration.marks.iter().find(|m| m.is_status(status));
    Some(between(clocks.bounds(mark("setup")?), clocks.bounds(mark("active")?), QMP_EVENTS))
}

/// Nanoseconds from the migration's start.
pub(super) const fn offset(at: MonotonicNs, start: MonotonicNs) -> i64 {
    at.since(start)
}
