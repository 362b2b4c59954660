//! Keys, counters and events as they cross the border: `repr(C)`, no padding, no enum and no bool.
//!
//! User space reads these bytes as the kernel wrote them, so a value that Rust would call invalid must not exist.

use crate::budget::Budget;

/// A packet that came in through the interface.
pub const INGRESS: u8 = 0;
/// A packet that goes out through the interface.
pub const EGRESS: u8 = 1;

/// One TCP connection in one direction, as the packet's headers name it.
///
/// A key whose ports are 0 is the bucket for IP fragments between the two addresses.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct FlowKey {
    /// Source address in network order; IPv4 as `::ffff:a.b.c.d`.
    pub source: [u32; 4],
    /// Destination address, likewise.
    pub destination: [u32; 4],
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, host order.
    pub destination_port: u16,
    /// [`INGRESS`] or [`EGRESS`].
    pub direction: u8,
    /// Zero: the kernel hashes these bytes too.
    pub padding: [u8; 3],
}

impl FlowKey {
    /// The same connection in the other direction.
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            direction: self.direction ^ 1,
            padding: [0; 3],
        }
    }

    /// The bucket for fragments between the same addresses, in the same direction.
    #[must_use]
    pub const fn fragments(&self) -> Self {
        Self { source_port: 0, destination_port: 0, ..*self }
    }
}

/// What was counted of one connection in one direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct FlowEntry {
    /// Bytes on the wire: L2 headers of every segment included, no FCS and preamble.
    pub wire_bytes: u64,
    /// TCP payload bytes.
    pub payload_bytes: u64,
    /// Frames on the wire.
    pub segments: u64,
    /// Socket buffers that the program saw.
    pub skbs: u64,
    /// `CLOCK_MONOTONIC` of the first packet.
    pub first_ns: u64,
    /// `CLOCK_MONOTONIC` of the last packet.
    pub last_ns: u64,
    /// Packets seen at another interface than `ifindex`; they are not in the counters above.
    pub elsewhere_skbs: u64,
    /// Interface at which the first packet was seen.
    pub ifindex: u32,
    /// Thread group that owns the connection; 0 while unknown.
    pub owner: u32,
    /// The first four bytes of TCP payload, big endian; valid with [`flags::PAYLOAD`].
    pub first_payload: u32,
    /// A set of [`flags`].
    pub flags: u32,
    /// `CLOCK_MONOTONIC` of the last packet with payload beyond all that had crossed before; 0 while there was none.
    pub last_byte_ns: u64,
    /// Sequence number behind that payload.
    pub next_sequence: u32,
    /// Zero.
    pub padding: u32,
}

/// Bits of [`FlowEntry::flags`].
pub mod flags {
    /// The connection's opening (SYN) was seen: nothing precedes what was counted.
    pub const SYN: u32 = 1;
    /// This direction was closed (FIN).
    pub const FIN: u32 = 2;
    /// The connection was reset (RST).
    pub const RST: u32 = 4;
    /// Payload was seen: `first_payload` holds its first bytes.
    pub const PAYLOAD: u32 = 8;
}

/// What a host sent again on one connection.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Retransmitted {
    /// Segments.
    pub segments: u64,
    /// TCP payload bytes.
    pub payload_bytes: u64,
    /// The kernel's address of the socket that the next two are of.
    pub socket: u64,
    /// What the socket itself had counted when it was last looked at: `tcp_sock.total_retrans`.
    pub socket_segments: u64,
    /// As above: `tcp_sock.bytes_retrans`.
    pub socket_bytes: u64,
}

/// The sum over the flows of one owner, one direction.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Sum {
    /// Bytes on the wire.
    pub wire_bytes: u64,
    /// TCP payload bytes.
    pub payload_bytes: u64,
    /// Frames on the wire.
    pub segments: u64,
    /// Socket buffers.
    pub skbs: u64,
}

/// [`Sum`] of both directions.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Sums {
    /// Indexed by [`INGRESS`] and [`EGRESS`].
    pub by_direction: [Sum; 2],
}

