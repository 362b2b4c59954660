//! What a host has retransmitted on one connection, from the counters of its socket.
//!
//! The tracepoint fires for every retransmission, but since Linux 6.17 a program now and then misses one. The socket
//! has counted it all the same, so the next one that is seen makes up for it.

use crate::abi::Retransmitted;

/// -EBUSY: an earlier copy is still in a queue of this host, so the socket has neither sent nor counted this one.
const NOT_TRIED: i32 = -16;

/// A retransmission, as the tracepoint reports it.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The kernel's address of the socket.
    pub socket: u64,
    /// Segments to retransmit.
    pub segments: u64,
    /// Their TCP payload bytes.
    pub payload_bytes: u64,
    /// Segments that the socket has counted so far, including these and those of failed attempts.
    pub total_segments: u64,
    /// As above, payload bytes.
    pub total_bytes: u64,
    /// The result: a negative errno, or the verdict of a queue of this host. None where the tracepoint fires for
    /// successes only.
    pub outcome: Option<i32>,
}

impl Retransmitted {
    /// Takes in an attempt. `is_whole`: the connection was seen from its start, so all that its socket has counted
    /// belongs to it.
    #[inline(always)]
    pub fn take(&mut self, attempt: &Attempt, is_whole: bool) {
        let Some(outcome) = attempt.outcome else {
            // Whatever else the socket has counted has failed.
            self.segments += attempt.segments;
            self.payload_bytes += attempt.payload_bytes;
            return;
        };
        if outcome == NOT_TRIED {
            return;
        }
        if self.socket != attempt.socket {
            self.socket = attempt.socket;
            self.socket_segments = attempt.total_segments.saturating_sub(attempt.segments);
            self.socket_bytes = attempt.total_bytes.saturating_sub(attempt.payload_bytes);
            if is_whole {
                self.socket_segments = 0;
                self.socket_bytes = 0;
            }
        }
        let segments = attempt.total_segments.saturating_sub(self.socket_segments);
        let payload_bytes = attempt.total_bytes.saturating_sub(self.socket_bytes);
        if outcome >= 0 {
            // Above 0: a queue of this host dropped it, but it had been counted on its way before.
            self.segments += segments;
            self.payload_bytes += payload_bytes;
            self.socket_segments = attempt.total_segments;
            self.socket_bytes = attempt.total_bytes;
        } else if segments >= attempt.segments {
            // It failed after the socket had counted it.
            self.socket_segments += attempt.segments;
            self.socket_bytes += attempt.payload_bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOMEM: i32 = -12;
    /// NET_XMIT_DROP
    const DROPPED: i32 = 1;
    const MSS: u64 = 1448;

    /// A socket that retransmits, and what is seen of it.
    struct Socket {
        address: u64,
        total: u64,
        sum: Retransmitted,
    }

    impl Socket {
        const fn new() -> Self {
            let sum = Retransmitted {
                segments: 0,
                payload_bytes: 0,
                socket: 0,
                socket_segments: 0,
                socket_bytes: 0,
            };
            Self { address: 1, total: 0, sum }
        }

        const fn after(total: u64) -> Self {
            Self { total, ..Self::new() }
        }

        fn missed(&mut self, segments: u64) {
            self.total += segments;
        }

        fn seen(&mut self, segments: u64, outcome: Option<i32>, is_whole: bool) {
            let attempt = Attempt {
                socket: self.address,
                segments,
                payload_bytes: segments * MSS,
                total_segments: self.total,
                total_bytes: self.total * MSS,
                outcome,
            };
            self.sum.take(&attempt, is_whole);
        }

        fn sent(&mut self, segments: u64) {
            self.missed(segments);
            self.seen(segments, Some(0), true);
        }

        #[track_caller]
        fn assert(&self, segments: u64) {
            assert_eq!((self.sum.segments, self.sum.payload_bytes), (segments, segments * MSS));
        }
    }

    #[test]
    fn what_is_seen_is_added_up() {
        let mut socket = Socket::new();
        socket.sent(1);
        socket.sent(3);
        socket.assert(4);
    }

    #[test]
    fn the_next_attempt_makes_up_for_missed_ones() {
        let mut socket = Socket::new();
        socket.missed(2);
        socket.sent(1);
        socket.missed(5);
        socket.assert(3);
        socket.sent(1);
        socket.assert(9);
    }

    #[test]
    fn retransmissions_before_the_connection_was_watched_are_left_out() {
        let mut socket = Socket::after(40);
        socket.missed(2);
        socket.seen(2, Some(0), false);
        socket.assert(2);
    }

    #[test]
    fn failed_attempts_do_not_count_even_if_the_socket_has_counted_them() {
        let mut socket = Socket::new();
        socket.sent(1);
        socket.seen(1, Some(NOT_TRIED), true);
        socket.seen(1, Some(ENOMEM), true);
        socket.missed(2);
        socket.seen(2, Some(ENOMEM), true);
        socket.sent(1);
        socket.assert(2);
    }

    #[test]
    fn a_segment_that_a_queue_drops_counts() {
        let mut socket = Socket::new();
        socket.missed(2);
        socket.seen(2, Some(DROPPED), true);
        socket.assert(2);
    }

    #[test]
    fn where_failures_are_not_reported_only_what_is_seen_counts() {
        let mut socket = Socket::new();
        socket.missed(7);
        socket.missed(1);
        socket.seen(1, None, true);
        socket.assert(1);
    }

    #[test]
    fn another_socket_with_the_same_addresses_starts_anew() {
        let mut socket = Socket::new();
        socket.sent(9);
        socket.address = 2;
        socket.total = 0;
        socket.sent(4);
        socket.assert(13);
    }
}
