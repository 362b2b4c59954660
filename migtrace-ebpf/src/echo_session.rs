//! What a stream of echo requests and replies tells about the target: round trips, and the gaps in which it was
//! silent.
//!
//! A gap is found when the reply comes that ends it, from the stamps of four requests: `a` the latest one that was
//! answered before, `f` the one sent next, `n` the one whose reply ends the gap, and `b` the one sent before `n`.
//!
//! ```text
//!   requests   a     f  . . . . . . .  b     n
//!   replies      a'                            n'
//!   the guest  |~~~x___________________________x~~~
//! ```
//!
//! The guest answered `a`, so it fell silent after `a` was sent; had it been awake when `f` reached it, `f'` would
//! have come before `n'`. If `n'` came as fast as replies do, the guest woke up between the arrivals of `b` and `n`. If
//! `n'` took longer, `n` had been waiting, and the guest woke up one round trip before `n'` at the earliest.
//! Nothing need be lost for this: when requests queue until the guest wakes up, `f` and `n` are the same.
//!
//! "As fast as replies do" is no faster than the longest of the latest round trips, before the gap or right after it:
//! the guest may be on another host by then. So a gap is told only when a few of those are known too.
//!
//! Where round trips are as long as a silence, these bounds leave nothing of it. What is left is that `n` has passed over
//! requests: `f` to `b` were not answered when `n'` came. Some may have been overtaken on their way, and come back as fast
//! as replies do. If one has not by then, it was lost or late, and there may have been a silence from `a` to `n'`. It
//! is told as a gap that may have been, from nothing up to that length, unless the last gap holds these requests: then they
//! were lost to that. All this is kept apart from the gaps that are sure, and what is learnt of round trips does not depend
//! on it: a doubt hides nothing. Doubts that overlap become one, so there is one at most for each round trip, however many
//! replies overtake each other.
//!
//! Each session has one writer a side: its requests come from one sender, and a NIC puts all of its replies into one
//! queue. What they share are words: a lost race makes a bound wider.

use crate::{
    abi::{EchoGap, EchoSession, shared},
    word::Words as _,
};

/// How many round trips a window holds; the latest one to two windows are "the latest round trips".
const WINDOW: u64 = 64;

/// How many round trips after a gap are waited for before it is told.
pub const SETTLE: u64 = 8;

/// In a stamp: the request was answered.
const ANSWERED: u64 = 1 << 63;
/// In a stamp: no request had this number; the stamp is that of the request before.
const SKIPPED: u64 = 1 << 62;

/// When each request was sent, by its sequence number; 0 for never. What is older than a session is of one before it.
pub trait Stamps {
    /// What was put there last.
    fn get(&self, sequence: u16) -> u64;
    /// Puts a stamp.
    fn set(&self, sequence: u16, stamp: u64);
}

/// What a reply is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reply {
    /// The first to its request, after a round trip of this many nanoseconds.
    Prompt(u64),
    /// The first to its request, but only after a gap.
    Late,
    /// One more to a request that was answered before.
    Duplicate,
    /// To no request that was seen.
    Unasked,
}

#[inline(always)]
fn sent_at(stamps: &impl Stamps, sequence: u32) -> u64 {
    stamps.get(sequence as u16) & !(ANSWERED | SKIPPED)
}

/// Takes in a request that is sent now.
#[inline(always)]
pub fn request(session: &shared::EchoSession, stamps: &impl Stamps, sequence: u16, now_ns: u64) {
    let sequence = u32::from(sequence);
    if session.sent.get() != 0 {
        let (last_sequence, last_request_ns) = (session.last_sequence.get(), session.last_request_ns.get());
        // The same frame, seen again on its way through the same interface.
        if sequence == last_sequence && stamps.get(sequence as u16) & ANSWERED == 0 {
            return;
        }
        session.longest_interval_ns.raise(now_ns.saturating_sub(last_request_ns));
        // Requests that never came this far (their neighbour was not known) leave numbers out, and a few programs
        // count otherwise: the next one must still find the one before it.
        let step = sequence.wrapping_sub(last_sequence) & 0xffff;
        if step > 1 && step < 1 << 15 {
            stamps.set(sequence.wrapping_sub(1) as u16, last_request_ns | SKIPPED);
        }
    } else {
        session.first_request_ns.set(now_ns);
    }
    stamps.set(sequence as u16, now_ns);
    session.last_sequence.set(sequence);
    session.last_request_ns.set(now_ns);
    session.sent.count(1);
    if session.first_waiting_ns.get() == 0 {
        session.first_waiting_ns.set(now_ns);
    }
}

