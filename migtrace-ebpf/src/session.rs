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
//! queue. The fields that both sides touch are read and written as whole words; a lost race makes a bound wider.

use crate::abi::{EchoGap, EchoSession};

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
pub fn request(session: &mut EchoSession, stamps: &impl Stamps, sequence: u16, now_ns: u64) {
    let sequence = u32::from(sequence);
    if session.sent != 0 {
        // The same frame, seen again on its way through the same interface.
        if sequence == session.last_sequence && stamps.get(sequence as u16) & ANSWERED == 0 {
            return;
        }
        let interval_ns = now_ns.saturating_sub(session.last_request_ns);
        session.longest_interval_ns = session.longest_interval_ns.max(interval_ns);
        // Requests that never came this far (their neighbour was not known) leave numbers out, and a few programs
        // count otherwise: the next one must still find the one before it.
        let step = sequence.wrapping_sub(session.last_sequence) & 0xffff;
        if step > 1 && step < 1 << 15 {
            stamps.set(sequence.wrapping_sub(1) as u16, session.last_request_ns | SKIPPED);
        }
    } else {
        session.first_request_ns = now_ns;
    }
    stamps.set(sequence as u16, now_ns);
    session.last_sequence = sequence;
    session.last_request_ns = now_ns;
    session.sent += 1;
    if session.first_waiting_ns == 0 {
        session.first_waiting_ns = now_ns;
    }
}

/// Takes in a reply that arrives now. Hands a gap and its number to `tell` when all is known of it; a gap that surely
/// lasted for less than `min_gap_ns` is none.
#[inline(always)]
pub fn reply(
    session: &mut EchoSession,
    stamps: &impl Stamps,
    sequence: u16,
    now_ns: u64,
    min_gap_ns: u64,
    mut tell: impl FnMut(u64, &EchoGap),
) -> Reply {
    let stamp = stamps.get(sequence);
    let sent_ns = stamp & !(ANSWERED | SKIPPED);
    let is_of_session = session.first_request_ns != 0 && session.first_request_ns <= sent_ns;
    if !is_of_session || sent_ns > now_ns || stamp & SKIPPED != 0 {
        session.unasked += 1;
        return Reply::Unasked;
    }
    if stamp & ANSWERED != 0 {
        session.duplicate += 1;
        session.gap.duplicate += u64::from(session.gap.holds(sent_ns));
        session.doubt.duplicate += u64::from(session.doubt.passed(sent_ns));
        session.next_doubt.duplicate += u64::from(session.next_doubt.passed(sent_ns));
        return Reply::Duplicate;
    }
    stamps.set(sequence, stamp | ANSWERED);
    session.answered += 1;
    let round_trip_ns = now_ns - sent_ns;
    let overtaken = sent_ns < session.answered_request_ns;
    if overtaken {
        count_in_doubt(session, sent_ns, round_trip_ns);
    }
    settle(session, now_ns, min_gap_ns, &mut tell);
    if session.answered != 1 {
        let around = around(session, stamps, sequence, sent_ns);
        if let Some(gap) = gap(session, stamps, &around, now_ns, min_gap_ns) {
            if session.gap.is_unsettled() {
                session.told += 1;
                tell(session.told, &session.gap);
            }
            session.gap = gap;
            session.worst_round_trip_ns = 0;
            session.gaps += 1;
            session.shortest_round_trip_ns = round_trip_ns;
        } else if around.passes_over(session) {
            doubt(session, sequence, &around, now_ns);
        }
    }
    if sent_ns > session.answered_request_ns {
        advance(session, stamps, u32::from(sequence), sent_ns);
    }
    session.last_reply_ns = now_ns;
    session.shortest_round_trip_ns = session.shortest_round_trip_ns.min(round_trip_ns);
    if session.gap.holds(sent_ns) {
        if count_in_gap(session, sent_ns) {
            return Reply::Late;
        }
    } else if sent_ns > session.gap.resumed_ns {
        learn(session, round_trip_ns, overtaken);
        if session.gap.is_unsettled() {
            let gap = &mut session.gap;
            gap.round_trip_after_ns = gap.round_trip_after_ns.max(round_trip_ns);
            gap.round_trips_after += 1;
            if gap.round_trips_after == SETTLE {
                session.told += 1;
                tell(session.told, &session.gap);
            }
        }
    }
    session.longest_round_trip_ns = session.longest_round_trip_ns.max(round_trip_ns);
    session.worst_round_trip_ns = session.worst_round_trip_ns.max(round_trip_ns);
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
    const fn passes_over(&self, session: &EchoSession) -> bool {
        let held_until_ns = longer(session.answered_request_ns, session.gap.resumed_ns);
        held_until_ns < self.before_resumed_ns
            || (held_until_ns < self.first_waiting_ns && self.first_waiting_ns < self.resuming_request_ns)
    }
}