/// The start of every event in the ring buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct Header {
    /// `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// One of [`kind`].
    pub kind: u32,
    /// Thread group of the process in whose context it happened; 0 in packet context.
    pub tgid: u32,
}

/// Values of [`Header::kind`].
pub mod kind {
    /// [`FlowEvent`](super::FlowEvent): a flow's first packet in one direction.
    pub const FLOW_SEEN: u32 = 1;
    /// [`FlowOwned`](super::FlowOwned): `tgid` sends on the flow's socket, or has accepted it.
    pub const FLOW_OWNED: u32 = 2;
    /// [`FlowEvent`](super::FlowEvent): the first payload of a flow in one direction.
    pub const FLOW_PAYLOAD: u32 = 3;
    /// [`QmpLine`](super::QmpLine).
    pub const QMP_LINE: u32 = 4;
    /// Only a [`Header`](super::Header): `tgid` has become another program whose name looks like QEMU's.
    pub const PROCESS_EXEC: u32 = 5;
    /// Only a [`Header`](super::Header): the last thread of `tgid`, a traced process, has ended.
    pub const PROCESS_EXIT: u32 = 6;
    /// [`EchoGapEvent`](super::EchoGapEvent).
    pub const ECHO_GAP: u32 = 7;
    /// [`GuestRun`](super::GuestRun): a vCPU enters KVM after none of its VM was in it.
    pub const GUEST_RUN: u32 = 8;
    /// [`GuestRunVoid`](super::GuestRunVoid): that run was none.
    pub const GUEST_RUN_VOID: u32 = 9;
    /// [`DirtyLogRead`](super::DirtyLogRead): a traced process begins to read the log of dirtied pages.
    pub const DIRTY_LOG: u32 = 10;
    /// [`GuestPortEvent`](super::GuestPortEvent): the frame that user space waits for.
    pub const GUEST_FRAME: u32 = 11;
    /// [`GuestPortEvent`](super::GuestPortEvent): an announcement.
    pub const ANNOUNCEMENT: u32 = 12;
}

/// Something about a flow.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct FlowEvent {
    /// When, and which kind.
    pub header: Header,
    /// The flow.
    pub key: FlowKey,
    /// Interface of the packet; 0 when there is none.
    pub ifindex: u32,
    /// A set of [`flags`].
    pub flags: u32,
    /// As in [`FlowEntry`].
    pub first_payload: u32,
    /// Zero.
    pub padding: u32,
}

/// A flow is tied to a process: from now on its counters are in the sums over that process' flows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct FlowOwned {
    /// When, and whose it is.
    pub header: Header,
    /// The flow.
    pub key: FlowKey,
    /// What had crossed by then.
    pub crossed: Sums,
    /// `CLOCK_MONOTONIC` of the last packet of that; 0 without any.
    pub last_ns: u64,
}

/// How many bytes of one write of QMP are copied. An event has some 200.
pub const QMP_LINE_MAX: usize = 4096;

/// What a traced QEMU writes to its monitor of an event, and its flows' counters at that instant. The bytes follow, at
/// most [`QMP_LINE_MAX`] of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct QmpLine {
    /// When, and whose.
    pub header: Header,
    /// The sum over this process' flows; valid when `summed` is 1.
    pub sums: Sums,
    /// Its vCPUs; valid when `summed` is 1.
    pub vcpus: Vcpus,
    /// 1 when `sums` was read.
    pub summed: u32,
    /// One of [`part`].
    pub part: u32,
    /// 1 when more was written than follows.
    pub cut: u32,
    /// Zero.
    pub padding: u32,
}

/// What the bytes behind a [`QmpLine`] are: values of [`QmpLine::part`].
pub mod part {
    /// Nothing of an event: such a write is not told of.
    pub const NONE: u32 = 0;
    /// A whole event; others may follow.
    pub const WHOLE: u32 = 1;
    /// The second line of an event of which each line is written alone; the first was `{`.
    pub const SECOND_LINE: u32 = 2;
    /// A later line of that event.
    pub const LINE: u32 = 3;
    /// Its last line.
    pub const LAST_LINE: u32 = 4;
}

/// How many processes can be traced.
pub const TRACED_MAX: usize = 1024;

