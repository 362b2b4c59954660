//! Milestones: the positions in the two streams of a connection at which both hosts stamp the first packet that reaches
//! them. A packet cannot arrive before it was sent, so two such stamps bound how far the hosts' clocks are apart.
//!
//! ```text
//! position  0   1   2     2^14    2*2^14   ...   2^20    2^20 + 2^14  ...   2^21    2^21 + 2^15  ...    end
//!           SYN │   │     │       │              │       │                  │       │                   │
//!               │   first byte    └── a milestone each 16 KiB ──┘           └── 64 for each doubling ──┘ after the FIN
//!               after the SYN
//! ```
//!
//! A milestone is crossed twice: by the first packet of the stream that ends there or later, and by the first packet of
//! the other direction that acknowledges everything up to there. "First" holds on both hosts, however the kernel joins
//! and cuts packets, and whatever is lost: the packet that arrives first was sent no earlier than the one that was sent
//! first.

use crate::abi::{crossed_by, flags, shared};
use crate::packet::Tcp;
use crate::packet::tcp_flags::ACK;
use crate::stream::WINDOW;

/// Milestones are at least 2^14 bytes apart.
const LEAST_SHIFT: u32 = 14;

/// There are 2^6 milestones between a power of two and the next.
const SHIFT_BELOW_SIZE: u32 = 6;

/// An acknowledgement that is further behind is one of an earlier round of sequence numbers.
const ONE_ROUND: u64 = 1 << 31;

/// The first milestone after a position of a stream that ends at `end`; 0: its end is not known.
#[inline(always)]
#[must_use]
pub const fn next(after: u64, end: u64) -> u64 {
    if after < 2 {
        return after + 1;
    }
    let size = 63 - after.leading_zeros();
    let shift = if size > LEAST_SHIFT + SHIFT_BELOW_SIZE { size - SHIFT_BELOW_SIZE } else { LEAST_SHIFT };
    let next = ((after >> shift) + 1) << shift;
    if after < end && end < next { end } else { next }
}

/// What a packet reaches for the first time: a set of bits.
pub mod reached {
    /// A milestone of its own stream.
    pub const SENT: u32 = 1;
    /// A milestone of the other direction's stream, which it acknowledges.
    pub const ACKNOWLEDGED: u32 = 2;
    /// The end of its own stream: it is a FIN.
    pub const END: u32 = 4;
}

/// Milestones that one packet has crossed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Crossing {
    /// One of [`crossed_by`].
    pub by: u32,
    /// No milestone from here on had been crossed before.
    pub first: u64,
    /// The position that was reached.
    pub last: u64,
    /// When.
    pub at_ns: u64,
}

impl shared::Milestone {
    /// There are no milestones.
    #[inline(always)]
    pub fn clear(&self) {
        self.position.set(0);
        self.sequence.set(0);
    }

    /// The next milestone of a stream is the one at `position`.
    #[inline(always)]
    fn set(&self, position: u64, initial_sequence: u32) {
        self.sequence.set(initial_sequence.wrapping_add(position as u32));
        self.position.set(position);
    }

    /// Whether a sequence number is at or after it, but not further away than any window.
    #[inline(always)]
    fn is_reached_by(&self, number: u32) -> bool {
        number.wrapping_sub(self.sequence.get()) <= WINDOW && self.position.get() != 0
    }

    /// The position of a sequence number in its surroundings.
    #[inline(always)]
    fn position_of(&self, number: u32) -> u64 {
        let ahead = number.wrapping_sub(self.sequence.get()).cast_signed();
        self.position.get().wrapping_add_signed(ahead as i64)
    }
}

impl shared::Direction {
    /// What a packet of this direction reaches for the first time: a set of [`reached`]. `is_new`: it carries new payload;
    /// `news`: those of its flags that were not known before.
    #[inline(always)]
    pub fn reached(&self, packet: &Tcp, is_new: bool, news: u32) -> u32 {
        let mut reached = 0;
        if is_new && self.sent.is_reached_by(packet.sequence.wrapping_add(packet.payload_bytes)) {
            reached |= reached::SENT;
        }
        if packet.tcp_flags & ACK != 0 && self.acknowledged.is_reached_by(packet.acknowledgement) {
            reached |= reached::ACKNOWLEDGED;
        }
        if news & flags::FIN != 0 {
            reached |= reached::END;
        }
        reached
    }

    /// A packet with new payload has reached a milestone. Those before its first byte were crossed by packets that were not
    /// seen here.
    #[inline(always)]
    fn cross(&self, packet: &Tcp, now_ns: u64) -> Crossing {
        let last = self.sent.position_of(packet.sequence.wrapping_add(packet.payload_bytes));
        let begin = last.wrapping_sub(packet.payload_bytes as u64).wrapping_add(1);
        let first = self.sent.position.get().max(begin);
        self.sent.set(next(last, 0), self.initial_sequence.get());
        Crossing { by: crossed_by::PAYLOAD, first, last, at_ns: now_ns }
    }

    /// A FIN was seen; returns the position after it. Unknown where positions are, or where bytes before it were not seen.
    #[inline(always)]
    fn cross_end(&self, fin: &Tcp) -> Option<u64> {
        let before = fin.sequence.wrapping_add(fin.payload_bytes);
        if self.sent.position.get() == 0 || before != self.next_sequence.get() {
            return None;
        }
        let end = self.sent.position_of(before).wrapping_add(1);
        self.end.set(end);
        Some(end)
    }

