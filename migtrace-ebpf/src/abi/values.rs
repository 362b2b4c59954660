//! What lies in maps where several CPUs and user space read and write it at once.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::word::{Word, Words};

/// Defines each of these types twice: as a copy, in which nobody else reads or writes, and in [`shared`] as the words
/// themselves. `U64` and `U32` are the integers of the one and the words of the other.
macro_rules! values {
    ($(
        $(#[$about:meta])*
        pub struct $name:ident {
            $($(#[$about_field:meta])* pub $field:ident: $type:ty,)+
        }
    )+) => {
        type U64 = u64;
        type U32 = u32;

        $(
            $(#[$about])*
            #[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
            #[repr(C)]
            pub struct $name {
                $($(#[$about_field])* pub $field: $type,)+
            }
        )+

        /// What lies in a map: every access is one to a whole word.
        ///
        /// The types of the same names are copies of these: the same bytes, in which nobody else reads or writes.
        #[allow(missing_docs, reason = "the copies' fields say what they are")]
        pub mod shared {
            use super::{Word, Words};

            type U64 = Word<u64>;
            type U32 = Word<u32>;

            $(
                #[doc = concat!("[`", stringify!($name), "`](super::", stringify!($name), ")")]
                #[derive(Debug, Default)]
                #[repr(C)]
                pub struct $name {
                    $(pub $field: $type,)+
                }

                const _: () = assert!(size_of::<$name>() == size_of::<super::$name>());

                impl Words for $name {
                    type Copied = super::$name;

                    #[inline(always)]
                    fn load(&self) -> super::$name {
                        super::$name { $($field: self.$field.load(),)+ }
                    }

                    #[inline(always)]
                    fn store(&self, value: &super::$name) {
                        $(self.$field.store(&value.$field);)+
                    }
                }
            )+
        }
    };
}

values! {
    /// What was counted of one connection in one direction.
    pub struct Direction {
        /// Bytes on the wire: L2 headers of every segment included, no FCS and preamble.
        pub wire_bytes: U64,
        /// TCP payload bytes.
        pub payload_bytes: U64,
        /// Frames on the wire.
        pub segments: U64,
        /// Socket buffers that the program saw.
        pub skbs: U64,
        /// `CLOCK_MONOTONIC` of the last packet.
        pub last_ns: U64,
        /// `CLOCK_MONOTONIC` of the last packet with payload beyond all that had crossed before; 0 while there was none.
        pub last_byte_ns: U64,
        /// Sequence number behind that payload; behind the SYN while there was none.
        pub next_sequence: U32,
        /// A set of [`flags`](super::flags).
        pub flags: U32,
        /// Interface at which this direction is counted, the one of its first packet; valid with [`flags::STARTED`](super::flags::STARTED).
        pub ifindex: U32,
        /// Bytes of VLAN tags that a frame has on the wire but not at that interface.
        pub tag_bytes: U32,
        /// `CLOCK_MONOTONIC` of the first packet; valid with [`flags::STARTED`](super::flags::STARTED).
        pub first_ns: U64,
        /// Packets seen at another interface than `ifindex`; they are not in the counters above.
        pub elsewhere_skbs: U64,
        /// The first four bytes of TCP payload, big endian; valid with [`flags::PAYLOAD`](super::flags::PAYLOAD).
        pub first_payload: U32,
        /// Sequence number of the SYN; valid with [`flags::SYN`](super::flags::SYN).
        pub initial_sequence: U32,
    }

    /// What is known of one connection.
    pub struct FlowEntry {
        /// Indexed by [`INGRESS`](super::INGRESS) and [`EGRESS`](super::EGRESS).
        pub directions: [Direction; 2],
        /// `CLOCK_MONOTONIC` of the entry's making: a later connection between the same ends has another.
        pub opened_ns: U64,
        /// Thread group that owns the connection; 0 while unknown.
        pub owner: U32,
        /// The owner's [`Claim`](super::Claim) to it.
        pub claim: U32,
        /// 1 while the programs look for its owner.
        pub unowned: U32,
        /// Zero.
        pub padding: U32,
        /// What this host sent again.
        pub retransmitted: Retransmitted,
    }

    /// What a host sent again on one connection.
    pub struct Retransmitted {
        /// Segments.
        pub segments: U64,
        /// TCP payload bytes.
        pub payload_bytes: U64,
        /// The kernel's address of the socket that the next two are of.
        pub socket: U64,
        /// What the socket itself had counted when it was last looked at: `tcp_sock.total_retrans`.
        pub socket_segments: U64,
        /// As above: `tcp_sock.bytes_retrans`.
        pub socket_bytes: U64,
    }

    /// One side of a handshake: its SYN, with or without an ACK.
    pub struct HandshakeSide {
        /// As in [`Direction`].
        pub wire_bytes: U64,
        /// `CLOCK_MONOTONIC` of the first of its packets.
        pub first_ns: U64,
        /// `CLOCK_MONOTONIC` of the last of them.
        pub last_ns: U64,
        /// As in [`Direction`].
        pub payload_bytes: U32,
        /// Packets: more than one when it was sent again; 0: none was seen.
        pub segments: U32,
        /// Interface of the first.
        pub ifindex: U32,
        /// Its sequence number.
        pub sequence: U32,
        /// 1 when a socket on this machine has sent it.
        pub sent_here: U32,
        /// Zero.
        pub padding: U32,
    }

    /// A connection to a watched port that is not open yet.
    ///
    /// Anybody can send a SYN, and a hundred thousand of them. What nobody can fake is the third packet of a handshake, which
    /// names a number that the second told: only that packet opens a [`FlowEntry`], with what is kept here of the first two.
    pub struct Handshake {
        /// Indexed by [`INGRESS`](super::INGRESS) and [`EGRESS`](super::EGRESS).
        pub sides: [HandshakeSide; 2],
        /// What this host sent again of it.
        pub retransmitted: Retransmitted,
    }

    /// What the programs keep of a traced process.
    pub struct Process {
        /// The budget for the lines of QMP that it writes: see [`LINES`](crate::budget::LINES).
        pub lines: U64,
        /// How many lines were dropped because there was no budget for them.
        pub dropped_lines: U64,
        /// One more than the descriptor to which it has written lines of an event and not yet the last; 0: to none.
        pub inside_event: U32,
        /// The slot of memory that its latest round of reading KVM's log of dirtied pages began with.
        pub round_slot: U32,
        /// When that round began; 0: there was none.
        pub round_ns: U64,
        /// All its claims to flows have numbers below this.
        pub flow_claims: U32,
        /// All its claims to vCPUs have numbers below this.
        pub vcpu_claims: U32,
    }

    /// What is known of the thread of one vCPU. All times are `CLOCK_MONOTONIC`.
    pub struct Vcpu {
        /// When it last entered KVM; 0: not seen.
        pub entered_ns: U64,
        /// When it last left KVM after it had surely run the guest; 0: not seen.
        pub left_ns: U64,
        /// When it last left KVM; 0: not seen.
        pub exited_ns: U64,
        /// Its process.
        pub tgid: U32,
        /// 1 while it is in KVM.
        pub inside: U32,
        /// 1 when it left because the guest halted it: it waits for an interrupt, in user space.
        pub halted: U32,
        /// 1 when user space was told of the run that it is in.
        pub told: U32,
        /// 1 from its first run after a stop until it has surely run the guest: `left_ns` is from before the stop.
        pub resuming: U32,
        /// The number of its process' [`Claim`](super::Claim) to it.
        pub claim: U32,
    }

    /// What is known of the guest's end of a tap. Only programs write to it, but for its first value.
    pub struct GuestPort {
        /// Frames of the guest, without those that QEMU announces it with.
        pub frames: U64,
        /// When the last of them came.
        pub last_frame_ns: U64,
        /// Announcements of the guest's place, by QEMU and by the guest.
        pub announcements: U64,
        /// The budget for those that are told: see [`ANNOUNCEMENTS`](crate::budget::ANNOUNCEMENTS).
        pub announcements_full_ns: U64,
        /// 1 while the next frame is awaited.
        pub awaited: U32,
        /// Zero.
        pub padding: U32,
    }

    /// A silence of the target, as the stamps of requests and replies tell it. All times are `CLOCK_MONOTONIC`.
    ///
    /// What bounds the silence is worked out in user space; here is only what was seen.
    pub struct EchoGap {
        /// When the latest request was sent that was answered before.
        pub answered_request_ns: U64,
        /// When the last reply came before.
        pub last_reply_ns: U64,
        /// When the first request was sent that was not answered before `resumed_ns`.
        pub first_waiting_ns: U64,
        /// When the request was sent that precedes the one whose reply ended the gap.
        pub before_resumed_ns: U64,
        /// When the request was sent whose reply ended the gap.
        pub resuming_request_ns: U64,
        /// When the reply came that ended the gap; 0: there is no gap.
        pub resumed_ns: U64,
        /// The longest of the latest round trips before, in nanoseconds.
        pub round_trip_before_ns: U64,
        /// The longest of the first round trips after, in nanoseconds.
        pub round_trip_after_ns: U64,
        /// How many round trips `round_trip_after_ns` is the longest of.
        pub round_trips_after: U64,
        /// Requests that were sent after `answered_request_ns` and not after `resumed_ns`, but for those that a gap right after
        /// it holds too.
        pub requests: U64,
        /// Of these, those sent before `resuming_request_ns` and answered after `resumed_ns`.
        pub overtaken: U64,
        /// Of these, those sent at `resuming_request_ns` or later that waited for longer than `round_trip_before_ns`.
        pub waited: U64,
        /// Of these, the other answered ones.
        pub prompt: U64,
        /// Replies to these that came more than once.
        pub duplicate: U64,
        /// The longest round trip since the gap before, or since the first request.
        pub worst_round_trip_ns: U64,
        /// 1: a silence that may have been, found only because later requests were answered first. Then `requests` are those
        /// that were passed over and those that passed them, `waited` the ones of all these that waited for longer than the
        /// latest round trips, and `prompt` the other answered ones.
        pub may_be: U64,
        /// Where `may_be` is 1, else 0: the shortest of the latest round trips, in nanoseconds.
        pub shortest_round_trip_ns: U64,
        /// Likewise: the longest time between two requests so far, in nanoseconds.
        pub longest_interval_ns: U64,
        /// Likewise: how many of the latest replies came after one to a later request.
        pub disordered: U64,
    }

    /// What is known of one stream of echo requests. All times are `CLOCK_MONOTONIC`.
    pub struct EchoSession {
        /// [`EchoKey::mark`](super::EchoKey::mark) of the session whose number it is.
        pub mark: U64,
        /// Requests.
        pub sent: U64,
        /// When the first request was sent.
        pub first_request_ns: U64,
        /// When the latest request was sent.
        pub last_request_ns: U64,
        /// The longest time between two requests, in nanoseconds.
        pub longest_interval_ns: U64,
        /// When the first request was sent that is not answered and later than every answered one; 0: none waits.
        pub first_waiting_ns: U64,
        /// Requests that were answered.
        pub answered: U64,
        /// Of these, those that a gap delayed.
        pub late: U64,
        /// Replies to requests that were answered before.
        pub duplicate: U64,
        /// Replies to nothing that was seen.
        pub unasked: U64,
        /// When the last first reply to a request came.
        pub last_reply_ns: U64,
        /// The shortest round trip since the last gap ended, in nanoseconds.
        pub shortest_round_trip_ns: U64,
        /// When the latest of the answered requests was sent.
        pub answered_request_ns: U64,
        /// How many requests had been sent with that one.
        pub answered_count: U64,
        /// The longest round trip but for the late ones, in nanoseconds.
        pub longest_round_trip_ns: U64,
        /// Likewise, since the last gap.
        pub worst_round_trip_ns: U64,
        /// The longest round trip of the window that is being filled.
        pub recent_round_trip_ns: U64,
        /// The longest round trip of the window before.
        pub earlier_round_trip_ns: U64,
        /// How many round trips the window holds.
        pub recent_count: U64,
        /// The shortest round trip of the window that is being filled.
        pub recent_shortest_ns: U64,
        /// The shortest round trip of the window before; 0: there is none.
        pub earlier_shortest_ns: U64,
        /// Replies of the window that is being filled that came after one to a later request.
        pub recent_disordered: U64,
        /// Likewise, of the window before.
        pub earlier_disordered: U64,
        /// How many gaps were closed that were ones for sure.
        pub gaps: U64,
        /// The last of them. What follows it is still counted into it.
        pub gap: EchoGap,
        /// How many requests had been sent when it ended.
        pub gap_count: U64,
        /// A silence that may have been, while the requests that were passed over may still be answered in time.
        pub doubt: EchoGap,
        /// What may have been one after that. Whatever comes meanwhile is made one with it.
        pub next_doubt: EchoGap,
        /// How many gaps were told, of either kind.
        pub told: U64,
        /// Sequence number of the latest request.
        pub last_sequence: U32,
        /// Sequence number of the latest of the answered requests.
        pub answered_sequence: U32,
    }
}

impl shared::FlowEntry {
    /// Sets flags of both directions.
    #[inline(always)]
    pub fn set(&self, flags: u32) {
        for direction in &self.directions {
            direction.set(flags);
        }
    }

    /// Forgets everything.
    #[inline(always)]
    pub fn clear(&self) {
        for direction in &self.directions {
            direction.clear();
        }
        for word in [&self.owner, &self.claim] {
            word.set(0);
        }
        self.retransmitted.store(&Retransmitted::default());
    }
}
