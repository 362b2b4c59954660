//! Works out gaps, with their bounds, from the stamps of echo requests and replies.
//!
//! `migtrace_ebpf::echo_session` explains which requests reveal a gap, and why they bound it. Here the bounds are
//! computed. They hold if no message on the path is slower than the longest round trip seen around the gap, and if
//! requests lost around a gap were lost because of it.
//!
//! A gap whose lower bound is above 0 is certain. The others are possible: if a silence caused the lost and late
//! requests, it lies within the gap.

use migtrace_ebpf::abi;

use super::moment::Moment;
use super::prober::Prober;
use crate::event::EchoGap;
use crate::record::{Estimate, EstimatedInstant, Gap, Method};
use crate::units::MonotonicNs;

#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

/// A gap that ends this long before a migration, or begins this long after it, does not belong to the migration. The
/// guest may be slow before it moves, and the network may need seconds to find it again.
const BEFORE_NS: u64 = 1_000_000_000;
const AFTER_NS: u64 = 10_000_000_000;
/// A message may be held up on its way for so long, by a CPU that has something else to do.
const HELD_UP_NS: u64 = 1_000_000;

/// A gap and what it was worked out from.
#[derive(Clone, Debug)]
pub(super) struct BoundedGap<'a> {
    pub(super) gap: Gap,
    pub(super) seen: &'a EchoGap,
}

impl BoundedGap<'_> {
    /// By how much its two ends may be off together.
    pub(super) fn error(&self) -> i64 {
        i64::try_from(self.gap.error_ns).unwrap_or(i64::MAX)
    }
}

/// The gaps around a migration that a host has seen, in the order of their starts, including those that turned out
/// implausible.
pub(super) fn of<'a>(prober: &Prober<'a>) -> Vec<BoundedGap<'a>> {
    let Prober { facts, clock, start, end, .. } = *prober;
    let first = start.0.saturating_sub(BEFORE_NS);
    let last = end.0.saturating_add(AFTER_NS);
    let origin = clock.origin(end);
    let error = |at: MonotonicNs| Moment { value: at.since(origin), ..clock.at(at) }.error_ns();
    let bounded = |seen: &'a EchoGap, gap: Gap| {
        let error_ns = error(seen.answered_request_ns).max(error(seen.resumed_ns));
        BoundedGap { gap: Gap { error_ns, ..gap }, seen }
    };
    let ended = facts.echo_gaps.touching(MonotonicNs(first), MonotonicNs(last));
    let ended = ended.map(|seen| bounded(seen, closed(seen, origin)));
    let open = facts.echo_end.as_ref().and_then(|(_, end)| end.open.as_ref());
    let open = open.filter(|gap| gap.answered_request_ns.0 <= last);
    let open = open.map(|seen| bounded(seen, self::open(seen, origin)));
    let mut gaps: Vec<_> = ended.chain(open).collect();
    gaps.sort_by_key(|bounded| bounded.gap.start.value_ns);
    gaps
}

/// An instant's bounds.
#[derive(Clone, Copy)]
pub(super) struct InstantBounds {
    low: MonotonicNs,
    high: MonotonicNs,
}

impl InstantBounds {
    /// `high` is never before `low`: bounds that contradict each other only say that both are close.
    fn new(low: MonotonicNs, high: MonotonicNs) -> Self {
        Self { low, high: high.max(low) }
    }

    /// Whether it can be this instant.
    pub(super) fn holds(self, at: MonotonicNs) -> bool {
        self.low <= at && at <= self.high
    }

    const fn middle(self) -> u64 {
        self.low.0.midpoint(self.high.0)
    }

    const fn since(self, origin: MonotonicNs) -> EstimatedInstant {
        EstimatedInstant {
            value_ns: MonotonicNs(self.middle()).since(origin),
            low_ns: self.low.since(origin),
            high_ns: self.high.since(origin),
        }
    }
}

const fn later(at: MonotonicNs, by_ns: u64) -> MonotonicNs {
    MonotonicNs(at.0.saturating_add(by_ns))
}

