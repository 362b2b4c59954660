//! Gaps that are certain: the target was silent, whether or not messages were lost.

use super::{Stamps, sent_at};
use crate::abi::{EchoGap, shared};

/// How many round trips after a gap must be known before it is reported.
pub const SETTLE: u64 = 8;

/// The requests around a silence that a reply may end: see [`echo_session`](super).
pub(super) struct Around {
    /// When `f` was sent.
    pub(super) first_waiting_ns: u64,
    /// When `b` was sent, or `a` if no request was in between.
    pub(super) before_resumed_ns: u64,
    /// When `n` was sent.
    pub(super) resuming_request_ns: u64,
}

impl Around {
    /// Whether there are requests between `a` and `n` that the last gap does not hold.
    #[inline(always)]
    pub(super) fn passes_over(&self, session: &shared::EchoSession) -> bool {
        let held_until_ns = session.answered_request_ns.get().max(session.gap.resumed_ns.get());
        held_until_ns < self.before_resumed_ns
            || (held_until_ns < self.first_waiting_ns && self.first_waiting_ns < self.resuming_request_ns)
    }
}

/// Finds these requests for the reply to `sequence`.
#[inline(always)]
pub(super) fn around(
    session: &shared::EchoSession,
    stamps: &impl Stamps,
    sequence: u16,
    resuming_request_ns: u64,
) -> Around {
    let answered_request_ns = session.answered_request_ns.get();
    let between = |sent_ns: u64| answered_request_ns < sent_ns && sent_ns < resuming_request_ns;
    // `f` is found in two ways, and the earlier one counts. The stamp after that of `a` is lost when a long gap has
    // used all sequence numbers. `session.first_waiting_ns` may be too late, after a lost race with the other side.
    // Where messages overtake each other, that request may even be older than `a`: then it is not between.
    let mut first_waiting_ns = resuming_request_ns;
    let next_ns = sent_at(stamps, (session.answered_sequence.get() + 1) & 0xffff);
    if between(next_ns) {
        first_waiting_ns = next_ns;
    }
    let waiting_ns = session.first_waiting_ns.get();
    if between(waiting_ns) {
        first_waiting_ns = first_waiting_ns.min(waiting_ns);
    }
    let mut before_resumed_ns = sent_at(stamps, u32::from(sequence).wrapping_sub(1) & 0xffff);
    if !between(before_resumed_ns) {
        before_resumed_ns = answered_request_ns;
    }
    Around { first_waiting_ns, before_resumed_ns, resuming_request_ns }
}

/// Whether a reply certainly ends a gap now; if so, the longest round trip from which this was concluded.
#[inline(always)]
pub(super) fn certainly_silent(
    session: &shared::EchoSession,
    around: &Around,
    now_ns: u64,
    min_gap_ns: u64,
) -> Option<u64> {
    let Around { first_waiting_ns, before_resumed_ns, resuming_request_ns } = *around;
    let mut bound_ns = session.longest_latest_round_trip_ns();
    if session.gap.is_unsettled() {
        // Round trips may have become longer for good with the gap before. Replies that only waited for its end do
        // not show that, but the shortest round trip since then does: it did not wait.
        bound_ns = bound_ns.max(session.shortest_round_trip_ns.get().min(now_ns - resuming_request_ns));
    }
    let waited = now_ns - resuming_request_ns > bound_ns;
    let silent_until_ns = if waited { now_ns - bound_ns } else { before_resumed_ns };
    let silent_from_ns = (first_waiting_ns + bound_ns).max(session.last_reply_ns.get());
    (silent_until_ns >= silent_from_ns + min_gap_ns).then_some(bound_ns)
}

/// Stores the gap that a reply ends now as the session's last gap.
#[inline(always)]
pub(super) fn close(
    session: &shared::EchoSession,
    stamps: &impl Stamps,
    around: &Around,
    now_ns: u64,
    bound_ns: u64,
) {
    let mut sent = session.sent.get();
    // Another CPU has sent a request since this reply was stamped.
    if sent_at(stamps, session.last_sequence.get()) > now_ns {
        sent -= 1;
    }
    let gap = &session.gap;
    gap.answered_request_ns.set(session.answered_request_ns.get());
    gap.last_reply_ns.set(session.last_reply_ns.get());
    gap.first_waiting_ns.set(around.first_waiting_ns);
    gap.before_resumed_ns.set(around.before_resumed_ns);
    gap.resuming_request_ns.set(around.resuming_request_ns);
    gap.resumed_ns.set(now_ns);
    gap.round_trip_before_ns.set(bound_ns);
    gap.requests.set(sent - session.answered_count.get());
    session.gap_count.set(sent);
    gap.worst_round_trip_ns.set(session.worst_round_trip_ns.get());
    for word in [
        &gap.round_trip_after_ns,
        &gap.round_trips_after,
        &gap.overtaken,
        &gap.waited,
        &gap.prompt,
        &gap.duplicate,
        &session.worst_round_trip_ns,
    ] {
        word.set(0);
    }
    session.gaps.count(1);
}

/// Counts a request that belongs to the gap; returns whether it was answered late.
///
/// Every counter is written every time. If only one of them were, the compiler would add a variable offset to an
/// address, which the verifier does not allow without `CAP_PERFMON`.
#[inline(always)]
pub(super) fn count_in_gap(session: &shared::EchoSession, sent_ns: u64) -> bool {
    let gap = &session.gap;
    let overtaken = sent_ns < gap.resuming_request_ns.get();
    let waited = !overtaken && sent_ns + gap.round_trip_before_ns.get() < gap.resumed_ns.get();
    let late = overtaken || waited;
    gap.overtaken.count(u64::from(overtaken));
    gap.waited.count(u64::from(waited));
    gap.prompt.count(u64::from(!late));
    session.late.count(u64::from(late));
    late
}

// The words are read one by one, so that each function reads only those that it needs.
impl shared::EchoGap {
    /// [`EchoGap::holds`]
    #[inline(always)]
    pub(super) fn holds(&self, sent_ns: u64) -> bool {
        self.answered_request_ns.get() < sent_ns && sent_ns <= self.resumed_ns.get()
    }

    /// [`EchoGap::is_unsettled`]
    #[inline(always)]
    pub(super) fn is_unsettled(&self) -> bool {
        is_unsettled(self.resumed_ns.get(), self.round_trips_after.get())
    }
}

#[inline(always)]
const fn is_unsettled(resumed_ns: u64, round_trips_after: u64) -> bool {
    resumed_ns != 0 && round_trips_after < SETTLE
}

impl EchoGap {
    /// Whether a request sent at this time belongs to the gap.
    #[inline(always)]
    #[must_use]
    pub const fn holds(&self, sent_ns: u64) -> bool {
        self.answered_request_ns < sent_ns && sent_ns <= self.resumed_ns
    }

    /// Whether there is a gap that was not reported yet.
    #[inline(always)]
    #[must_use]
    pub const fn is_unsettled(&self) -> bool {
        is_unsettled(self.resumed_ns, self.round_trips_after)
    }
}