    /// A packet of this direction acknowledges a milestone of the stream `of`.
    #[inline(always)]
    fn cross_acknowledged(&self, of: &Self, packet: &Tcp, now_ns: u64) -> Option<Crossing> {
        let (first, last) =
            (self.acknowledged.position.get(), self.acknowledged.position_of(packet.acknowledgement));
        let (ahead, end) = (of.sent.position.get(), of.end.get());
        if ahead == 0 || ahead.wrapping_sub(last).cast_signed() > ONE_ROUND.cast_signed() {
            self.acknowledged.clear();
            return None;
        }
        // Nobody acknowledges what was not sent: somebody has made this packet up, or what it acknowledges was not seen here.
        if last > ahead.max(end) {
            return None;
        }
        self.acknowledged.set(next(last, end), of.initial_sequence.get());
        Some(Crossing { by: crossed_by::ACKNOWLEDGEMENT, first, last, at_ns: now_ns })
    }
}

impl shared::FlowEntry {
    /// The sequence numbers of the SYNs, by direction; 0 where none was seen.
    #[inline(always)]
    pub fn initial_sequences(&self) -> [u32; 2] {
        let [rx, tx] = &self.directions;
        [rx.initial_sequence.get(), tx.initial_sequence.get()]
    }

    /// Both SYNs have crossed, the client's in the direction `from_client`; the server's has acknowledged it. The next
    /// packet is the first that acknowledges the server's.
    #[inline(always)]
    pub fn begin_milestones(&self, from_client: usize) {
        let (client, server) = (&self.directions[from_client & 1], &self.directions[from_client & 1 ^ 1]);
        if client.flags.get() & server.flags.get() & flags::SYN == 0 {
            return;
        }
        let (of_client, of_server) = (client.initial_sequence.get(), server.initial_sequence.get());
        client.sent.set(2, of_client);
        server.sent.set(2, of_server);
        client.acknowledged.set(1, of_server);
        server.acknowledged.set(2, of_client);
    }

    /// Takes in a packet that has `reached` something, and reports what it has crossed.
    #[inline(always)]
    pub fn cross_milestones(
        &self,
        direction: usize,
        packet: &Tcp,
        reached: u32,
        now_ns: u64,
        mut report: impl FnMut(Crossing),
    ) {
        let (here, there) = (&self.directions[direction & 1], &self.directions[direction & 1 ^ 1]);
        if reached & reached::SENT != 0 {
            report(here.cross(packet, now_ns));
        }
        if reached & reached::ACKNOWLEDGED != 0
            && let Some(crossing) = here.cross_acknowledged(there, packet, now_ns)
        {
            report(crossing);
        }
        if reached & reached::END != 0
            && let Some(end) = here.cross_end(packet)
        {
            let by = crossed_by::PAYLOAD;
            let last_byte_ns = here.last_byte_ns.get();
            if last_byte_ns != 0 {
                report(Crossing { by, first: end - 1, last: end - 1, at_ns: last_byte_ns });
            }
            report(Crossing { by, first: end, last: end, at_ns: now_ns });
            if there.acknowledged.position.get() > end {
                there.acknowledged.set(end, here.initial_sequence.get());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The milestones of a stream, without the code above.
    fn is_milestone(position: u64) -> bool {
        let octave = (position as f64).log2().floor() as u32;
        position <= 2 || position.is_multiple_of(1 << octave.saturating_sub(6).max(14))
    }

    #[test]
    fn the_next_milestone_is_the_first_after_a_position() {
        assert!(
            (0..1 << 22)
                .filter(|at| is_milestone(*at))
                .eq(std::iter::successors(Some(0), |at| { Some(next(*at, 0)).filter(|at| *at < 1 << 22) }))
        );
        let hundred_gb = std::iter::successors(Some(0), |at| Some(next(*at, 0)));
        let count = hundred_gb.take_while(|at| *at < 100_000_000_000).count();
        assert!((1_000..1_200).contains(&count), "{count}");
    }

    #[test]
    fn the_end_of_a_stream_is_a_milestone() {
        assert_eq!([0, 1, 2, 16_384, 20_000].map(|at| next(at, 20_000)), [1, 2, 16_384, 20_000, 32_768]);
    }

    #[test]
    fn positions_go_on_where_sequence_numbers_wrap() {
        let stream = shared::Direction::default();
        stream.initial_sequence.set(7);
        stream.sent.set(2, 7);
        let step = 1 << 15;
        let (mut position, mut crossed) = (1u64, std::vec::Vec::new());
        while position < 5 << 32 {
            let sequence = 7u32.wrapping_add(position as u32);
            let packet = Tcp { sequence, payload_bytes: step, ..Tcp::default() };
            if stream.reached(&packet, true, 0) != 0 {
                crossed.push(stream.cross(&packet, 1));
            }
            position += u64::from(step);
        }
        for pair in crossed.windows(2) {
            assert_eq!(next(pair[0].last, 0), pair[1].first);
        }
        assert!(crossed.last().is_some_and(|last| last.last > 9 << 31), "{:?}", crossed.last());
    }

    #[test]
    fn an_acknowledgement_of_an_earlier_round_ends_the_milestones() {
        let (data, acknowledging) = (shared::Direction::default(), shared::Direction::default());
        data.sent.set((1 << 32) + 16_384, 0);
        acknowledging.acknowledged.set(16_384, 0);
        let packet = Tcp { acknowledgement: 16_390, tcp_flags: ACK, ..Tcp::default() };
        assert_eq!(acknowledging.reached(&packet, false, 0), reached::ACKNOWLEDGED);
        assert_eq!(acknowledging.cross_acknowledged(&data, &packet, 1), None);
        assert_eq!(acknowledging.reached(&packet, false, 0), 0);
    }
}
