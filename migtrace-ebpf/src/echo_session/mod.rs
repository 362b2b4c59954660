//! What a series of echo requests and replies shows of the target: its round trips, and the gaps in which it was
//! silent.
//!
//! A gap is found when the reply that ends it comes. It is bounded by the stamps of four requests: `a` is the latest
//! one that was answered before, `f` the one sent next, `n` the one whose reply ends the gap, and `b` the one sent
//! before `n`.
//!
//! ```text
//!   requests   a     f  . . . . . . .  b     n
//!   replies      a'                            n'
//!   the guest  |~~~x___________________________x~~~
//! ```
//!
//! The guest answered `a`, so it fell silent after `a` was sent. Had it been awake when `f` reached it, `f'` would
//! have come before `n'`. If `n'` came as fast as replies usually do, the guest woke up between the arrivals of `b`
//! and `n`. If `n'` took longer, `n` had been waiting, and the guest woke up one round trip before `n'` at the
//! earliest. None of this needs a lost request: when requests queue until the guest wakes up, `f` and `n` are the
//! same.
//!
//! "As fast as replies usually do" means no longer than the longest of the latest round trips, before the gap or
//! right after it: the guest may be on another host by then. So a gap is reported only when a few round trips after
//! it are known too.
//!
//! Where round trips are as long as a silence, these bounds leave nothing of it. All that is seen then is that `n`
//! has passed over requests: `f` to `b` were not answered when `n'` came. Some may have been overtaken on their way,
//! and their replies still come within a usual round trip. A request whose reply does not was lost or late, and there
//! may have been a silence from `a` to `n'`. It is reported as a possible gap, of any length from nothing up to that,
//! unless these requests belong to the last gap and so were lost to that. All this is kept apart from the certain
//! gaps, and does not change what is learnt of round trips: a possible gap hides nothing. Possible gaps that overlap
//! are joined, so there is at most one for each round trip, however many replies overtake each other.
//!
//! Each session has one writer for each direction: its requests come from one sender, and a NIC puts all of its
//! replies into one queue. What the two share is in whole words, so losing a race only makes a bound wider.

mod doubt;
mod gap;
mod round_trips;

pub use gap::SETTLE;
pub use round_trips::{BUCKETS, bucket, bucket_start_ns};

use crate::abi::{EchoGap, EchoSession, shared};
use doubt::{count_in_doubt, doubt, settle};
use gap::{around, certainly_silent, close, count_in_gap};
use round_trips::learn;

/// In a stamp: the request was answered.
const ANSWERED: u64 = 1 << 63;
/// In a stamp: no request had this number. The stamp is that of the request before.
const SKIPPED: u64 = 1 << 62;

/// When each request was sent, by its sequence number; 0: never. A stamp older than the session is from an earlier
/// one.
pub trait Stamps {
    /// The stamp of a sequence number.
    fn get(&self, sequence: u16) -> u64;
    /// Writes the stamp of a sequence number.
    fn set(&self, sequence: u16, stamp: u64);
}

/// What kind of reply came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reply {
    /// The first to its request, after a round trip of this many nanoseconds.
    Prompt(u64),
    /// The first to its request, but delayed by a gap.
    Late,
    /// A further one to a request that was answered before.
    Duplicate,
    /// To no request that was seen.
    Unasked,
}

/// When the request `sequence` was sent, without the flags in its stamp.
#[inline(always)]
fn sent_at(stamps: &impl Stamps, sequence: u32) -> u64 {
    stamps.get(sequence as u16) & !(ANSWERED | SKIPPED)
}