/// Takes in a reply that arrives now. Hands a gap and its number to `tell` when all is known of it; a gap that surely
/// lasted for less than `min_gap_ns` is none.
#[inline(always)]
pub fn reply(
    session: &shared::EchoSession,
    stamps: &impl Stamps,
    sequence: u16,
    now_ns: u64,
    min_gap_ns: u64,
    mut tell: impl FnMut(u64, &shared::EchoGap),
) -> Reply {
    let stamp = stamps.get(sequence);
    let sent_ns = stamp & !(ANSWERED | SKIPPED);
    let first_request_ns = session.first_request_ns.get();
    let is_of_session = first_request_ns != 0 && first_request_ns <= sent_ns;
    if !is_of_session || sent_ns > now_ns || stamp & SKIPPED != 0 {
        session.unasked.count(1);
        return Reply::Unasked;
    }
    if stamp & ANSWERED != 0 {
        session.duplicate.count(1);
        session.gap.duplicate.count(u64::from(session.gap.holds(sent_ns)));
        session.doubt.duplicate.count(u64::from(session.doubt.passed(sent_ns)));
        session.next_doubt.duplicate.count(u64::from(session.next_doubt.passed(sent_ns)));
        return Reply::Duplicate;
    }
    stamps.set(sequence, stamp | ANSWERED);
    session.answered.count(1);
    let round_trip_ns = now_ns - sent_ns;
    let overtaken = sent_ns < session.answered_request_ns.get();
    if overtaken {
        count_in_doubt(session, sent_ns, round_trip_ns);
    }
    settle(session, now_ns, min_gap_ns, &mut tell);
    if session.answered.get() != 1 {
        let around = around(session, stamps, sequence, sent_ns);
        if let Some(bound_ns) = surely_silent(session, &around, now_ns, min_gap_ns) {
            if session.gap.is_unsettled() {
                // What was on its way when it ended, and has not been answered yet, belongs to the gap that ends now.
                let shared = session.gap_count.get().saturating_sub(session.answered_count.get());
                session.gap.requests.set(session.gap.requests.get().saturating_sub(shared));
                tell(session.next_told(), &session.gap);
            }
            close(session, stamps, &around, now_ns, bound_ns);
            session.shortest_round_trip_ns.set(round_trip_ns);
        } else if around.passes_over(session) {
            doubt(session, sequence, &around, now_ns);
        }
    }
    if sent_ns > session.answered_request_ns.get() {
        advance(session, stamps, u32::from(sequence), sent_ns);
    }
    session.last_reply_ns.set(now_ns);
    session.shortest_round_trip_ns.set(session.shortest_round_trip_ns.get().min(round_trip_ns));
    if session.gap.holds(sent_ns) {
        if count_in_gap(session, sent_ns) {
            return Reply::Late;
        }
    } else if sent_ns > session.gap.resumed_ns.get() {
        learn(session, round_trip_ns, overtaken);
        if session.gap.is_unsettled() {
            session.gap.round_trip_after_ns.raise(round_trip_ns);
            session.gap.round_trips_after.count(1);
            if !session.gap.is_unsettled() {
                tell(session.next_told(), &session.gap);
            }
        }
    }
    session.longest_round_trip_ns.raise(round_trip_ns);
    session.worst_round_trip_ns.raise(round_trip_ns);
    Reply::Prompt(round_trip_ns)
}

/// The requests around what a reply may end.
struct Around {
    /// When `f` was sent.
    first_waiting_ns: u64,
    /// When `b` was sent, or `a` if nothing was in between.
    before_resumed_ns: u64,
    /// When `n` was sent.
    resuming_request_ns: u64,
}

impl Around {
    /// Whether there are requests between `a` and `n` that the last gap does not hold.
    #[inline(always)]
    fn passes_over(&self, session: &shared::EchoSession) -> bool {
        let held_until_ns = session.answered_request_ns.get().max(session.gap.resumed_ns.get());
        held_until_ns < self.before_resumed_ns
            || (held_until_ns < self.first_waiting_ns && self.first_waiting_ns < self.resuming_request_ns)
    }
}

