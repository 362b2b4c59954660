//! How a connection begins: what distinguishes the opening of a new one from packets that somebody made up.

use crate::abi::shared;
use crate::packet::Tcp;
use crate::packet::tcp_flags::{ACK, SYN};

/// Which step of a handshake a packet with neither FIN nor RST is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum HandshakeStep {
    /// The first packet, to the server.
    Syn,
    /// The second packet, from the server.
    Answer,
    /// Any other packet. The first of these is the third packet of the handshake.
    Other,
}

impl HandshakeStep {
    /// The step that `packet` is.
    #[inline(always)]
    #[must_use]
    pub const fn of(packet: &Tcp) -> Self {
        match packet.tcp_flags & (SYN | ACK) {
            SYN => Self::Syn,
            0 | ACK => Self::Other,
            _ => Self::Answer,
        }
    }
}

/// Whether `number` is `first` or at most a gigabyte after it: numbers wrap.
#[inline(always)]
const fn is_at_or_after(number: u32, first: u32) -> bool {
    number.wrapping_sub(first) < 1 << 30
}

impl shared::HandshakeSide {
    /// Whether its packet was seen.
    #[inline(always)]
    pub fn is_seen(&self) -> bool {
        self.segments.get() != 0
    }

    /// Counts its packet, or a retransmission of it. The same packet at another interface on its way does not count.
    #[inline(always)]
    fn count(&self, packet: &Tcp, ifindex: u32, now_ns: u64) {
        if !self.is_seen() {
            self.ifindex.set(ifindex);
            self.first_ns.set(now_ns);
        } else if self.ifindex.get() != ifindex {
            return;
        }
        self.sequence.set(packet.sequence);
        self.last_ns.set(now_ns);
        self.wire_bytes.add(packet.wire_bytes);
        self.payload_bytes.add(packet.payload_bytes);
        self.segments.add(packet.segments);
    }

    #[inline(always)]
    fn clear(&self) {
        self.wire_bytes.set(0);
        self.payload_bytes.set(0);
        self.segments.set(0);
        self.sent_here.set(0);
    }
}

impl shared::Handshake {
    /// Takes in a SYN that goes in `direction`. One with another number starts the handshake anew.
    #[inline(always)]
    pub fn begin(&self, direction: usize, syn: &Tcp, ifindex: u32, now_ns: u64) {
        let [client, server] = self.client_and_server(direction);
        if client.is_seen() && client.sequence.get() != syn.sequence {
            client.clear();
            server.clear();
        }
        client.count(syn, ifindex, now_ns);
    }

    /// Takes in a SYN with ACK that goes in `direction`; returns whether it answers the SYN that was seen.
    #[inline(always)]
    pub fn answer(&self, direction: usize, answer: &Tcp, ifindex: u32, now_ns: u64) -> bool {
        let [client, server] = self.client_and_server(direction ^ 1);
        let answers = client.is_seen() && answer.acknowledgement == client.sequence.get().wrapping_add(1);
        if answers {
            server.count(answer, ifindex, now_ns);
        }
        answers
    }

    /// Whether a packet without SYN that goes in `direction` proves that the client has received the answer. Usually
    /// that is the third packet of the handshake. If that was lost or overtaken, it is a later one.
    #[inline(always)]
    pub fn is_completed_by(&self, direction: usize, packet: &Tcp) -> bool {
        let [client, server] = self.client_and_server(direction);
        client.is_seen()
            && server.is_seen()
            && is_at_or_after(packet.acknowledgement, server.sequence.get().wrapping_add(1))
            && is_at_or_after(packet.sequence, client.sequence.get().wrapping_add(1))
    }

    /// Whether a socket of this machine has sent one of its packets.
    #[inline(always)]
    pub fn is_sent_here(&self) -> bool {
        self.sides.iter().any(|side| side.sent_here.get() != 0)
    }

    #[inline(always)]
    fn client_and_server(&self, from_client: usize) -> [&shared::HandshakeSide; 2] {
        [&self.sides[from_client & 1], &self.sides[from_client & 1 ^ 1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{EGRESS, INGRESS};

    const OUT: usize = EGRESS as usize;
    const IN: usize = INGRESS as usize;
    const ETH0: u32 = 2;
    const BR0: u32 = 3;

    fn packet(tcp_flags: u8, sequence: u32, acknowledgement: u32) -> Tcp {
        Tcp { tcp_flags, sequence, acknowledgement, segments: 1, wire_bytes: 74, ..Tcp::default() }
    }

    #[test]
    fn the_flags_show_which_step_a_packet_is() {
        for (flags, step) in [
            (2, HandshakeStep::Syn),
            (18, HandshakeStep::Answer),
            (16, HandshakeStep::Other),
            (0x18, HandshakeStep::Other),
            (0, HandshakeStep::Other),
        ] {
            assert_eq!(HandshakeStep::of(&packet(flags, 0, 0)), step, "{flags}");
        }
    }

    #[test]
    fn only_a_client_that_has_received_the_answer_completes_a_handshake() {
        let pending = shared::Handshake::default();
        // Both numbers wrap.
        let (client, server) = (u32::MAX, u32::MAX - 1);
        pending.begin(OUT, &packet(2, client, 0), ETH0, 10);
        assert!(!pending.is_completed_by(OUT, &packet(16, 0, 0)), "nobody has answered");
        assert!(!pending.answer(IN, &packet(18, server, client), ETH0, 20), "an answer to another SYN");
        assert!(!pending.is_completed_by(OUT, &packet(16, 0, u32::MAX)));
        assert!(pending.answer(IN, &packet(18, server, 0), ETH0, 20));
        assert!(pending.is_completed_by(OUT, &packet(16, 0, u32::MAX)));
        assert!(
            pending.is_completed_by(OUT, &packet(0x18, 1000, 7)),
            "the third was lost, this is a later one"
        );
        assert!(!pending.is_completed_by(OUT, &packet(16, 0, server)), "a guessed number");
        assert!(!pending.is_completed_by(OUT, &packet(16, client - 5, u32::MAX)));
        assert_eq!(pending.sides[IN].first_ns.get(), 20);
    }

    #[test]
    fn retransmissions_count_but_not_the_same_packet_at_two_interfaces() {
        let pending = shared::Handshake::default();
        for (ifindex, now_ns) in [(ETH0, 10), (BR0, 11), (ETH0, 1000), (BR0, 1001)] {
            pending.begin(IN, &packet(2, 5, 0), ifindex, now_ns);
        }
        let client = &pending.sides[IN];
        assert_eq!(client.segments.get(), 2);
        assert_eq!(client.wire_bytes.get(), 148);
        assert_eq!((client.first_ns.get(), client.last_ns.get()), (10, 1000));
    }

    #[test]
    fn a_syn_with_another_number_starts_anew() {
        let pending = shared::Handshake::default();
        pending.begin(IN, &packet(2, 5, 0), ETH0, 10);
        assert!(pending.answer(OUT, &packet(18, 70, 6), ETH0, 11));
        pending.begin(IN, &packet(2, 900, 0), ETH0, 20);
        assert!(!pending.is_completed_by(IN, &packet(16, 901, 71)), "it belongs to the attempt before");
        assert!(pending.answer(OUT, &packet(18, 80, 901), ETH0, 21));
        assert!(pending.is_completed_by(IN, &packet(16, 901, 81)));
        assert_eq!(pending.sides[IN].segments.get(), 1);
        assert_eq!(pending.sides[IN].first_ns.get(), 20);
    }
}
