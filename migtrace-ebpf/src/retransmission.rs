//! What a host has sent again on one connection, from what its socket counts itself.
//!
//! The kernel tells of every retransmission, but since Linux 6.17 now and then one is not told to the program that
//! listens. The socket has counted it all the same, so the next one that is told makes up for it.

use crate::abi::Retransmitted;

/// -EBUSY: an earlier copy still waits in a queue of this host, so the socket has neither tried nor counted it.
const NOT_TRIED: i32 = -16;

/// A retransmission that the kernel tells of.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// The kernel's address of the socket.
    pub socket: u64,
    /// Segments that were to be sent again.
    pub segments: u64,
    /// Their TCP payload bytes.
    pub payload_bytes: u64,
    /// Segments that the socket has counted so far, these and those of failed attempts included.
    pub total_segments: u64,
    /// As above, payload bytes.
    pub total_bytes: u64,
    /// How it went, as a negative errno or what a queue of this host said; none where the kernel tells of successes only.
    pub outcome: Option<i32>,
}

impl Retransmitted {
    /// Takes in an attempt. `is_whole`: the connection was seen from its start, so all that its socket has counted is
    /// wanted.
    #[inline(always)]
    pub fn take(&mut self, attempt: &Attempt, is_whole: bool) {
        let Some(outcome) = attempt.outcome else {
            // What the socket counts besides has failed.
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
            // More than 0: a queue of this host dropped it, but after it had been seen on its way.
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

    /// A socket that sends again, and what is told of it.
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

        fn untold(&mut self, segments: u64) {
            self.total += segments;
        }

        fn told(&mut self, segments: u64, outcome: Option<i32>, is_whole: bool) {
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
            self.untold(segments);
            self.told(segments, Some(0), true);
        }

        #[track_caller]
        fn assert(&self, segments: u64) {
            assert_eq!((self.sum.segments, self.sum.payload_bytes), (segments, segments * MSS));
        }
    }

    #[test]
    fn what_is_told_is_added_up() {
        let mut socket = Socket::new();
        socket.sent(1);
        socket.sent(3);
        socket.assert(4);
    }

    #[test]
    fn what_is_not_told_is_made_up_for_by_the_next() {
        let mut socket = Socket::new();
        socket.untold(2);
        socket.sent(1);
        socket.untold(5);
        socket.assert(3);
        socket.sent(1);
        socket.assert(9);
    }

    #[test]
    fn what_was_before_the_connection_was_watched_is_left_out() {
        let mut socket = Socket::after(40);
        socket.untold(2);
        socket.told(2, Some(0), false);
        socket.assert(2);
    }

    #[test]
    fn what_failed_was_not_sent_whether_the_socket_has_counted_it_or_not() {
        let mut socket = Socket::new();
        socket.sent(1);
        socket.told(1, Some(NOT_TRIED), true);
        socket.told(1, Some(ENOMEM), true);
        socket.untold(2);
        socket.told(2, Some(ENOMEM), true);
        socket.sent(1);
        socket.assert(2);
    }

    #[test]
    fn what_a_queue_dropped_had_been_on_its_way() {
        let mut socket = Socket::new();
        socket.untold(2);
        socket.told(2, Some(DROPPED), true);
        socket.assert(2);
    }

    #[test]
    fn where_failures_are_not_told_only_what_is_told_counts() {
        let mut socket = Socket::new();
        socket.untold(7);
        socket.untold(1);
        socket.told(1, None, true);
        socket.assert(1);
    }

    #[test]
    fn another_socket_of_the_same_addresses_begins_anew() {
        let mut socket = Socket::new();
        socket.sent(9);
        socket.address = 2;
        socket.total = 0;
        socket.sent(4);
        socket.assert(13);
    }
}