/// What is known of a traced process. User space puts in the default.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Process {
    /// For the lines of QMP that it writes.
    pub lines: Budget,
    /// How many lines were dropped because there was no budget for them.
    pub dropped_lines: u64,
    /// One more than the descriptor to which it has written lines of an event and not yet the last; 0: to none.
    pub inside_event: u32,
    /// Zero.
    pub padding: u32,
}

/// What is known of the thread of one vCPU. All times are `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Vcpu {
    /// When it last entered KVM; 0: not seen.
    pub entered_ns: u64,
    /// When it last left KVM after it had surely run the guest; 0: not seen.
    pub left_ns: u64,
    /// When it last left KVM; 0: not seen.
    pub exited_ns: u64,
    /// Its process.
    pub tgid: u32,
    /// 1 while it is in KVM.
    pub inside: u32,
    /// 1 when it left because the guest halted it: it waits for an interrupt, in user space.
    pub halted: u32,
    /// 1 when user space was told of the run that it is in.
    pub told: u32,
    /// 1 from its first run after a stop until it has surely run the guest: `left_ns` is from before the stop.
    pub resuming: u32,
    /// Zero.
    pub padding: u32,
}

/// The vCPUs of one VM at an instant.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Vcpus {
    /// Those that were seen to enter or leave KVM.
    pub known: u32,
    /// Of these, those in KVM.
    pub inside: u32,
    /// Of those in KVM, the ones whose first run after a stop has just begun.
    pub starting: u32,
    /// Of those that are known, the ones that wait for an interrupt in user space.
    pub halted: u32,
    /// When the first of the others left KVM; 0 without any.
    pub first_left_ns: u64,
    /// When the last of the others left KVM; 0 without any.
    pub last_left_ns: u64,
}

/// A vCPU enters KVM after none of its VM has been in it for a while. Told of each vCPU, because the first one may leave
/// without having run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct GuestRun {
    /// When, and whose.
    pub header: Header,
    /// The VM's vCPUs just before.
    pub vcpus: Vcpus,
}

/// The run of a [`GuestRun`] has ended without the guest having run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct GuestRunVoid {
    /// When it ended, and whose it was.
    pub header: Header,
    /// When it began.
    pub entered_ns: u64,
    /// 1 when it is certain; 0 when it was so short, and ended so, that it looks like one.
    pub certain: u64,
}

/// A round of reading KVM's log of dirtied pages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct DirtyLogRound {
    /// When it began.
    pub began_ns: u64,
    /// The slot of memory that it began with.
    pub first_slot: u32,
    /// Zero.
    pub padding: u32,
}

/// A process begins to read KVM's log of dirtied pages: a round of copying ends and the next begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct DirtyLogRead {
    /// When, and whose.
    pub header: Header,
    /// The sum over this process' flows.
    pub sums: Sums,
}

/// How many taps can be watched.
pub const GUEST_PORTS_MAX: usize = 1024;

/// What is known of the guest's end of a tap.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct GuestPort {
    /// Frames of the guest, without those that QEMU announces it with.
    pub frames: u64,
    /// When the last of them came.
    pub last_frame_ns: u64,
    /// Announcements of the guest's place, by QEMU and by the guest.
    pub announcements: u64,
    /// 1 while user space waits for the next frame.
    pub awaited: u32,
    /// Zero.
    pub padding: u32,
}

/// After this many announcements at one tap user space is told of no more; they are still counted.
pub const ANNOUNCEMENTS_TOLD: u64 = 256;

/// How the network is told where the guest is: values of [`GuestPortEvent::announcement`].
pub mod announcement {
    /// None.
    pub const NONE: u32 = 0;
    /// A RARP request for the guest's own address, by QEMU.
    pub const RARP: u32 = 1;
    /// A gratuitous ARP.
    pub const GRATUITOUS_ARP: u32 = 2;
    /// An unsolicited neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u32 = 3;
}

/// Something came from a guest through its tap.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct GuestPortEvent {
    /// When.
    pub header: Header,
    /// The tap.
    pub ifindex: u32,
    /// One of [`announcement`].
    pub announcement: u32,
}