#[inline(always)]
fn around(session: &EchoSession, stamps: &impl Stamps, sequence: u16, resuming_request_ns: u64) -> Around {
    let answered_request_ns = session.answered_request_ns;
    let between = |sent_ns: u64| answered_request_ns < sent_ns && sent_ns < resuming_request_ns;
    // The request after `a` has lost its stamp when a long gap has used all sequence numbers; then it is what was
    // kept of it. Of the two, the earlier is it: the kept one may come from a lost race with the other side. And
    // where messages overtake each other, the request that was waiting may even be older than `a`.
    let mut first_waiting_ns = resuming_request_ns;
    let next_ns = sent_at(stamps, (session.answered_sequence + 1) & 0xffff);
    if between(next_ns) {
        first_waiting_ns = next_ns;
    }
    if between(session.first_waiting_ns) {
        first_waiting_ns = first_waiting_ns.min(session.first_waiting_ns);
    }
    let mut before_resumed_ns = sent_at(stamps, u32::from(sequence).wrapping_sub(1) & 0xffff);
    if !between(before_resumed_ns) {
        before_resumed_ns = answered_request_ns;
    }
    Around { first_waiting_ns, before_resumed_ns, resuming_request_ns }
}

/// The gap that a reply ends now, if it surely ends one.
#[inline(always)]
fn gap(
    session: &EchoSession,
    stamps: &impl Stamps,
    around: &Around,
    now_ns: u64,
    min_gap_ns: u64,
) -> Option<EchoGap> {
    let Around { first_waiting_ns, before_resumed_ns, resuming_request_ns } = *around;
    let mut bound_ns = session.longest_latest_round_trip_ns();
    if session.gap.is_unsettled() {
        // Round trips may have become longer for good with the gap before. What only waited for its end says nothing
        // of that, but one that did not is the shortest.
        bound_ns = bound_ns.max(session.shortest_round_trip_ns.min(now_ns - resuming_request_ns));
    }
    let waited = now_ns - resuming_request_ns > bound_ns;
    let silent_until_ns = if waited { now_ns - bound_ns } else { before_resumed_ns };
    let silent_from_ns = (first_waiting_ns + bound_ns).max(session.last_reply_ns);
    if silent_until_ns < silent_from_ns + min_gap_ns {
        return None;
    }
    let mut requests = session.sent - session.answered_count;
    // Sent on another CPU since this reply was stamped.
    if sent_at(stamps, session.last_sequence) > now_ns {
        requests -= 1;
    }
    // Known zeros would become a call of memset, whose loop the verifier does not allow without CAP_PERFMON.
    let none = core::hint::black_box(0);
    Some(EchoGap {
        answered_request_ns: session.answered_request_ns,
        last_reply_ns: session.last_reply_ns,
        first_waiting_ns,
        before_resumed_ns,
        resuming_request_ns,
        resumed_ns: now_ns,
        round_trip_before_ns: bound_ns,
        requests,
        round_trip_after_ns: none,
        round_trips_after: none,
        overtaken: none,
        waited: none,
        prompt: none,
        duplicate: none,
        worst_round_trip_ns: session.worst_round_trip_ns,
        may_be: none,
        shortest_round_trip_ns: none,
        longest_interval_ns: none,
        disordered: none,
    })
}

/// Keeps in mind that the reply to `sequence` passes over requests.
#[inline(always)]
fn doubt(session: &mut EchoSession, sequence: u16, around: &Around, now_ns: u64) {
    let bound_ns = session.longest_latest_round_trip_ns();
    let with_this = session.sent_with(u32::from(sequence));
    // At least one that is passed over and the one that does, whatever was sent on another CPU just now.
    let requests = with_this.saturating_sub(session.answered_count).max(2);
    let waited = u64::from(now_ns - around.resuming_request_ns > bound_ns);
    let none = core::hint::black_box(0);
    let doubt = &mut session.next_doubt;
    if doubt.resumed_ns == 0 {
        doubt.answered_request_ns = session.answered_request_ns;
        doubt.last_reply_ns = session.last_reply_ns;
        doubt.first_waiting_ns = around.first_waiting_ns;
        doubt.round_trip_before_ns = bound_ns;
        doubt.round_trips_after = none;
        doubt.requests = none;
        doubt.overtaken = none;
        doubt.waited = none;
        doubt.prompt = none;
        doubt.duplicate = none;
        doubt.worst_round_trip_ns = session.worst_round_trip_ns;
        doubt.may_be = 1;
        session.worst_round_trip_ns = none;
    }
    doubt.before_resumed_ns = around.before_resumed_ns.max(around.first_waiting_ns);
    doubt.resuming_request_ns = around.resuming_request_ns;
    doubt.resumed_ns = now_ns;
    doubt.requests += requests;
    doubt.waited += waited;
    doubt.prompt += 1 - waited;
}

/// Counts a request that was overtaken, and answered after all. As in [`count_in_gap`], everything is written every time.
#[inline(always)]
fn count_in_doubt(session: &mut EchoSession, sent_ns: u64, round_trip_ns: u64) {
    let waited = round_trip_ns > session.longest_latest_round_trip_ns();
    let (first, next) = (session.doubt.passed(sent_ns), session.next_doubt.passed(sent_ns));
    session.doubt.waited += u64::from(first && waited);
    session.doubt.prompt += u64::from(first && !waited);
    session.next_doubt.waited += u64::from(next && waited);
    session.next_doubt.prompt += u64::from(next && !waited);
}