/// A gap that a reply has ended. Its start counts from `origin`.
pub(crate) fn closed(seen: &EchoGap, origin: MonotonicNs) -> Gap {
    if seen.may_be { possible(seen, origin) } else { certain(seen, origin) }
}

/// A possible gap: its only sign is that a request overtook others.
///
/// Those may have been lost or late for another reason, so there may have been no silence. If there was one, its best
/// length is the one that fits all of them. It began halfway between the last answered request and the first
/// overtaken one. It ended halfway between the last overtaken request and the one that overtook it. Each took half of
/// the last round trip to reach the address.
fn possible(seen: &EchoGap, origin: MonotonicNs) -> Gap {
    let round_trip_ns = seen.round_trip_before_ns.max(seen.round_trip_after_ns);
    let (earliest, latest) = widest(seen);
    // The overtaken requests reached the address within a round trip, and found it silent.
    let start = InstantBounds::new(earliest, later(seen.before_resumed_ns, round_trip_ns).min(latest));
    let last_round_trip_ns = seen.resumed_ns.0.saturating_sub(seen.resuming_request_ns.0);
    let from_ns = seen.answered_request_ns.0.midpoint(seen.first_waiting_ns.0);
    let until_ns = seen.before_resumed_ns.0.midpoint(seen.resuming_request_ns.0);
    let begins = from_ns.saturating_add(last_round_trip_ns / 2).clamp(start.low.0, start.high.0);
    let high_ns = latest.0.saturating_sub(earliest.0);
    Gap {
        error_ns: 0,
        start: EstimatedInstant { value_ns: MonotonicNs(begins).since(origin), ..start.since(origin) },
        length: Estimate {
            value_ns: until_ns.saturating_sub(from_ns).min(high_ns),
            low_ns: 0,
            high_ns: Some(high_ns),
            method: Method::OvertakenRequests,
        },
        lost: seen.requests.saturating_sub(seen.waited).saturating_sub(seen.prompt),
        late: seen.waited,
        duplicate: seen.duplicate,
        interval_at_start_ns: seen.first_waiting_ns.0.saturating_sub(seen.answered_request_ns.0),
        interval_at_end_ns: Some(seen.resuming_request_ns.0.saturating_sub(seen.before_resumed_ns.0)),
        round_trip_before_ns: seen.round_trip_before_ns,
        round_trip_after_ns: last_round_trip_ns,
        worst_round_trip_ns: seen.worst_round_trip_ns,
    }
}

/// The instants between which a possible gap lies, as the kernel side judged it.
fn widest(seen: &EchoGap) -> (MonotonicNs, MonotonicNs) {
    let (earliest_ns, latest_ns) = abi::EchoGap {
        answered_request_ns: seen.answered_request_ns.0,
        last_reply_ns: seen.last_reply_ns.0,
        first_waiting_ns: seen.first_waiting_ns.0,
        before_resumed_ns: seen.before_resumed_ns.0,
        resumed_ns: seen.resumed_ns.0,
        round_trip_before_ns: seen.round_trip_before_ns,
        round_trip_after_ns: seen.round_trip_after_ns,
        worst_round_trip_ns: seen.worst_round_trip_ns,
        shortest_round_trip_ns: seen.shortest_round_trip_ns,
        longest_interval_ns: seen.longest_interval_ns,
        disordered: seen.disordered,
        ..abi::EchoGap::default()
    }
    .widest_ns();
    (MonotonicNs(earliest_ns), MonotonicNs(latest_ns))
}