/// The value of [`EchoTarget::identifier`] that stands for all of them.
pub const ANY_IDENTIFIER: u32 = u32::MAX;

/// How many streams of echo requests can be followed.
pub const ECHO_SESSIONS: u32 = 16;

/// How many sequence numbers there are: ICMP gives them 16 bits.
pub const ECHO_SEQUENCES: u32 = 1 << 16;

/// What to follow of the echo requests to an address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct EchoTarget {
    /// The requests with this identifier, or [`ANY_IDENTIFIER`].
    pub identifier: u32,
}

/// One stream of echo requests: who is asked, who asks, and the asker's identifier.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(C)]
pub struct EchoKey {
    /// Address in network order; IPv4 as `::ffff:a.b.c.d`.
    pub target: [u32; 4],
    /// Likewise.
    pub peer: [u32; 4],
    /// Host order.
    pub identifier: u16,
    /// Zero: the kernel hashes these bytes too.
    pub padding: u16,
}

/// A silence of the target, as the stamps of requests and replies tell it. All times are `CLOCK_MONOTONIC`.
///
/// What bounds the silence is worked out in user space; here is only what was seen.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct EchoGap {
    /// When the latest request was sent that was answered before.
    pub answered_request_ns: u64,
    /// When the last reply came before.
    pub last_reply_ns: u64,
    /// When the first request was sent that was not answered before `resumed_ns`.
    pub first_waiting_ns: u64,
    /// When the request was sent that precedes the one whose reply ended the gap.
    pub before_resumed_ns: u64,
    /// When the request was sent whose reply ended the gap.
    pub resuming_request_ns: u64,
    /// When the reply came that ended the gap; 0: there is no gap.
    pub resumed_ns: u64,
    /// The longest of the latest round trips before, in nanoseconds.
    pub round_trip_before_ns: u64,
    /// The longest of the first round trips after, in nanoseconds.
    pub round_trip_after_ns: u64,
    /// How many round trips `round_trip_after_ns` is the longest of.
    pub round_trips_after: u64,
    /// Requests that were sent after `answered_request_ns` and not after `resumed_ns`.
    pub requests: u64,
    /// Of these, those sent before `resuming_request_ns` and answered after `resumed_ns`.
    pub overtaken: u64,
    /// Of these, those sent at `resuming_request_ns` or later that waited for longer than `round_trip_before_ns`.
    pub waited: u64,
    /// Of these, the other answered ones.
    pub prompt: u64,
    /// Replies to these that came more than once.
    pub duplicate: u64,
    /// The longest round trip since the gap before, or since the first request.
    pub worst_round_trip_ns: u64,
    /// 1: a silence that may have been, found only because later requests were answered first. Then `requests` are those
    /// that were passed over and those that passed them, `waited` the ones of all these that waited for longer than the
    /// latest round trips, and `prompt` the other answered ones.
    pub may_be: u64,
    /// Where `may_be` is 1, else 0: the shortest of the latest round trips, in nanoseconds.
    pub shortest_round_trip_ns: u64,
    /// Likewise: the longest time between two requests so far, in nanoseconds.
    pub longest_interval_ns: u64,
    /// Likewise: how many of the latest replies came after one to a later request.
    pub disordered: u64,
}

