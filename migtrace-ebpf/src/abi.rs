//! Keys, counters and events as they cross the border: `repr(C)`, no padding, no enum and no bool.
//!
//! User space reads these bytes as the kernel wrote them, so a value that Rust would call invalid must not exist.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::word::Word;

mod values;

pub use values::{
    Direction, EchoGap, EchoSession, FlowEntry, GuestPort, Handshake, HandshakeSide, Process, Retransmitted,
    Vcpu, shared,
};

/// A packet that came in through the interface.
pub const INGRESS: u8 = 0;
/// A packet that goes out through the interface.
pub const EGRESS: u8 = 1;

/// One TCP connection, as this host sees it: what goes out is sent by the local end.
///
/// A key whose ports are 0 is the bucket for IP fragments between the two addresses.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct FlowKey {
    /// This host's address in network order; IPv4 as `::ffff:a.b.c.d`.
    pub local: [u32; 4],
    /// The other end's address, likewise.
    pub remote: [u32; 4],
    /// This host's port, host order.
    pub local_port: u16,
    /// The other end's port, host order.
    pub remote_port: u16,
}

impl FlowKey {
    /// The bucket for fragments between the same addresses.
    #[must_use]
    pub const fn fragments(&self) -> Self {
        Self { local_port: 0, remote_port: 0, ..*self }
    }
}

/// Bits of [`Direction::flags`].
pub mod flags {
    /// The connection's opening (SYN) was seen: nothing precedes what was counted.
    pub const SYN: u32 = 1;
    /// This direction was closed (FIN), and nothing new was sent since.
    pub const FIN: u32 = 2;
    /// The connection was reset (RST) from this side, which has sent nothing since.
    pub const RST: u32 = 4;
    /// Payload was seen: `first_payload` holds its first bytes.
    pub const PAYLOAD: u32 = 8;
    /// A packet was seen.
    pub const STARTED: u32 = 16;
    /// Somebody opens a new connection between the same ends: see [`Handshake`](super::Handshake).
    pub const REOPENING: u32 = 32;
    /// User space is about to remove the entry: it counts no more.
    pub const RETIRED: u32 = 64;
}

/// Something that belongs to a process: flows and vCPUs have claims of their own.
///
/// A process' claims are numbered from 0, so that what belongs to it can be found without a walk through what belongs to
/// others. A number may be free again.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct Claim {
    /// The process.
    pub tgid: u32,
    /// Which one of its claims.
    pub number: u32,
}

/// How many flows of one process can be summed up: multifd has 255 channels at most.
pub const FLOW_CLAIMS: u32 = 384;

/// How many vCPUs of one process can be looked at.
pub const VCPU_CLAIMS: u32 = 512;

/// Takes in that there is a claim `number`: the numbers of all claims are below `claims`.
#[inline(always)]
pub fn reach(claims: &Word<u32>, number: u32) {
    // Another CPU may do the same at the same time: then the limit is too high by some, which costs a look at nothing.
    let below = claims.get();
    if number >= below {
        claims.add(number + 1 - below);
    }
}

/// A request of user space to the program `migtrace_control`, which is attached nowhere and run by `BPF_PROG_TEST_RUN`
/// with these bytes behind an Ethernet header. So nothing but a program writes to what the programs count.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct Command {
    /// One of [`command`].
    pub command: u32,
    /// A process.
    pub tgid: u32,
    /// [`FlowEntry::opened_ns`] of the flow that is meant.
    pub opened_ns: u64,
    /// The flow.
    pub key: FlowKey,
    /// Zero.
    pub padding: u32,
}

/// Values of [`Command::command`]. What is done is returned as 1, what cannot be done as 0.
pub mod command {
    /// Count a connection that is open already. 1: there is an entry now.
    pub const ADOPT: u32 = 1;
    /// The flow is `tgid`'s.
    pub const OWN: u32 = 2;
    /// The flow's owner need not be looked for any more.
    pub const SETTLE: u32 = 3;
    /// Stop counting the flow, so that its counters are final.
    pub const RETIRE: u32 = 4;
    /// Remove the entry of a flow that was retired before.
    pub const REMOVE: u32 = 5;
    /// Nothing belongs to `tgid` any more.
    pub const DISOWN: u32 = 6;
}

/// The sum over the flows of one owner, one direction.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
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
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct Sums {
    /// Indexed by [`INGRESS`] and [`EGRESS`].
    pub by_direction: [Sum; 2],
}

