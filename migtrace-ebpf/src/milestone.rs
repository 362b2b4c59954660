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
//!
//! A host sends the packets of a connection one after the other, but may receive two at once, on two CPUs. Then a milestone
//! may be reported twice, and the earlier report holds, or not at all.

use crate::abi::{EGRESS, crossed_by, flags, shared};
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

    /// Its position, and that of a sequence number in its surroundings. Another packet may cross it meanwhile, on another
    /// CPU. So its position is read once, and its own sequence number, which may be that of another position, not at all.
    #[inline(always)]
    fn locate(&self, number: u32, initial_sequence: u32) -> (u64, u64) {
        let position = self.position.get();
        let ahead = number.wrapping_sub(initial_sequence.wrapping_add(position as u32)).cast_signed();
        (position, position.wrapping_add_signed(ahead as i64))
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

    /// A packet with new payload has reached a milestone, unless another was faster. Those before its first byte were crossed
    /// by packets that were not seen here.
    #[inline(always)]
    fn cross(&self, packet: &Tcp, now_ns: u64) -> Option<Crossing> {
        let number = packet.sequence.wrapping_add(packet.payload_bytes);
        let initial_sequence = self.initial_sequence.get();
        let (milestone, last) = self.sent.locate(number, initial_sequence);
        if milestone == 0 || last < milestone {
            return None;
        }
        let begin = last.wrapping_sub(packet.payload_bytes as u64).wrapping_add(1);
        self.sent.set(next(last, 0), initial_sequence);
        Some(Crossing { by: crossed_by::PAYLOAD, first: milestone.max(begin), last, at_ns: now_ns })
    }

    /// The position that this stream has reached by now: `before`, or that of the furthest payload that was seen.
    #[inline(always)]
    fn reached_late(&self, initial_sequence: u32, before: u64) -> u64 {
        if self.last_byte_ns.get() == 0 {
            return before;
        }
        let sequence_before = initial_sequence.wrapping_add(before as u32);
        let since = self.next_sequence.get().wrapping_sub(sequence_before).cast_signed();
        before + since.max(0).cast_unsigned() as u64
    }

    /// A FIN was seen; returns the position after it. Unknown where positions are, or where bytes before it were not seen.
    #[inline(always)]
    fn cross_end(&self, fin: &Tcp) -> Option<u64> {
        let before = fin.sequence.wrapping_add(fin.payload_bytes);
        if self.sent.position.get() == 0 || before != self.next_sequence.get() {
            return None;
        }
        let (_, last) = self.sent.locate(before, self.initial_sequence.get());
        let end = last.wrapping_add(1);
        self.end.set(end);
        Some(end)
    }

    /// A packet of this direction acknowledges a milestone of the stream `of`. `is_own`: this host has sent it.
    #[inline(always)]
    fn cross_acknowledged(&self, of: &Self, packet: &Tcp, is_own: bool, now_ns: u64) -> Option<Crossing> {
        let initial_sequence = of.initial_sequence.get();
        let (first, last) = self.acknowledged.locate(packet.acknowledgement, initial_sequence);
        let (ahead, end) = (of.sent.position.get(), of.end.get());
        if ahead == 0 || ahead.wrapping_sub(last).cast_signed() > ONE_ROUND.cast_signed() {
            self.acknowledged.clear();
            return None;
        }
        if first == 0 || last < first {
            return None;
        }
        // Nobody acknowledges what was not sent: somebody has made this packet up, or what it acknowledges was not seen here.
        if last > ahead.max(end) {
            // If it is real, the next one is not the first to acknowledge these milestones. That would be wrong only of a packet
            // that this host has sent: it would seem to have been sent later than it was.
            if is_own {
                self.acknowledged.set(next(last, end), initial_sequence);
            }
            return None;
        }
        self.acknowledged.set(next(last, end), initial_sequence);
        Some(Crossing { by: crossed_by::ACKNOWLEDGEMENT, first, last, at_ns: now_ns })
    }
}