/// Takes in a request that was sent now.
#[inline(always)]
pub fn request(session: &shared::EchoSession, stamps: &impl Stamps, sequence: u16, now_ns: u64) {
    let sequence = u32::from(sequence);
    if session.sent.get() != 0 {
        let (last_sequence, last_request_ns) = (session.last_sequence.get(), session.last_request_ns.get());
        // The same frame, seen once more at the same interface.
        if sequence == last_sequence && stamps.get(sequence as u16) & ANSWERED == 0 {
            return;
        }
        session.longest_interval_ns.raise(now_ns.saturating_sub(last_request_ns));
        // Numbers are left out by requests that did not get this far because their neighbour was not resolved, and by
        // a few programs that count differently. The next request must still find the one before it.
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

/// Takes in a reply that came now. Hands a gap and its number to `report` when all is known of it. Silences that
/// certainly were shorter than `min_gap_ns` are ignored.
#[inline(always)]
pub fn reply(
    session: &shared::EchoSession,
    stamps: &impl Stamps,
    sequence: u16,
    now_ns: u64,
    min_gap_ns: u64,
    mut report: impl FnMut(u64, &shared::EchoGap),
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
    settle(session, now_ns, min_gap_ns, &mut report);
    if session.answered.get() != 1 {
        end_silence(session, stamps, sequence, sent_ns, now_ns, min_gap_ns, &mut report);
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
                report(session.next_reported(), &session.gap);
            }
        }
    }
    session.longest_round_trip_ns.raise(round_trip_ns);
    session.worst_round_trip_ns.raise(round_trip_ns);
    Reply::Prompt(round_trip_ns)
}

/// Stores the gap that a reply ends, if there was one: a certain gap, or a possible one.
#[inline(always)]
fn end_silence(
    session: &shared::EchoSession,
    stamps: &impl Stamps,
    sequence: u16,
    sent_ns: u64,
    now_ns: u64,
    min_gap_ns: u64,
    report: &mut impl FnMut(u64, &shared::EchoGap),
) {
    let around = around(session, stamps, sequence, sent_ns);
    if let Some(bound_ns) = certainly_silent(session, &around, now_ns, min_gap_ns) {
        if session.gap.is_unsettled() {
            // Requests that were on their way when it ended, and are still unanswered, belong to the gap that ends
            // now.
            let shared = session.gap_count.get().saturating_sub(session.answered_count.get());
            session.gap.requests.set(session.gap.requests.get().saturating_sub(shared));
            report(session.next_reported(), &session.gap);
        }
        close(session, stamps, &around, now_ns, bound_ns);
        session.shortest_round_trip_ns.set(now_ns - sent_ns);
    } else if around.passes_over(session) {
        doubt(session, sequence, &around, now_ns);
    }
}

/// Makes `sequence` the latest of the answered requests.
#[inline(always)]
fn advance(session: &shared::EchoSession, stamps: &impl Stamps, sequence: u32, sent_ns: u64) {
    let next_ns = sent_at(stamps, (sequence + 1) & 0xffff);
    session.answered_request_ns.set(sent_ns);
    session.answered_sequence.set(sequence);
    session.answered_count.set(session.sent_with(sequence));
    session.first_waiting_ns.set(if next_ns > sent_ns { next_ns } else { 0 });
}

impl shared::EchoSession {
    /// The number of the gap that is reported now.
    #[inline(always)]
    fn next_reported(&self) -> u64 {
        self.reported.count(1);
        self.reported.get()
    }

    /// How many requests had been sent up to and including `sequence`, one of the latest 2^16.
    #[inline(always)]
    fn sent_with(&self, sequence: u32) -> u64 {
        let later = self.last_sequence.get().wrapping_sub(sequence) & 0xffff;
        self.sent.get().saturating_sub(u64::from(later))
    }
}

impl EchoSession {
    /// The gaps that were not reported yet, as they are if no more replies come: the last gap, and the possible ones.
    pub fn unsettled(&self, min_gap_ns: u64) -> impl Iterator<Item = EchoGap> {
        let doubts = [self.doubt, self.next_doubt].map(|doubt| EchoGap {
            round_trip_after_ns: self.longest_latest_round_trip_ns(),
            shortest_round_trip_ns: self.shortest_latest_round_trip_ns(),
            longest_interval_ns: self.longest_interval_ns,
            disordered: self.recent_disordered + self.earlier_disordered,
            ..doubt
        });
        let doubts = doubts.into_iter().filter(move |doubt| doubt.is_worth_reporting(min_gap_ns));
        doubts.chain(Some(self.gap).filter(EchoGap::is_unsettled))
    }
}
