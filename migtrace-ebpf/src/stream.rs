//! One direction of a connection: its counters, how far its stream has got, and whether it has ended.

use crate::abi::{flags, shared};
use crate::packet::Tcp;
use crate::packet::tcp_flags::{FIN, RST, SYN};

/// A segment that is further ahead than any window is a forgery, or many segments were missed.
pub(crate) const WINDOW: u32 = 1 << 26;

/// If nothing new was seen for this long, a segment outside of all windows shows where the stream is now.
const LOST_NS: u64 = 1_000_000_000;

/// The [`flags`] that a packet sets.
#[inline(always)]
#[must_use]
pub const fn flags_of(packet: &Tcp) -> u32 {
    let mut seen = flags::STARTED;
    if packet.tcp_flags & FIN != 0 {
        seen |= flags::FIN;
    }
    if packet.tcp_flags & SYN != 0 {
        seen |= flags::SYN;
    }
    if packet.tcp_flags & RST != 0 {
        seen |= flags::RST;
    }
    if packet.payload_bytes >= 4 {
        seen |= flags::PAYLOAD;
    }
    seen
}

impl shared::Direction {
    /// Adds a packet to the counters.
    #[inline(always)]
    pub fn count(&self, packet: &Tcp, now_ns: u64) {
        let tags = u64::from(packet.segments) * u64::from(self.tag_bytes.get());
        self.wire_bytes.add(packet.wire_bytes + tags);
        self.payload_bytes.add(u64::from(packet.payload_bytes));
        self.segments.add(u64::from(packet.segments));
        self.skbs.add(1);
        // Losing a race with another CPU is off by nanoseconds.
        self.last_ns.set(now_ns);
    }

    /// Starts with a packet at an interface.
    #[inline(always)]
    pub fn start(&self, ifindex: u32, tag_bytes: u32, now_ns: u64) {
        self.ifindex.set(ifindex);
        self.tag_bytes.set(tag_bytes);
        self.first_ns.set(now_ns);
        self.set(flags::STARTED);
    }

    /// Starts with its side of a handshake.
    #[inline(always)]
    pub fn start_with(&self, side: &shared::HandshakeSide, tag_bytes: u32) {
        if !side.is_seen() {
            return;
        }
        let segments = u64::from(side.segments.get());
        let sequence = side.sequence.get();
        self.start(side.ifindex.get(), tag_bytes, side.first_ns.get());
        self.wire_bytes.add(side.wire_bytes.get() + segments * u64::from(tag_bytes));
        self.payload_bytes.add(u64::from(side.payload_bytes.get()));
        self.segments.add(segments);
        self.skbs.add(segments);
        self.last_ns.set(side.last_ns.get());
        self.initial_sequence.set(sequence);
        self.next_sequence.set(sequence.wrapping_add(1));
        self.set(flags::SYN);
    }

    /// Sets flags.
    #[inline(always)]
    pub fn set(&self, flags: u32) {
        self.flags.set(self.flags.get() | flags);
    }

    /// Sets everything to zero.
    #[inline(always)]
    pub fn clear(&self) {
        for word in [
            &self.wire_bytes,
            &self.payload_bytes,
            &self.segments,
            &self.skbs,
            &self.last_ns,
            &self.last_byte_ns,
            &self.first_ns,
            &self.elsewhere_skbs,
            &self.end,
        ] {
            word.set(0);
        }
        for word in [
            &self.next_sequence,
            &self.flags,
            &self.ifindex,
            &self.tag_bytes,
            &self.first_payload,
            &self.initial_sequence,
        ] {
            word.set(0);
        }
        self.sent.clear();
        self.acknowledged.clear();
    }

    /// Notes when payload crosses that has not crossed before; returns whether it does. Retransmitted payload has
    /// crossed before.
    ///
    /// The packets of one connection are handed down one after the other.
    #[inline(always)]
    pub fn advance(&self, packet: &Tcp, now_ns: u64) -> bool {
        let next = packet.sequence.wrapping_add(packet.payload_bytes);
        let last_byte_ns = self.last_byte_ns.get();
        let ahead = next.wrapping_sub(self.next_sequence.get());
        let is_new = if ahead <= WINDOW {
            ahead != 0 || last_byte_ns == 0
        } else if last_byte_ns == 0 {
            true
        } else {
            // Behind, or outside of all windows: then it is unknown how often the sequence numbers have wrapped.
            let is_lost = ahead.wrapping_neg() > WINDOW && now_ns > last_byte_ns + LOST_NS;
            if is_lost {
                self.sent.clear();
            }
            is_lost
        };
        if is_new {
            self.next_sequence.set(next);
            self.last_byte_ns.set(now_ns);
        }
        is_new
    }