/// A gap that was certain when the reply came that ended it.
fn certain(seen: &EchoGap, origin: MonotonicNs) -> Gap {
    let round_trip_ns = seen.round_trip_before_ns.max(seen.round_trip_after_ns);
    let start = silent_from(seen);
    let waited_ns = seen.resumed_ns.0.saturating_sub(seen.resuming_request_ns.0);
    let a_round_trip_before = MonotonicNs(seen.resumed_ns.0.saturating_sub(round_trip_ns));
    let interval_at_end_ns = seen.resuming_request_ns.0.saturating_sub(seen.before_resumed_ns.0);
    // After a move to another host only a few round trips are known, and the next may be the longest so far. So a
    // reply that is not much later does not prove that its request waited.
    let not_much_later_ns = round_trip_ns.max(interval_at_end_ns.min(HELD_UP_NS));
    let was_waiting = waited_ns > round_trip_ns.saturating_add(not_much_later_ns);
    let earliest_end = if was_waiting {
        a_round_trip_before
    } else if seen.overtaken > 0 {
        // The replies overtook each other, so the request before may have been answered too. A request sent a round
        // trip earlier was not.
        let sent_before = MonotonicNs(a_round_trip_before.0.saturating_sub(interval_at_end_ns));
        seen.before_resumed_ns.min(sent_before)
    } else {
        seen.before_resumed_ns
    };
    let end = InstantBounds::new(earliest_end.max(start.low).min(seen.resumed_ns), seen.resumed_ns);
    let low_ns = end.low.0.saturating_sub(start.high.0);
    let high_ns = end.high.0.saturating_sub(start.low.0);
    // If round trips are slower after the gap than before, requests that seem to have waited may not have. But a
    // reply that took longer than all others was late, whether or not its request waited.
    let (late, prompt) = if waited_ns > round_trip_ns {
        (seen.overtaken.saturating_add(seen.waited), seen.prompt)
    } else {
        (seen.overtaken, seen.prompt.saturating_add(seen.waited))
    };
    let lost = seen.requests.saturating_sub(late).saturating_sub(prompt);
    let by_losses = !was_waiting && lost > 0;
    Gap {
        error_ns: 0,
        start: start.since(origin),
        length: Estimate {
            value_ns: end.middle().saturating_sub(start.middle()).clamp(low_ns, high_ns),
            low_ns,
            high_ns: Some(high_ns),
            method: if by_losses { Method::LostRequests } else { Method::DelayedReplies },
        },
        lost,
        late,
        duplicate: seen.duplicate,
        interval_at_start_ns: seen.first_waiting_ns.0.saturating_sub(seen.answered_request_ns.0),
        interval_at_end_ns: Some(interval_at_end_ns),
        round_trip_before_ns: seen.round_trip_before_ns,
        round_trip_after_ns: if was_waiting { round_trip_ns } else { waited_ns },
        worst_round_trip_ns: seen.worst_round_trip_ns,
    }
}

/// A gap that no reply has ended: the stamps of its end are all that of the last request. Its start counts from
/// `origin`.
pub(crate) fn open(seen: &EchoGap, origin: MonotonicNs) -> Gap {
    let start = silent_from(seen);
    let low_ns = seen.before_resumed_ns.0.saturating_sub(start.high.0);
    Gap {
        error_ns: 0,
        start: start.since(origin),
        length: Estimate {
            value_ns: seen.before_resumed_ns.0.saturating_sub(start.middle()).max(low_ns),
            low_ns,
            high_ns: None,
            method: Method::Open,
        },
        lost: seen.requests,
        late: 0,
        duplicate: 0,
        interval_at_start_ns: seen.first_waiting_ns.0.saturating_sub(seen.answered_request_ns.0),
        interval_at_end_ns: None,
        round_trip_before_ns: seen.round_trip_before_ns,
        round_trip_after_ns: 0,
        worst_round_trip_ns: seen.worst_round_trip_ns,
    }
}

/// When the address fell silent. It still answered the request of `answered_request_ns`. It did not answer that of
/// `first_waiting_ns`, which reached it within a round trip. And it was not silent yet when it sent the last reply.
pub(super) fn silent_from(seen: &EchoGap) -> InstantBounds {
    let high = later(seen.first_waiting_ns, seen.round_trip_before_ns).max(seen.last_reply_ns);
    InstantBounds::new(seen.answered_request_ns, high)
}
