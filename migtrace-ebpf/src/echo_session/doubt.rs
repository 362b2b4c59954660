//! Gaps that are only possible: a reply has passed over requests, which may have found the target silent.

use super::{gap::Around, round_trips::longer};
use crate::{
    abi::{EchoGap, shared},
    word::Words as _,
};

/// Notes that the reply to `sequence` passes over requests.
#[inline(always)]
pub(super) fn doubt(session: &shared::EchoSession, sequence: u16, around: &Around, now_ns: u64) {
    let bound_ns = session.longest_latest_round_trip_ns();
    let with_this = session.sent_with(u32::from(sequence));
    // At least two: a request that is passed over and the one that passes it, whatever another CPU has just sent.
    let requests = with_this.saturating_sub(session.answered_count.get()).max(2);
    let waited = u64::from(now_ns - around.resuming_request_ns > bound_ns);
    let doubt = &session.next_doubt;
    if doubt.resumed_ns.get() == 0 {
        doubt.answered_request_ns.set(session.answered_request_ns.get());
        doubt.last_reply_ns.set(session.last_reply_ns.get());
        doubt.first_waiting_ns.set(around.first_waiting_ns);
        doubt.round_trip_before_ns.set(bound_ns);
        doubt.worst_round_trip_ns.set(session.worst_round_trip_ns.get());
        doubt.may_be.set(1);
        for word in [
            &doubt.round_trips_after,
            &doubt.requests,
            &doubt.overtaken,
            &doubt.waited,
            &doubt.prompt,
            &doubt.duplicate,
            &session.worst_round_trip_ns,
        ] {
            word.set(0);
        }
    }
    doubt.before_resumed_ns.set(around.before_resumed_ns.max(around.first_waiting_ns));
    doubt.resuming_request_ns.set(around.resuming_request_ns);
    doubt.resumed_ns.set(now_ns);
    doubt.requests.count(requests);
    doubt.waited.count(waited);
    doubt.prompt.count(1 - waited);
}

/// Counts a request that was overtaken and then answered after all. Everything is written every time: see
/// `count_in_gap`.
#[inline(always)]
pub(super) fn count_in_doubt(session: &shared::EchoSession, sent_ns: u64, round_trip_ns: u64) {
    let waited = round_trip_ns > session.longest_latest_round_trip_ns();
    let (first, next) = (session.doubt.passed(sent_ns), session.next_doubt.passed(sent_ns));
    session.doubt.waited.count(u64::from(first && waited));
    session.doubt.prompt.count(u64::from(first && !waited));
    session.next_doubt.waited.count(u64::from(next && waited));
    session.next_doubt.prompt.count(u64::from(next && !waited));
}

/// Reports or drops the possible gaps whose requests should have been answered by now.
#[inline(always)]
pub(super) fn settle(
    session: &shared::EchoSession,
    now_ns: u64,
    min_gap_ns: u64,
    report: &mut impl FnMut(u64, &shared::EchoGap),
) {
    let (doubt, next_doubt) = (&session.doubt, &session.next_doubt);
    for _ in 0..2 {
        if doubt.resumed_ns.get() == 0 {
            if next_doubt.resumed_ns.get() == 0 {
                return;
            }
            doubt.store(&next_doubt.load());
            next_doubt.resumed_ns.set(0);
        }
        let bound_ns = session.longest_latest_round_trip_ns();
        if now_ns <= doubt.before_resumed_ns.get() + bound_ns {
            return;
        }
        doubt.round_trip_after_ns.set(bound_ns);
        doubt.shortest_round_trip_ns.set(session.shortest_latest_round_trip_ns());
        doubt.longest_interval_ns.set(session.longest_interval_ns.get());
        doubt.disordered.set(session.recent_disordered.get() + session.earlier_disordered.get());
        if doubt.load().is_worth_reporting(min_gap_ns) {
            report(session.next_reported(), doubt);
        } else {
            // It is not a gap after all: what came before it and what came since belong together.
            let worst_ns = doubt.worst_round_trip_ns.get();
            let since_ns = if next_doubt.resumed_ns.get() == 0 { worst_ns } else { 0 };
            next_doubt.worst_round_trip_ns.raise(worst_ns);
            session.worst_round_trip_ns.raise(since_ns);
        }
        doubt.resumed_ns.set(0);
    }
}

impl shared::EchoGap {
    /// For a possible gap: whether a request sent at this time was passed over, or passed over others.
    #[inline(always)]
    pub(super) fn passed(&self, sent_ns: u64) -> bool {
        self.resumed_ns.get() != 0
            && self.answered_request_ns.get() < sent_ns
            && sent_ns <= self.resuming_request_ns.get()
    }
}

impl EchoGap {
    /// For a possible gap: whether a request was lost or late, and the gap may have been longer than `min_gap_ns`.
    #[inline(always)]
    #[must_use]
    pub const fn is_worth_reporting(&self, min_gap_ns: u64) -> bool {
        let (earliest_ns, latest_ns) = self.widest_ns();
        self.resumed_ns != 0
            && self.prompt < self.requests
            && latest_ns.saturating_sub(earliest_ns) > min_gap_ns
    }

    /// For a possible gap: the widest time in which the target may have been silent, as its start and its end.
    ///
    /// Usually that is from the last answered request to the reply that ended the gap. There are two exceptions.
    /// Where messages overtake each other, requests up to a round trip before and after may have found the target
    /// silent too. And where a reply came so late that the first request that was passed over had already arrived,
    /// both may have waited for the end of the silence; the first one to wait did so for at most a round trip.
    #[inline(always)]
    #[must_use]
    pub const fn widest_ns(&self) -> (u64, u64) {
        let disordered = self.disordered > 0;
        let round_trip_ns = longer(self.round_trip_before_ns, self.round_trip_after_ns);
        let (mut earliest_ns, mut latest_ns) = (self.answered_request_ns, self.resumed_ns);
        let arrived_ns = self.first_waiting_ns.saturating_add(self.shortest_round_trip_ns);
        if disordered || self.last_reply_ns >= arrived_ns {
            let reach_ns =
                longer(round_trip_ns, self.worst_round_trip_ns).saturating_add(self.longest_interval_ns);
            let first_ns = self.first_waiting_ns.saturating_sub(reach_ns);
            if first_ns < earliest_ns {
                earliest_ns = first_ns;
            }
        }
        if disordered {
            let reach_ns = round_trip_ns.saturating_mul(2).saturating_add(self.longest_interval_ns);
            latest_ns = longer(latest_ns, self.before_resumed_ns.saturating_add(reach_ns));
        }
        (earliest_ns, latest_ns)
    }
}
