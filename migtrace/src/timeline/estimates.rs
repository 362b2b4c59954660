//! Lengths of time between two events, with their bounds.

use super::clocks::{Bounds, Clocks};
use super::migration::{Ending, MigrationFacts, Opening};
use crate::record::{Estimate, Method, PhaseName};
use crate::units::MonotonicNs;
use crate::vocabulary::Purpose;

/// The length between two instants. Its bounds hold for all true instants within their own bounds.
fn between(from: Bounds, to: Bounds, method: Method) -> Estimate {
    let value_ns = to.latest.saturating_sub(from.latest);
    Estimate {
        value_ns,
        low_ns: to.earliest.unwrap_or(from.latest).saturating_sub(from.latest).min(value_ns),
        high_ns: from.earliest.map(|earliest| to.latest.saturating_sub(earliest)),
        method,
    }
}

/// From the start to the end that QEMU reported. Without a report, to its death, its last reply or the last packet.
pub(super) fn total_time(migration: &MigrationFacts<'_>, clocks: &Clocks) -> Option<Estimate> {
    let start = match migration.start_stamp {
        Some(qemu_realtime_us) => clocks.written(migration.start, qemu_realtime_us),
        None => Bounds::exact(migration.start),
    };
    let from_packet =
        matches!(migration.opening, Opening::Unseen | Opening::Listening | Opening::GivenUpCopy);
    let (mut end, method) = match migration.end {
        Ending::Declared(at, _) => {
            let transition = migration.transitions.iter().rev().find(|m| m.at == at)?;
            let method = if from_packet { Method::FirstPacketToQmpEvent } else { Method::QmpEvents };
            (transition.bounds(clocks), method)
        }
        // The death is noticed after it happened, and the reply is given after what it says became true. Neither is
        // before the last thing that QEMU did.
        Ending::Died(at) | Ending::Replied(at, _) => {
            let did = migration.transitions.last().map(|m| m.at).max(migration.last_packet());
            (Bounds { earliest: did.map(|d| d.0.min(at.0)), latest: at.0 }, Method::LastSignOfLife)
        }
        Ending::Closed(at) => (Bounds::exact(at), Method::FirstAndLastPacket),
        Ending::Superseded(_) | Ending::Open(_) => return None,
    };
    if migration.opening == Opening::Listening {
        end.earliest = end.earliest.min(Some(source_ends_after(migration).0.min(end.latest)));
    }
    let mut estimate = between(start, end, method);
    // QEMU begins before it connects, so packets alone give only a lower bound.
    if !migration.start_seen || from_packet || migration.opening == Opening::Transfer {
        estimate.high_ns = None;
    }
    Some(estimate)
}

/// An instant, seen from the destination, at which the source had not yet reported the end of the migration. The
/// source waits for the last byte of the return path, if there is one. Otherwise it is done when the last bytes are
/// in its socket, and how many wait there is not known here.
fn source_ends_after(destination: &MigrationFacts<'_>) -> MonotonicNs {
    let streams = destination.flows.iter().filter(|f| f.purpose == Purpose::Ram);
    let returned =
        streams.filter_map(|f| f.last.as_ref()).filter_map(|counted| counted.last_byte_ns.tx).max();
    let active = destination.transitions.iter().find(|m| m.is_status(&PhaseName::Active)).map(|m| m.at);
    returned.max(active).unwrap_or(destination.start)
}

/// From QEMU's `setup`, or at a destination from the first packet of the memory stream, to its first `active`.
pub(super) fn setup_time(migration: &MigrationFacts<'_>, clocks: &Clocks) -> Option<Estimate> {
    let transition = |status| migration.transitions.iter().find(|m| m.is_status(status));
    let active = transition(&PhaseName::Active)?.bounds(clocks);
    if migration.opening != Opening::Listening {
        return Some(between(transition(&PhaseName::Setup)?.bounds(clocks), active, Method::QmpEvents));
    }
    let stream = migration.flows.iter().find(|f| f.purpose != Purpose::Nbd)?.first();
    // The source begins before it connects.
    let connected = between(Bounds::exact(stream), active, Method::FirstPacketToQmpEvent);
    Some(Estimate { high_ns: None, ..connected })
}

/// Nanoseconds from the migration's start.
pub(super) const fn offset(at: MonotonicNs, start: MonotonicNs) -> i64 {
    at.since(start)
}