/// How far ahead of what has crossed the first milestone is: more than a packet that crosses meanwhile can have.
const AHEAD: u64 = 1 << 18;

/// Begins the milestones of the stream that goes in the direction `here`; returns whether there are any. `before`: the
/// position that it had reached before it was counted, or a later one.
#[inline(always)]
fn begin_late(
    here: &shared::Direction,
    there: &shared::Direction,
    initial_sequence: u32,
    before: u64,
) -> bool {
    if here.sent.position.get() != 0 {
        return true;
    }
    let first = next(here.reached_late(initial_sequence, before) + AHEAD, 0);
    here.initial_sequence.set(initial_sequence);
    there.acknowledged.set(first, initial_sequence);
    // This program was interrupted, and more has crossed meanwhile. Somebody may have acknowledged the first milestone already.
    if here.reached_late(initial_sequence, before) >= first {
        there.acknowledged.clear();
        return false;
    }
    here.sent.set(first, initial_sequence);
    true
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

    /// The first packets were not seen, but the sequence numbers of the SYNs are known, and the positions that the streams had
    /// reached before they were counted, or later ones: `[INGRESS, EGRESS]`. The streams have milestones from positions on that
    /// no packet has reached yet. Returns whether both have.
    #[inline(always)]
    pub fn begin_milestones_late(&self, initial_sequences: [u32; 2], before: [u64; 2]) -> bool {
        let [rx, tx] = &self.directions;
        let receives = begin_late(rx, tx, initial_sequences[0], before[0]);
        let sends = begin_late(tx, rx, initial_sequences[1], before[1]);
        receives && sends
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
        if reached & reached::SENT != 0
            && let Some(crossing) = here.cross(packet, now_ns)
        {
            report(crossing);
        }
        let is_own = direction & 1 == EGRESS as usize;
        if reached & reached::ACKNOWLEDGED != 0
            && let Some(crossing) = here.cross_acknowledged(there, packet, is_own, now_ns)
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
    use crate::abi::INGRESS;

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
                crossed.extend(stream.cross(&packet, 1));
            }
            position += u64::from(step);
        }
        for pair in crossed.windows(2) {
            assert_eq!(next(pair[0].last, 0), pair[1].first);
        }
        assert!(crossed.last().is_some_and(|last| last.last > 9 << 31), "{:?}", crossed.last());
    }

    const IN: usize = INGRESS as usize;
    const OUT: usize = EGRESS as usize;

    /// A connection of whose stream nothing but the SYN has crossed, which goes in this direction.
    fn connection(data: usize) -> shared::FlowEntry {
        let flow = shared::FlowEntry::default();
        flow.directions[data].sent.set(2, 0);
        flow.directions[data ^ 1].acknowledged.set(2, 0);
        flow
    }

    fn data(first: u32, last: u32) -> Tcp {
        Tcp { sequence: first, payload_bytes: last - first, ..Tcp::default() }
    }

    fn acknowledgement(of: u32) -> Tcp {
        Tcp { acknowledgement: of, tcp_flags: ACK, ..Tcp::default() }
    }

    /// The first and last position that a packet crosses, which has seen before what it reaches.
    fn crossed(flow: &shared::FlowEntry, direction: usize, packet: &Tcp, reached: u32) -> Option<[u64; 2]> {
        let mut crossed = None;
        flow.cross_milestones(direction, packet, reached, 1, |crossing| {
            crossed = Some([crossing.first, crossing.last]);
        });
        crossed
    }

    fn acknowledged(flow: &shared::FlowEntry, direction: usize, of: u32) -> Option<[u64; 2]> {
        let packet = acknowledgement(of);
        let reached = flow.directions[direction].reached(&packet, false, 0);
        crossed(flow, direction, &packet, reached)
    }

    #[test]
    fn a_packet_that_is_overtaken_on_another_cpu_does_not_hide_what_is_acknowledged() {
        let flow = connection(IN);
        let (older, newer) = (data(1, 20_000), data(20_000, 60_000));
        // Both CPUs look before either crosses.
        let [reached, reached_by_newer] =
            [&older, &newer].map(|packet| flow.directions[IN].reached(packet, true, 0));
        assert_eq!(crossed(&flow, IN, &newer, reached_by_newer), Some([20_001, 60_000]));
        assert_eq!(crossed(&flow, IN, &older, reached), None);
        assert_eq!(acknowledged(&flow, OUT, 60_000), Some([2, 60_000]));
    }

    #[test]
    fn what_this_host_acknowledges_unseen_is_not_said_to_be_acknowledged_later() {
        let flow = connection(IN);
        let (seen, later) = (data(1, 10_000), data(70_000, 90_000));
        let cross =
            |packet: &Tcp| crossed(&flow, IN, packet, flow.directions[IN].reached(packet, true, 0)).is_some();
        assert!(cross(&seen));
        assert_eq!(acknowledged(&flow, OUT, 70_000), None);
        assert!(cross(&later));
        assert_eq!(acknowledged(&flow, OUT, 90_000), Some([81_920, 90_000]));
    }

    #[test]
    fn an_acknowledgement_that_somebody_has_made_up_hides_nothing() {
        let flow = connection(OUT);
        let packet = data(1, 20_000);
        let reached = flow.directions[OUT].reached(&packet, true, 0);
        assert!(crossed(&flow, OUT, &packet, reached).is_some());
        assert_eq!(acknowledged(&flow, IN, 70_000), None);
        assert_eq!(acknowledged(&flow, IN, 20_000), Some([2, 20_000]));
    }

    #[test]
    fn an_acknowledgement_of_an_earlier_round_ends_the_milestones() {
        let (data, acknowledging) = (shared::Direction::default(), shared::Direction::default());
        data.sent.set((1 << 32) + 16_384, 0);
        acknowledging.acknowledged.set(16_384, 0);
        let packet = Tcp { acknowledgement: 16_390, tcp_flags: ACK, ..Tcp::default() };
        assert_eq!(acknowledging.reached(&packet, false, 0), reached::ACKNOWLEDGED);
        assert_eq!(acknowledging.cross_acknowledged(&data, &packet, true, 1), None);
        assert_eq!(acknowledging.reached(&packet, false, 0), 0);
    }

    #[test]
    fn a_stream_whose_beginning_was_missed_has_milestones_ahead_of_what_was_seen() {
        let flow = shared::FlowEntry::default();
        // Sequence numbers wrap.
        let isn = u32::MAX - 500;
        let [rx, tx] = &flow.directions;
        // What was counted has not got further than the socket had.
        rx.next_sequence.set(1_000);
        rx.last_byte_ns.set(5);
        assert!(flow.begin_milestones_late([7, isn], [5_000, 1]));
        let first = [5_000, 1].map(|before| next(before + AHEAD, 0));
        assert_eq!([rx, tx].map(|stream| stream.sent.position.get()), first);
        assert_eq!([tx, rx].map(|way| way.acknowledged.position.get()), first);
        assert_eq!(tx.sent.sequence.get(), isn.wrapping_add(first[1] as u32));
        tx.next_sequence.set(isn.wrapping_add(5_000_000));
        tx.last_byte_ns.set(5);
        assert!(flow.begin_milestones_late([7, isn], [9_000, 4_000_000]));
        assert_eq!(tx.sent.position.get(), first[1], "they have begun");
    }

    #[test]
    fn what_was_counted_after_the_socket_was_read_is_before_the_first_milestone() {
        let stream = shared::Direction::default();
        let (isn, before) = (u32::MAX - 500, (3 << 32) + 70_000);
        assert_eq!(stream.reached_late(isn, before), before);
        stream.last_byte_ns.set(5);
        for (further, reached) in [(-40_000_i64, before), (90_000, before + 90_000)] {
            stream.next_sequence.set(isn.wrapping_add(before.wrapping_add_signed(further) as u32));
            assert_eq!(stream.reached_late(isn, before), reached);
        }
    }
}
