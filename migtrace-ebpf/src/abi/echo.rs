//! Echo requests and replies: which are followed, and what is seen of them.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::EventHeader;
use super::shared_values::shared_values;

/// The value of [`EchoTarget::identifier`] that stands for all identifiers.
pub const ANY_IDENTIFIER: u32 = u32::MAX;

/// How many echo sessions can be followed at once.
pub const ECHO_SESSIONS: u32 = 16;

/// How many sequence numbers there are: ICMP gives them 16 bits.
pub const ECHO_SEQUENCES: u32 = 1 << 16;

/// Which echo requests to an address are followed.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct EchoTarget {
    /// The requests with this identifier, or [`ANY_IDENTIFIER`].
    pub identifier: u32,
    /// Zero.
    pub padding: u32,
    /// Only requests from the socket with this cookie open a session; 0: requests from any sender.
    pub socket: u64,
}

/// One echo session: who is asked, who asks, and the identifier in the requests.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct EchoKey {
    /// Address in network order; IPv4 as `::ffff:a.b.c.d`.
    pub target: [u32; 4],
    /// Who asks, in the same form.
    pub peer: [u32; 4],
    /// Host order.
    pub identifier: u16,
    /// Zero: the kernel hashes these bytes too.
    pub padding: u16,
}

impl EchoKey {
    /// As much of the key as distinguishes a session from the one that has got its number.
    #[inline(always)]
    #[must_use]
    pub const fn mark(&self) -> u64 {
        (self.peer[3] as u64) << 32 | (self.peer[2] as u16 as u64) << 16 | self.identifier as u64
    }
}

/// A gap, once the round trips that follow it are known.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct EchoGapEvent {
    /// When it was settled.
    pub header: EventHeader,
    /// Number of the session.
    pub slot: u32,
    /// Zero.
    pub padding: u32,
    /// When the session's first request was sent: an earlier session with the same number has another value.
    pub first_request_ns: u64,
    /// How many gaps of the session were reported, including this one.
    pub number: u64,
    /// The gap.
    pub gap: EchoGap,
}

shared_values! {
    /// A silence of the target, as the stamps of requests and replies show it. All times are `CLOCK_MONOTONIC`.
    ///
    /// User space works out the bounds of the silence; here is only what was seen.
    pub struct EchoGap {
        /// When the latest request that was answered before the gap was sent.
        pub answered_request_ns: U64,
        /// When the last reply before the gap came.
        pub last_reply_ns: U64,
        /// When the first request that was not answered before `resumed_ns` was sent.
        pub first_waiting_ns: U64,
        /// When the request before the one at `resuming_request_ns` was sent.
        pub before_resumed_ns: U64,
        /// When the request whose reply ended the gap was sent.
        pub resuming_request_ns: U64,
        /// When the reply that ended the gap came; 0: there is no gap.
        pub resumed_ns: U64,
        /// The longest of the latest round trips before, in nanoseconds.
        pub round_trip_before_ns: U64,
        /// The longest of the first round trips after, in nanoseconds.
        pub round_trip_after_ns: U64,
        /// From how many round trips `round_trip_after_ns` was taken.
        pub round_trips_after: U64,
        /// Requests that were sent after `answered_request_ns` and not after `resumed_ns`, except those that also
        /// belong to a gap right after this one.
        pub requests: U64,
        /// Of these, those sent before `resuming_request_ns` and answered after `resumed_ns`.
        pub overtaken: U64,
        /// Of these, those sent at `resuming_request_ns` or later that waited for longer than `round_trip_before_ns`.
        pub waited: U64,
        /// Of these, the other answered ones.
        pub prompt: U64,
        /// Further replies to these requests, after their first ones.
        pub duplicate: U64,
        /// The longest round trip since the gap before, or since the first request.
        pub worst_round_trip_ns: U64,
        /// 1: a possible silence, found only because later requests were answered first. Then `requests` are those
        /// that were passed over and those that passed them; `waited` are those of them that waited for longer than
        /// the latest round trips; `prompt` are the other answered ones.
        pub may_be: U64,
        /// With `may_be`, else 0: the shortest of the latest round trips, in nanoseconds.
        pub shortest_round_trip_ns: U64,
        /// With `may_be`, else 0: the longest time between two requests so far, in nanoseconds.
        pub longest_interval_ns: U64,
        /// With `may_be`, else 0: how many of the latest replies came after one to a later request.
        pub disordered: U64,
    }

    /// The state of one echo session. All times are `CLOCK_MONOTONIC`.
    pub struct EchoSession {
        /// [`EchoKey::mark`] of the session that has this number.
        pub mark: U64,
        /// Requests.
        pub sent: U64,
        /// When the first request was sent.
        pub first_request_ns: U64,
        /// When the latest request was sent.
        pub last_request_ns: U64,
        /// The longest time between two requests, in nanoseconds.
        pub longest_interval_ns: U64,
        /// When the first request after every answered one was sent; 0: none is waiting.
        pub first_waiting_ns: U64,
        /// Requests that were answered.
        pub answered: U64,
        /// Of these, those that a gap delayed.
        pub late: U64,
        /// Replies to requests that were answered before.
        pub duplicate: U64,
        /// Replies to no request that was seen.
        pub unasked: U64,
        /// When the last reply came; further replies to the same request do not count.
        pub last_reply_ns: U64,
        /// The shortest round trip since the last gap ended, in nanoseconds.
        pub shortest_round_trip_ns: U64,
        /// When the latest of the answered requests was sent.
        pub answered_request_ns: U64,
        /// How many requests had been sent by then, including that one.
        pub answered_count: U64,
        /// The longest round trip except the late ones, in nanoseconds.
        pub longest_round_trip_ns: U64,
        /// As above, since the last gap.
        pub worst_round_trip_ns: U64,
        /// The longest round trip of the current window.
        pub recent_round_trip_ns: U64,
        /// The longest round trip of the window before.
        pub earlier_round_trip_ns: U64,
        /// How many round trips the current window holds.
        pub recent_count: U64,
        /// The shortest round trip of the current window.
        pub recent_shortest_ns: U64,
        /// The shortest round trip of the window before; 0: there was none.
        pub earlier_shortest_ns: U64,
        /// Replies of the current window that came after one to a later request.
        pub recent_disordered: U64,
        /// As above, of the window before.
        pub earlier_disordered: U64,
        /// How many certain gaps have ended.
        pub gaps: U64,
        /// The last of them. What follows it is still counted in it.
        pub gap: EchoGap,
        /// How many requests had been sent when it ended.
        pub gap_count: U64,
        /// A possible silence, while the requests that were passed over may still be answered in time.
        pub doubt: EchoGap,
        /// The possible silence after that. Further ones are joined with it.
        pub next_doubt: EchoGap,
        /// How many gaps were reported, certain and possible ones.
        pub reported: U64,
        /// Sequence number of the latest request.
        pub last_sequence: U32,
        /// Sequence number of the latest of the answered requests.
        pub answered_sequence: U32,
    }
}