    /// Takes in the flags `seen` of a packet, whose payload is new or is not; returns those that were not known
    /// before.
    ///
    /// FIN and RST are retracted if that side goes on with the connection: anybody can forge an RST or a FIN, which
    /// the other end then ignores.
    #[inline(always)]
    pub fn note(&self, seen: u32, is_new: bool) -> u32 {
        let known = self.flags.get();
        let over = if is_new { flags::FIN | flags::RST } else { flags::RST };
        let next = (known & !over) | seen;
        if next != known {
            // If two CPUs race here and a bit is lost, the next packet sets it again.
            self.flags.set(next);
        }
        seen & !known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn direction(next_sequence: u32) -> shared::Direction {
        let direction = shared::Direction::default();
        direction.next_sequence.set(next_sequence);
        direction
    }

    fn data(sequence: u32, payload_bytes: u32) -> Tcp {
        Tcp {
            sequence,
            payload_bytes,
            segments: 1,
            wire_bytes: u64::from(payload_bytes) + 66,
            tcp_flags: 0x10,
            ..Tcp::default()
        }
    }

    #[test]
    fn only_payload_that_had_not_crossed_before_is_new() {
        // Sequence numbers wrap.
        let isn = u32::MAX - 700;
        let stream = direction(isn.wrapping_add(1));
        for (sequence, payload, is_new) in [
            (1, 500, true),
            (501, 500, true),
            // All of it again, and a part of it.
            (501, 500, false),
            (1, 200, false),
            // An old end and a new one.
            (501, 600, true),
        ] {
            assert_eq!(
                stream.advance(&data(isn.wrapping_add(sequence), payload), MS),
                is_new,
                "{payload} at {sequence}"
            );
        }
    }

    #[test]
    fn a_forged_segment_far_ahead_does_not_hide_the_next_bytes() {
        let stream = direction(1);
        assert!(stream.advance(&data(1, 1000), MS));
        assert!(!stream.advance(&data(2_000_000_000, 1000), 2 * MS), "far ahead");
        assert!(stream.advance(&data(1001, 1000), 3 * MS));
        assert_eq!(stream.last_byte_ns.get(), 3 * MS);
        // The programs were not attached, and the stream went on.
        assert!(!stream.advance(&data(900_000_000, 1000), 900 * MS));
        assert!(stream.advance(&data(900_001_000, 1000), 1_100 * MS));
        assert!(stream.advance(&data(900_002_000, 1000), 1_101 * MS));
    }

    #[test]
    fn a_side_that_goes_on_is_not_closed() {
        let stream = direction(1);
        let pass = |tcp_flags, sequence, payload| {
            let packet = Tcp { tcp_flags, ..data(sequence, payload) };
            let is_new = payload != 0 && stream.advance(&packet, MS);
            stream.note(flags_of(&packet), is_new);
            stream.flags.get() & (flags::FIN | flags::RST)
        };
        assert_eq!(pass(0x14, 77, 0), flags::RST);
        assert_eq!(pass(0x10, 1, 0), 0, "an ACK after somebody's RST");
        assert_eq!(pass(0x11, 1, 100), flags::FIN);
        assert_eq!(pass(0x10, 1, 100), flags::FIN, "sent again");
        assert_eq!(pass(0x10, 102, 0), flags::FIN, "acknowledges what the other end still sends");
        assert_eq!(pass(0x10, 101, 100), 0, "and more after somebody's FIN");
        assert_eq!(pass(0x11, 201, 0), flags::FIN);
        assert_eq!(pass(0x14, 202, 0), flags::FIN | flags::RST);
    }

    #[test]
    fn tags_are_counted_for_every_frame() {
        let stream = direction(1);
        stream.tag_bytes.set(4);
        stream.count(
            &Tcp { segments: 3, wire_bytes: 3 * 66 + 3000, payload_bytes: 3000, ..Tcp::default() },
            MS,
        );
        assert_eq!(stream.wire_bytes.get(), 3 * 70 + 3000);
        assert_eq!((stream.segments.get(), stream.skbs.get()), (3, 1));
    }
}