/// What is known of one stream of echo requests. All times are `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct EchoSession {
    /// Requests.
    pub sent: u64,
    /// When the first request was sent.
    pub first_request_ns: u64,
    /// When the latest request was sent.
    pub last_request_ns: u64,
    /// The longest time between two requests, in nanoseconds.
    pub longest_interval_ns: u64,
    /// When the first request was sent that is not answered and later than every answered one; 0: none waits.
    pub first_waiting_ns: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Of these, those that a gap delayed.
    pub late: u64,
    /// Replies to requests that were answered before.
    pub duplicate: u64,
    /// Replies to nothing that was seen.
    pub unasked: u64,
    /// When the last first reply to a request came.
    pub last_reply_ns: u64,
    /// The shortest round trip since the last gap ended, in nanoseconds.
    pub shortest_round_trip_ns: u64,
    /// When the latest of the answered requests was sent.
    pub answered_request_ns: u64,
    /// How many requests had been sent with that one.
    pub answered_count: u64,
    /// The longest round trip but for the late ones, in nanoseconds.
    pub longest_round_trip_ns: u64,
    /// Likewise, since the last gap.
    pub worst_round_trip_ns: u64,
    /// The longest round trip of the window that is being filled.
    pub recent_round_trip_ns: u64,
    /// The longest round trip of the window before.
    pub earlier_round_trip_ns: u64,
    /// How many round trips the window holds.
    pub recent_count: u64,
    /// The shortest round trip of the window that is being filled.
    pub recent_shortest_ns: u64,
    /// The shortest round trip of the window before; 0: there is none.
    pub earlier_shortest_ns: u64,
    /// Replies of the window that is being filled that came after one to a later request.
    pub recent_disordered: u64,
    /// Likewise, of the window before.
    pub earlier_disordered: u64,
    /// How many gaps were closed that were ones for sure.
    pub gaps: u64,
    /// The last of them. What follows it is still counted into it.
    pub gap: EchoGap,
    /// A silence that may have been, while the requests that were passed over may still be answered in time.
    pub doubt: EchoGap,
    /// What may have been one after that. Whatever comes meanwhile is made one with it.
    pub next_doubt: EchoGap,
    /// How many gaps were told, of either kind.
    pub told: u64,
    /// Sequence number of the latest request.
    pub last_sequence: u32,
    /// Sequence number of the latest of the answered requests.
    pub answered_sequence: u32,
}

/// A gap, once the round trips that follow it are known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(C)]
pub struct EchoGapEvent {
    /// When it was settled.
    pub header: Header,
    /// Number of the session.
    pub slot: u32,
    /// Zero.
    pub padding: u32,
    /// How many gaps of the session were told, with this one.
    pub number: u64,
    /// The gap.
    pub gap: EchoGap,
}

/// Index of each loss counter in the map `LOST`.
pub mod lost {
    /// Events that found the ring buffer full.
    pub const RING_BUFFER: u32 = 0;
    /// Packets of flows that found the flow table full.
    pub const FLOWS: u32 = 1;
    /// Probe hits whose data could not be read.
    pub const PROBES: u32 = 2;
    /// Packets of echo sessions beyond the number that can be followed.
    pub const ECHO_SESSIONS: u32 = 3;
    /// Lines of QMP for which their process had no budget left.
    pub const LINES: u32 = 4;
    /// Runs of vCPUs that found the table of vCPUs full.
    pub const VCPUS: u32 = 5;
    /// How many there are.
    pub const COUNT: usize = 6;
}

/// Where the fields lie that lead from a task's file descriptor to its socket's addresses, in bytes.
///
/// User space resolves them from the running kernel's BTF. All zero: not known, the walk is not taken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct SocketOffsets {
    /// `task_struct.files`
    pub task_files: u32,
    /// `files_struct.fdt`
    pub files_fdt: u32,
    /// `fdtable.max_fds`
    pub fdtable_max_fds: u32,
    /// `fdtable.fd`
    pub fdtable_fd: u32,
    /// `file.private_data`
    pub file_private_data: u32,
    /// `socket.sk`
    pub socket_sk: u32,
    /// `sock_common.skc_family`
    pub family: u32,
    /// `sock_common.skc_daddr`
    pub daddr: u32,
    /// `sock_common.skc_rcv_saddr`
    pub rcv_saddr: u32,
    /// `sock_common.skc_v6_daddr`
    pub v6_daddr: u32,
    /// `sock_common.skc_v6_rcv_saddr`
    pub v6_rcv_saddr: u32,
    /// `sock_common.skc_dport`
    pub dport: u32,
    /// `sock_common.skc_num`
    pub num: u32,
}

/// Where the fields lie that tell of a retransmission, of its socket buffer and of its socket, in bytes. All zero: not
/// known.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct RetransmitOffsets {
    /// `sk_buff.len`
    pub len: u32,
    /// `sk_buff.cb` + `tcp_skb_cb.tcp_gso_segs`
    pub tcp_gso_segs: u32,
    /// `tcp_sock.total_retrans`
    pub total_retrans: u32,
    /// `tcp_sock.bytes_retrans`
    pub bytes_retrans: u32,
    /// 1 when the tracepoint `tcp_retransmit_skb` passes the error as a third argument (Linux 6.17 and later),
    /// and so fires for failed attempts too.
    pub tracepoint_has_error: u32,
}