/// The start of every event in the ring buffer.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
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
    /// [`FlowEvent`](super::FlowEvent): a flow is open.
    pub const FLOW_SEEN: u32 = 1;
    /// [`FlowOwned`](super::FlowOwned): `tgid` sends on the flow's socket, or has accepted it, or user space says so.
    pub const FLOW_OWNED: u32 = 2;
    /// [`FlowEvent`](super::FlowEvent): the first payload of a flow in one direction.
    pub const FLOW_PAYLOAD: u32 = 3;
    /// [`QmpLine`](super::QmpLine).
    pub const QMP_LINE: u32 = 4;
    /// Only a [`Header`](super::Header): `tgid` has become another program whose name looks like QEMU's, or was traced.
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
    /// [`GuestPortEvent`](super::GuestPortEvent): the first frame since the tap was watched, or since its QEMU last said
    /// something.
    pub const GUEST_FRAME: u32 = 11;
    /// [`GuestPortEvent`](super::GuestPortEvent): an announcement.
    pub const ANNOUNCEMENT: u32 = 12;
    /// [`FlowReplaced`](super::FlowReplaced): a new connection between the same ends takes a flow's place.
    pub const FLOW_REPLACED: u32 = 13;
    /// Only a [`Header`](super::Header): `tgid` is a new process, forked by one that is traced or looks like QEMU.
    pub const PROCESS_FORK: u32 = 14;
}

/// Something about a flow.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct FlowEvent {
    /// When, and which kind.
    pub header: Header,
    /// The flow.
    pub key: FlowKey,
    /// Interface of the packet.
    pub ifindex: u32,
    /// As in [`FlowEntry`].
    pub opened_ns: u64,
    /// `CLOCK_MONOTONIC` of the flow's first packet; 0 with payload.
    pub first_ns: u64,
    /// As in [`Direction`]; 0 without payload.
    pub first_payload: u32,
    /// Zero.
    pub padding: u32,
}

/// A flow is tied to a process: from now on its counters are in the sums over that process' flows.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct FlowOwned {
    /// When, and whose it is.
    pub header: Header,
    /// The flow.
    pub key: FlowKey,
    /// 1 when user space has found that out.
    pub by_user_space: u32,
    /// As in [`FlowEntry`].
    pub opened_ns: u64,
    /// What had crossed by then.
    pub crossed: Sums,
    /// `CLOCK_MONOTONIC` of the last packet of that; 0 without any.
    pub last_ns: u64,
}

/// A flow is over, since there is a new connection between the same ends.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct FlowReplaced {
    /// When.
    pub header: Header,
    /// Both.
    pub key: FlowKey,
    /// Zero.
    pub padding: u32,
    /// The one that is over.
    pub entry: FlowEntry,
}

/// How many bytes of one write of QMP are copied. An event has some 200.
pub const QMP_LINE_MAX: usize = 4096;

/// What a traced QEMU writes to its monitor of an event, and its flows' counters at that instant. The bytes follow, at
/// most [`QMP_LINE_MAX`] of them.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
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

/// The vCPUs of one VM at an instant.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
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
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct GuestRun {
    /// When, and whose.
    pub header: Header,
    /// The VM's vCPUs just before.
    pub vcpus: Vcpus,
}

/// The run of a [`GuestRun`] has ended without the guest having run.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct GuestRunVoid {
    /// When it ended, and whose it was.
    pub header: Header,
    /// When it began.
    pub entered_ns: u64,
    /// 1 when it is certain; 0 when it was so short, and ended so, that it looks like one.
    pub certain: u64,
}

/// A process begins to read KVM's log of dirtied pages: a round of copying ends and the next begins.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct DirtyLogRead {
    /// When, and whose.
    pub header: Header,
    /// The sum over this process' flows.
    pub sums: Sums,
}

/// How many taps can be watched.
pub const GUEST_PORTS_MAX: usize = 1024;

/// How many taps of one process are watched.
pub const TAPS: usize = 32;

/// The taps of a process.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct GuestTaps {
    /// Interface indices; the first 0 ends the list.
    pub interfaces: [u32; TAPS],
}

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
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
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

/// How many streams of echo requests can be followed at once.
pub const ECHO_SESSIONS: u32 = 16;

/// How many sequence numbers there are: ICMP gives them 16 bits.
pub const ECHO_SEQUENCES: u32 = 1 << 16;

/// What to follow of the echo requests to an address.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct EchoTarget {
    /// The requests with this identifier, or [`ANY_IDENTIFIER`].
    pub identifier: u32,
    /// Zero.
    pub padding: u32,
    /// Only what leaves the socket with this cookie opens a session; 0: whoever asks.
    pub socket: u64,
}

/// One stream of echo requests: who is asked, who asks, and the asker's identifier.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, PartialEq)]
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

impl EchoKey {
    /// As much of it as tells a session from the one whose number it has got.
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
    pub header: Header,
    /// Number of the session.
    pub slot: u32,
    /// Zero.
    pub padding: u32,
    /// When the session's first request was sent: a number may have been another session's before.
    pub first_request_ns: u64,
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
    /// Packets of echo sessions beyond the number that can be followed at once.
    pub const ECHO_SESSIONS: u32 = 3;
    /// Flows beyond the number that can belong to one process, or to all.
    pub const CLAIMS: u32 = 4;
    /// Lines of QMP for which their process had no budget left.
    pub const LINES: u32 = 5;
    /// Runs of vCPUs beyond the number that can belong to one process, or to all.
    pub const VCPUS: u32 = 6;
    /// How many there are.
    pub const COUNT: usize = 7;
}

/// Where the fields lie that lead from a task's file descriptor to its socket's addresses, in bytes.
///
/// User space resolves them from the running kernel's BTF. All zero: not known, the walk is not taken.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
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
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
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
}