#[inline(always)]
fn around(
    session: &shared::EchoSession,
    stamps: &impl Stamps,
    sequence: u16,
    resuming_request_ns: u64,
) -> Around {
    let answered_request_ns = session.answered_request_ns.get();
    let between = |sent_ns: u64| answered_request_ns < sent_ns && sent_ns < resuming_request_ns;
    // The request after `a` has lost its stamp when a long gap has used all sequence numbers; then it is what was
    // kept of it. Of the two, the earlier is it: the kept one may come from a lost race with the other side. And
    // where messages overtake each other, the request that was waiting may even be older than `a`.
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

/// Whether a reply surely ends a gap now; if so, the longest round trip that this was judged by.
#[inline(always)]
fn surely_silent(
    session: &shared::EchoSession,
    around: &Around,
    now_ns: u64,
    min_gap_ns: u64,
) -> Option<u64> {
    let Around { first_waiting_ns, before_resumed_ns, resuming_request_ns } = *around;
    let mut bound_ns = session.longest_latest_round_trip_ns();
    if session.gap.is_unsettled() {
        // Round trips may have become longer for good with the gap before. What only waited for its end says nothing
        // of that, but one that did not is the shortest.
        bound_ns = bound_ns.max(session.shortest_round_trip_ns.get().min(now_ns - resuming_request_ns));
    }
    let waited = now_ns - resuming_request_ns > bound_ns;
    let silent_until_ns = if waited { now_ns - bound_ns } else { before_resumed_ns };
    let silent_from_ns = (first_waiting_ns + bound_ns).max(session.last_reply_ns.get());
    (silent_until_ns >= silent_from_ns + min_gap_ns).then_some(bound_ns)
}

/// The last gap is now the one that a reply ends.
#[inline(always)]
fn close(session: &shared::EchoSession, stamps: &impl Stamps, around: &Around, now_ns: u64, bound_ns: u64) {
    let mut sent = session.sent.get();
    // On another CPU since this reply was stamped.
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

/// Keeps in mind that the reply to `sequence` passes over requests.
#[inline(always)]
fn doubt(session: &shared::EchoSession, sequence: u16, around: &Around, now_ns: u64) {
    let bound_ns = session.longest_latest_round_trip_ns();
    let with_this = session.sent_with(u32::from(sequence));
    // At least one that is passed over and the one that does, whatever was sent on another CPU just now.
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

/// Counts a request that was overtaken, and answered after all. As in [`count_in_gap`], everything is written every time.
#[inline(always)]
fn count_in_doubt(session: &shared::EchoSession, sent_ns: u64, round_trip_ns: u64) {
    let waited = round_trip_ns > session.longest_latest_round_trip_ns();
    let (first, next) = (session.doubt.passed(sent_ns), session.next_doubt.passed(sent_ns));
    session.doubt.waited.count(u64::from(first && waited));
    session.doubt.prompt.count(u64::from(first && !waited));
    session.next_doubt.waited.count(u64::from(next && waited));
    session.next_doubt.prompt.count(u64::from(next && !waited));
}

/// Tells or forgets the doubts whose requests should have been answered by now.
#[inline(always)]
fn settle(
    session: &shared::EchoSession,
    now_ns: u64,
    min_gap_ns: u64,
    tell: &mut impl FnMut(u64, &shared::EchoGap),
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
        if doubt.load().is_worth_telling(min_gap_ns) {
            tell(session.next_told(), doubt);
        } else {
            // It parts nothing: what came before it belongs to what came since.
            let worst_ns = doubt.worst_round_trip_ns.get();
            let since_ns = if next_doubt.resumed_ns.get() == 0 { worst_ns } else { 0 };
            next_doubt.worst_round_trip_ns.raise(worst_ns);
            session.worst_round_trip_ns.raise(since_ns);
        }
        doubt.resumed_ns.set(0);
    }
}

/// The request `sequence` is now the latest of the answered ones.
#[inline(always)]
fn advance(session: &shared::EchoSession, stamps: &impl Stamps, sequence: u32, sent_ns: u64) {
    let next_ns = sent_at(stamps, (sequence + 1) & 0xffff);
    session.answered_request_ns.set(sent_ns);
    session.answered_sequence.set(sequence);
    session.answered_count.set(session.sent_with(sequence));
    session.first_waiting_ns.set(if next_ns > sent_ns { next_ns } else { 0 });
}

/// Counts a request of the gap; returns whether it was answered late.
///
/// Every counter is written every time: of "one of these plus 1" the compiler makes an address plus one of some offsets,
/// which the verifier does not allow without CAP_PERFMON.
#[inline(always)]
fn count_in_gap(session: &shared::EchoSession, sent_ns: u64) -> bool {
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

#[inline(always)]
fn learn(session: &shared::EchoSession, round_trip_ns: u64, overtaken: bool) {
    let count = session.recent_count.get() + 1;
    let shortest_ns = if count == 1 { round_trip_ns } else { session.recent_shortest_ns.get() };
    session.recent_round_trip_ns.raise(round_trip_ns);
    session.recent_shortest_ns.set(shortest_ns.min(round_trip_ns));
    session.recent_disordered.count(u64::from(overtaken));
    session.recent_count.set(count);
    if count == WINDOW {
        session.earlier_round_trip_ns.set(session.recent_round_trip_ns.get());
        session.earlier_shortest_ns.set(session.recent_shortest_ns.get());
        session.earlier_disordered.set(session.recent_disordered.get());
        for word in [&session.recent_round_trip_ns, &session.recent_disordered, &session.recent_count] {
            word.set(0);
        }
    }
}

// Of each question, the words that it is about are read, and no others.
impl shared::EchoGap {
    /// [`EchoGap::holds`]
    #[inline(always)]
    fn holds(&self, sent_ns: u64) -> bool {
        self.answered_request_ns.get() < sent_ns && sent_ns <= self.resumed_ns.get()
    }

    /// [`EchoGap::is_unsettled`]
    #[inline(always)]
    fn is_unsettled(&self) -> bool {
        is_unsettled(self.resumed_ns.get(), self.round_trips_after.get())
    }

    /// Of a silence that may have been: whether a request that was sent at this time was passed over, or passed over
    /// others.
    #[inline(always)]
    fn passed(&self, sent_ns: u64) -> bool {
        self.resumed_ns.get() != 0
            && self.answered_request_ns.get() < sent_ns
            && sent_ns <= self.resuming_request_ns.get()
    }
}

impl shared::EchoSession {
    /// [`EchoSession::longest_latest_round_trip_ns`]
    #[inline(always)]
    fn longest_latest_round_trip_ns(&self) -> u64 {
        self.recent_round_trip_ns.get().max(self.earlier_round_trip_ns.get())
    }

    /// [`EchoSession::shortest_latest_round_trip_ns`]
    #[inline(always)]
    fn shortest_latest_round_trip_ns(&self) -> u64 {
        let (recent_ns, earlier_ns) = (self.recent_shortest_ns.get(), self.earlier_shortest_ns.get());
        shortest_latest(self.recent_count.get(), recent_ns, earlier_ns)
    }

    /// The number of the gap that is told now.
    #[inline(always)]
    fn next_told(&self) -> u64 {
        self.told.count(1);
        self.told.get()
    }

    /// How many requests had been sent with `sequence`, one of the latest 2^16.
    #[inline(always)]
    fn sent_with(&self, sequence: u32) -> u64 {
        let later = self.last_sequence.get().wrapping_sub(sequence) & 0xffff;
        self.sent.get().saturating_sub(u64::from(later))
    }
}

#[inline(always)]
const fn is_unsettled(resumed_ns: u64, round_trips_after: u64) -> bool {
    resumed_ns != 0 && round_trips_after < SETTLE
}

#[inline(always)]
const fn shortest_latest(recent_count: u64, recent_ns: u64, earlier_ns: u64) -> u64 {
    let no_earlier = earlier_ns == 0;
    let recent_is_shorter = recent_count > 0 && recent_ns < earlier_ns;
    if no_earlier || recent_is_shorter { recent_ns } else { earlier_ns }
}

impl EchoGap {
    /// Whether a request that was sent at this time belongs to the gap.
    #[inline(always)]
    #[must_use]
    pub const fn holds(&self, sent_ns: u64) -> bool {
        self.answered_request_ns < sent_ns && sent_ns <= self.resumed_ns
    }

    /// Whether there is a gap that has not been told.
    #[inline(always)]
    #[must_use]
    pub const fn is_unsettled(&self) -> bool {
        is_unsettled(self.resumed_ns, self.round_trips_after)
    }

    /// Of a silence that may have been: whether a request was lost or late, and it may have lasted for longer than
    /// `min_gap_ns`.
    #[inline(always)]
    #[must_use]
    pub const fn is_worth_telling(&self, min_gap_ns: u64) -> bool {
        let (earliest_ns, latest_ns) = self.widest_ns();
        self.resumed_ns != 0
            && self.prompt < self.requests
            && latest_ns.saturating_sub(earliest_ns) > min_gap_ns
    }

    /// Of a silence that may have been: from when to when it may have lasted.
    ///
    /// As a rule that is from the last answered request to the reply that ended it. But where messages overtake each other,
    /// requests of up to a round trip before and after may have found the target silent too. And where a reply came so late
    /// that the first request that was passed over had arrived, both may have waited for the end of the silence, and the
    /// first to wait did so for a round trip at most.
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

#[inline(always)]
const fn longer(a_ns: u64, b_ns: u64) -> u64 {
    if a_ns > b_ns { a_ns } else { b_ns }
}

impl EchoSession {
    /// The longest of the latest round trips, in nanoseconds.
    #[inline(always)]
    #[must_use]
    pub const fn longest_latest_round_trip_ns(&self) -> u64 {
        longer(self.recent_round_trip_ns, self.earlier_round_trip_ns)
    }

    /// The shortest of the latest round trips, in nanoseconds.
    #[inline(always)]
    #[must_use]
    pub const fn shortest_latest_round_trip_ns(&self) -> u64 {
        shortest_latest(self.recent_count, self.recent_shortest_ns, self.earlier_shortest_ns)
    }

    /// What has not been told yet, as it is when no more replies come: the last gap, and what may have been ones.
    pub fn unsettled(&self, min_gap_ns: u64) -> impl Iterator<Item = EchoGap> {
        let doubts = [self.doubt, self.next_doubt].map(|doubt| EchoGap {
            round_trip_after_ns: self.longest_latest_round_trip_ns(),
            shortest_round_trip_ns: self.shortest_latest_round_trip_ns(),
            longest_interval_ns: self.longest_interval_ns,
            disordered: self.recent_disordered + self.earlier_disordered,
            ..doubt
        });
        let doubts = doubts.into_iter().filter(move |doubt| doubt.is_worth_telling(min_gap_ns));
        doubts.chain(Some(self.gap).filter(EchoGap::is_unsettled))
    }
}

/// Each power of two of nanoseconds is cut into this many buckets, as a power of two: a bucket is 1/16 of its value
/// wide at most.
const STEPS: u32 = 4;
/// Round trips from 2^40 ns (18 minutes) on share the last bucket.
const LARGEST: u32 = 40;
/// How many buckets a histogram of round trips has.
pub const BUCKETS: usize = (((LARGEST - STEPS) << STEPS) + (1 << STEPS) + 1) as usize;

/// The bucket of a round trip.
#[inline(always)]
#[must_use]
pub const fn bucket(round_trip_ns: u64) -> u32 {
    if round_trip_ns >> LARGEST != 0 {
        return BUCKETS as u32 - 1;
    }
    if round_trip_ns >> STEPS == 0 {
        return round_trip_ns as u32;
    }
    let exponent = 63 - round_trip_ns.leading_zeros();
    let step = (round_trip_ns >> (exponent - STEPS)) as u32 & ((1 << STEPS) - 1);
    ((exponent - STEPS + 1) << STEPS) + step
}

/// The shortest round trip of a bucket, in nanoseconds; that of the next is where the bucket ends.
#[must_use]
pub const fn bucket_start_ns(bucket: u32) -> u64 {
    let exponent = bucket >> STEPS;
    if exponent == 0 {
        return bucket as u64;
    }
    let step = (bucket & ((1 << STEPS) - 1)) as u64;
    ((1 << STEPS) + step) << (exponent - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_holes() {
        for bucket_number in 0..BUCKETS as u32 - 1 {
            let (start, end) = (bucket_start_ns(bucket_number), bucket_start_ns(bucket_number + 1));
            assert_eq!(bucket(start), bucket_number);
            assert_eq!(bucket(end - 1), bucket_number);
            assert!(start < 16 || (end - start) * 16 <= start, "{start} to {end}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS as u32 - 1);
    }
}