/// How many port ranges can be watched.
pub const PORT_RANGES: usize = 8;

/// Packs an inclusive range of TCP ports; 0 is the empty one.
#[must_use]
pub const fn port_range(first: u16, last: u16) -> u32 {
    (first as u32) << 16 | last as u32
}

/// Whether a packed range holds a port.
#[inline(always)]
#[must_use]
pub const fn in_range(range: u32, port: u16) -> bool {
    (range >> 16) as u16 <= port && port <= range as u16
}

const _: () = {
    assert!(size_of::<FlowKey>() == 40);
    assert!(size_of::<FlowEntry>() == 88);
    assert!(size_of::<Sums>() == 64);
    assert!(size_of::<Header>() == 16);
    assert!(size_of::<FlowEvent>() == 16 + 40 + 16);
    assert!(size_of::<FlowOwned>() == 16 + 40 + 64 + 8);
    assert!(size_of::<QmpLine>() == 16 + 64 + 32 + 4 * 4);
    assert!(size_of::<Process>() == 8 + 8 + 2 * 4);
    assert!(size_of::<Vcpu>() == 3 * 8 + 6 * 4);
    assert!(size_of::<Vcpus>() == 4 * 4 + 2 * 8);
    assert!(size_of::<GuestRun>() == 16 + 32);
    assert!(size_of::<GuestRunVoid>() == 16 + 16);
    assert!(size_of::<DirtyLogRound>() == 8 + 2 * 4);
    assert!(size_of::<DirtyLogRead>() == 16 + 64);
    assert!(size_of::<GuestPort>() == 3 * 8 + 2 * 4);
    assert!(size_of::<GuestPortEvent>() == 16 + 8);
    assert!(size_of::<EchoKey>() == 36);
    assert!(size_of::<EchoGap>() == 19 * 8);
    assert!(size_of::<EchoSession>() == 24 * 8 + 3 * size_of::<EchoGap>() + 8);
    assert!(size_of::<EchoGapEvent>() == 16 + 8 + 8 + size_of::<EchoGap>());
    assert!(size_of::<SocketOffsets>() == 13 * 4);
    assert!(size_of::<RetransmitOffsets>() == 5 * 4);
};

#[cfg(feature = "user")]
mod pod {
    //! Aya's promise that any bytes are a value of these types.

    use super::{
        EchoKey, EchoSession, EchoTarget, FlowEntry, FlowKey, GuestPort, Process, RetransmitOffsets,
        Retransmitted, SocketOffsets,
    };

    // SAFETY: integers and arrays of them, `repr(C)`, without padding (asserted above).
    unsafe impl aya::Pod for FlowKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FlowEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for GuestPort {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Process {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Retransmitted {}
    // SAFETY: as above.
    unsafe impl aya::Pod for SocketOffsets {}
    // SAFETY: as above.
    unsafe impl aya::Pod for RetransmitOffsets {}
    // SAFETY: as above.
    unsafe impl aya::Pod for EchoKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for EchoTarget {}
    // SAFETY: as above.
    unsafe impl aya::Pod for EchoSession {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_its_ends_and_nothing_outside() {
        let range = port_range(49152, 49215);
        assert!(in_range(range, 49152) && in_range(range, 49215));
        assert!(!in_range(range, 49151) && !in_range(range, 49216));
        assert!(in_range(port_range(0, 65535), 0) && in_range(port_range(0, 65535), 65535));
    }

    #[test]
    fn the_reverse_of_the_reverse_is_the_flow() {
        let key = FlowKey {
            source: [0, 0, 0xffff, 1],
            destination: [0, 0, 0xffff, 2],
            source_port: 40000,
            destination_port: 49152,
            direction: EGRESS,
            padding: [0; 3],
        };
        assert_eq!(key.reversed().direction, INGRESS);
        assert_eq!(key.reversed().reversed(), key);
    }
}