/// Tells or forgets the doubts whose requests should have been answered by now.
#[inline(always)]
fn settle(session: &mut EchoSession, now_ns: u64, min_gap_ns: u64, tell: &mut impl FnMut(u64, &EchoGap)) {
    let bound_ns = session.longest_latest_round_trip_ns();
    for _ in 0..2 {
        if session.doubt.resumed_ns == 0 {
            if session.next_doubt.resumed_ns == 0 {
                return;
            }
            session.doubt = session.next_doubt;
            session.next_doubt.resumed_ns = 0;
        }
        if now_ns <= session.doubt.before_resumed_ns + bound_ns {
            return;
        }
        session.doubt.round_trip_after_ns = bound_ns;
        session.doubt.shortest_round_trip_ns = session.shortest_latest_round_trip_ns();
        session.doubt.longest_interval_ns = session.longest_interval_ns;
        session.doubt.disordered = session.recent_disordered + session.earlier_disordered;
        if session.doubt.is_worth_telling(min_gap_ns) {
            session.told += 1;
            tell(session.told, &session.doubt);
        } else {
            // It parts nothing: what came before it belongs to what came since.
            let worst_ns = session.doubt.worst_round_trip_ns;
            let since_ns = if session.next_doubt.resumed_ns == 0 { worst_ns } else { 0 };
            session.next_doubt.worst_round_trip_ns = session.next_doubt.worst_round_trip_ns.max(worst_ns);
            session.worst_round_trip_ns = session.worst_round_trip_ns.max(since_ns);
        }
        session.doubt.resumed_ns = 0;
    }
}

/// The request `sequence` is now the latest of the answered ones.
#[inline(always)]
fn advance(session: &mut EchoSession, stamps: &impl Stamps, sequence: u32, sent_ns: u64) {
    let next_ns = sent_at(stamps, (sequence + 1) & 0xffff);
    session.answered_request_ns = sent_ns;
    session.answered_sequence = sequence;
    session.answered_count = session.sent_with(sequence);
    session.first_waiting_ns = if next_ns > sent_ns { next_ns } else { 0 };
}

/// Counts a request of the gap; returns whether it was answered late.
///
/// Every counter is written every time: of "one of these plus 1" the compiler makes an address plus one of some offsets,
/// which the verifier does not allow without CAP_PERFMON.
#[inline(always)]
fn count_in_gap(session: &mut EchoSession, sent_ns: u64) -> bool {
    let gap = &mut session.gap;
    let overtaken = sent_ns < gap.resuming_request_ns;
    let waited = !overtaken && sent_ns + gap.round_trip_before_ns < gap.resumed_ns;
    let late = overtaken || waited;
    gap.overtaken += u64::from(overtaken);
    gap.waited += u64::from(waited);
    gap.prompt += u64::from(!late);
    session.late += u64::from(late);
    late
}

#[inline(always)]
fn learn(session: &mut EchoSession, round_trip_ns: u64, overtaken: bool) {
    let shortest_ns = if session.recent_count == 0 { round_trip_ns } else { session.recent_shortest_ns };
    session.recent_round_trip_ns = session.recent_round_trip_ns.max(round_trip_ns);
    session.recent_shortest_ns = shortest_ns.min(round_trip_ns);
    session.recent_disordered += u64::from(overtaken);
    session.recent_count += 1;
    if session.recent_count == WINDOW {
        session.earlier_round_trip_ns = session.recent_round_trip_ns;
        session.earlier_shortest_ns = session.recent_shortest_ns;
        session.earlier_disordered = session.recent_disordered;
        session.recent_round_trip_ns = 0;
        session.recent_disordered = 0;
        session.recent_count = 0;
    }
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
        self.resumed_ns != 0 && self.round_trips_after < SETTLE
    }

    /// Of a silence that may have been: whether a request that was sent at this time was passed over, or passed over
    /// others.
    #[inline(always)]
    #[must_use]
    pub const fn passed(&self, sent_ns: u64) -> bool {
        self.resumed_ns != 0 && self.answered_request_ns < sent_ns && sent_ns <= self.resuming_request_ns
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
        let no_earlier = self.earlier_shortest_ns == 0;
        let recent_is_shorter = self.recent_count > 0 && self.recent_shortest_ns < self.earlier_shortest_ns;
        if no_earlier || recent_is_shorter { self.recent_shortest_ns } else { self.earlier_shortest_ns }
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

    /// How many requests had been sent with `sequence`, one of the latest 2^16.
    #[inline(always)]
    const fn sent_with(&self, sequence: u32) -> u64 {
        let later = self.last_sequence.wrapping_sub(sequence) & 0xffff;
        self.sent.saturating_sub(later as u64)
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
