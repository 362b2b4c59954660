//! The maps that user space reads and writes, and the constants that it sets before loading.

use aya_ebpf::{
    Global,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
    helpers::bpf_ktime_get_ns,
    macros::btf_map,
};
use migtrace_ebpf::{
    abi::{
        self, Claim, EchoKey, EchoSession, EchoTarget, FlowEntry, FlowKey, GuestPort, GuestTaps, Handshake,
        Header, Process, QMP_LINE_MAX, QmpLine, Sums, Vcpu, shared,
    },
    echo_session::BUCKETS,
    packet::{Ip, Tcp},
    vcpu_state::Survey,
    word::Word,
};

/// Connections. No LRU: it would evict one, and its bytes, without a word.
#[btf_map]
pub(crate) static FLOWS: HashMap<FlowKey, FlowEntry, 4096> = HashMap::new();

/// Connections that are not open yet. Anybody can fill it: the oldest of these go.
#[btf_map]
pub(crate) static HANDSHAKES: LruHashMap<FlowKey, Handshake, 4096> = LruHashMap::new();

/// What new entries of the two begin with: they are too large for the stack. Nobody writes there.
#[btf_map]
pub(crate) static NO_FLOW: Array<FlowEntry, 1> = Array::new();
#[btf_map]
pub(crate) static NO_HANDSHAKE: Array<Handshake, 1> = Array::new();

/// The flows of each process.
#[btf_map]
pub(crate) static FLOW_CLAIMS: HashMap<Claim, FlowKey, 4096> = HashMap::new();

/// How many flows there are whose owner is looked for.
#[btf_map]
pub(crate) static UNOWNED: Array<u64, 1> = Array::new();

/// How many packets had a watched port but belonged to no flow.
#[btf_map]
pub(crate) static STRAYS: Array<u64, 1> = Array::new();

/// Where the verifier loses track of how an IP header was found: room for an `Ip`, whose type the kernel's type
/// information cannot tell. TC programs of a CPU do not interrupt each other.
#[btf_map]
pub(crate) static IP: PerCpuArray<[u32; size_of::<Ip>().div_ceil(4)], 1> = PerCpuArray::new();

/// A packet that is looked at more closely, and the flow that it would be of.
#[repr(C)]
pub(crate) struct Meeting {
    pub(crate) key: FlowKey,
    pub(crate) packet: Tcp,
}

/// Where it stands meanwhile. TC programs of a CPU do not interrupt each other.
#[btf_map]
pub(crate) static MEETING: PerCpuArray<Meeting, 1> = PerCpuArray::new();

/// Where the flows of a process are summed up, and its vCPUs looked at. On the stack the verifier would follow every count
/// of each. No other program of this CPU runs meanwhile that uses them.
#[btf_map]
pub(crate) static SUMS: PerCpuArray<Sums, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static SURVEY: PerCpuArray<Survey, 1> = PerCpuArray::new();

/// Thread groups that are traced: QEMU processes.
#[btf_map]
pub(crate) static TRACED: HashMap<u32, Process, { abi::TRACED_MAX }> = HashMap::new();

/// Names of processes that user space takes for QEMU's too, as the kernel keeps them; the value is of no meaning.
#[btf_map]
pub(crate) static QEMU_NAMES: HashMap<[u8; 16], u32, 64> = HashMap::new();

/// vCPUs by thread.
#[btf_map]
pub(crate) static VCPUS: HashMap<u32, Vcpu, 4096> = HashMap::new();

/// The threads of each process' vCPUs.
#[btf_map]
pub(crate) static VCPU_CLAIMS: HashMap<Claim, u32, 4096> = HashMap::new();

/// Taps of traced QEMUs, by interface index.
#[btf_map]
pub(crate) static GUEST_PORTS: HashMap<u32, GuestPort, { abi::GUEST_PORTS_MAX }> = HashMap::new();

/// The taps of each of them.
#[btf_map]
pub(crate) static GUEST_TAPS: HashMap<u32, GuestTaps, 1024> = HashMap::new();

/// Interfaces at which tagged frames are left to the VLAN device above.
#[btf_map]
pub(crate) static TAGGED_ELSEWHERE: HashMap<u32, u32, 256> = HashMap::new();

/// VLAN devices, by interface index: how many bytes of tags a frame has below them.
#[btf_map]
pub(crate) static TAG_BYTES: HashMap<u32, u32, 256> = HashMap::new();

/// Addresses whose echo replies are followed.
#[btf_map]
pub(crate) static ECHO_TARGETS: HashMap<[u32; 4], EchoTarget, 16> = HashMap::new();

/// The number of each session, and the session of each number: a number belongs to who enters it first, until user space
/// takes the session out of the first, and a good while later out of the second.
#[btf_map]
pub(crate) static ECHO_SLOTS: HashMap<EchoKey, u32, { abi::ECHO_SESSIONS as usize }> = HashMap::new();
#[btf_map]
pub(crate) static ECHO_KEYS: HashMap<u32, EchoKey, { abi::ECHO_SESSIONS as usize }> = HashMap::new();

/// Sessions by number. This and the next two have room for [`ECHO_LIMIT`] of them.
#[btf_map]
pub(crate) static ECHO_STATES: Array<EchoSession, { abi::ECHO_SESSIONS as usize }> = Array::new();

/// When each request was sent, by session and sequence number; see `migtrace_ebpf::echo_session::Stamps`.
#[btf_map]
pub(crate) static ECHO_STAMPS: Array<u64, { (abi::ECHO_SESSIONS * abi::ECHO_SEQUENCES) as usize }> =
    Array::new();

/// Round trips, by session and by `migtrace_ebpf::echo_session::bucket`.
#[btf_map]
pub(crate) static ECHO_ROUND_TRIPS: Array<u64, { abi::ECHO_SESSIONS as usize * BUCKETS }> = Array::new();

/// How many sessions there is room for.
#[unsafe(no_mangle)]
pub(crate) static ECHO_LIMIT: Global<u32> = Global::new(abi::ECHO_SESSIONS);

/// A gap that surely lasted for less, in nanoseconds, is none.
#[unsafe(no_mangle)]
pub(crate) static ECHO_MIN_GAP_NS: Global<u64> = Global::new(1_000_000);

/// See [`abi::lost`].
#[btf_map]
pub(crate) static LOST: Array<u64, { abi::lost::COUNT }> = Array::new();

/// Everything that user space is told at once, but for lines of QMP; rare by construction.
#[btf_map]
pub(crate) static EVENTS: RingBuf<Header, { 1 << 20 }> = RingBuf::new();

/// Lines of QMP: how many there are is up to the processes that write them.
#[btf_map]
pub(crate) static LINES: RingBuf<Header, { 1 << 20 }> = RingBuf::new();

/// Where a record for [`LINES`] is put together.
#[btf_map]
pub(crate) static LINE: PerCpuArray<Line, 1> = PerCpuArray::new();

/// A record for [`LINES`].
#[repr(C)]
pub(crate) struct Line {
    /// How many bytes were copied.
    pub(crate) length: u64,
    pub(crate) head: QmpLine,
    /// Twice as many as are told: the last of several pieces is as long as it wants to be, and cut afterwards.
    pub(crate) bytes: [u8; 2 * QMP_LINE_MAX],
}

/// Watched TCP ports: ranges as packed by [`abi::port_range`], the first 0 ends the list.
#[unsafe(no_mangle)]
pub(crate) static PORTS: [Global<u32>; abi::PORT_RANGES] = [
    Global::new(abi::port_range(49152, 49215)),
    Global::new(0),
    Global::new(0),
    Global::new(0),
    Global::new(0),
    Global::new(0),
    Global::new(0),
    Global::new(0),
];

/// A set of `packet::encapsulation`.
#[unsafe(no_mangle)]
pub(crate) static ENCAPSULATIONS: Global<u32> = Global::new(0);

/// Where a thread has its thread group's id (`task_struct.tgid`); 0 while unknown.
#[unsafe(no_mangle)]
pub(crate) static TASK_TGID: Global<u32> = Global::new(0);

/// See [`abi::SocketOffsets`].
#[unsafe(no_mangle)]
pub(crate) static SOCKET_OFFSETS: Global<abi::SocketOffsets> = Global::new(abi::SocketOffsets {
    task_files: 0,
    files_fdt: 0,
    fdtable_max_fds: 0,
    fdtable_fd: 0,
    file_private_data: 0,
    socket_sk: 0,
    family: 0,
    daddr: 0,
    rcv_saddr: 0,
    v6_daddr: 0,
    v6_rcv_saddr: 0,
    dport: 0,
    num: 0,
});

/// See [`abi::RetransmitOffsets`].
#[unsafe(no_mangle)]
pub(crate) static RETRANSMIT_OFFSETS: Global<abi::RetransmitOffsets> = Global::new(abi::RetransmitOffsets {
    len: 0,
    tcp_gso_segs: 0,
    total_retrans: 0,
    bytes_retrans: 0,
    tracepoint_has_error: 0,
});

/// Whether a port is watched.
#[inline(always)]
pub(crate) fn is_watched(port: u16) -> bool {
    is_either_watched(port, port)
}

/// Whether one of the ports of a packet is watched.
#[inline(always)]
pub(crate) fn is_either_watched(source_port: u16, destination_port: u16) -> bool {
    for range in &PORTS {
        let range = range.load();
        if range == 0 {
            return false;
        }
        if abi::in_range(range, source_port) || abi::in_range(range, destination_port) {
            return true;
        }
    }
    false
}

/// A flow's entry.
///
/// What was removed from the table may be another flow's entry a moment later: so nothing is removed that was not marked
/// a good while before as [`abi::flags::RETIRED`].
#[inline(always)]
pub(crate) fn flow(key: &FlowKey) -> Option<&'static shared::FlowEntry> {
    // SAFETY: the map's value: as large and as aligned, in memory for as long as the program runs, and all access to it is
    // to whole words.
    FLOWS.get_ptr(key).map(|entry| unsafe { &*entry.cast() })
}

/// A handshake that is not over.
#[inline(always)]
pub(crate) fn handshake(key: &FlowKey) -> Option<&'static shared::Handshake> {
    // SAFETY: as in `flow`. One that is evicted meanwhile is another's: then neither of them proves anything, since the
    // numbers of its packets do not fit.
    HANDSHAKES.get_ptr(key).map(|entry| unsafe { &*entry.cast() })
}

/// What is kept of a traced process.
#[inline(always)]
pub(crate) fn process(tgid: u32) -> Option<&'static shared::Process> {
    // SAFETY: as in `flow`; a process is removed after its end.
    TRACED.get_ptr(tgid).map(|process| unsafe { &*process.cast() })
}

/// The vCPU of a thread.
#[inline(always)]
pub(crate) fn vcpu(thread: u32) -> Option<&'static shared::Vcpu> {
    // SAFETY: as in `flow`; a vCPU is removed when its thread ends.
    VCPUS.get_ptr(thread).map(|vcpu| unsafe { &*vcpu.cast() })
}

/// What is known of the guest's end of a tap.
#[inline(always)]
pub(crate) fn guest_port(ifindex: u32) -> Option<&'static shared::GuestPort> {
    // SAFETY: as in `flow`; a tap is removed when nothing is attached to it any more.
    GUEST_PORTS.get_ptr(ifindex).map(|port| unsafe { &*port.cast() })
}

/// What is known of a stream of echo requests.
#[inline(always)]
pub(crate) fn echo_session(slot: u32) -> Option<&'static shared::EchoSession> {
    // SAFETY: as in `flow`; user space resets it when no program has its number any more.
    ECHO_STATES.get_ptr(slot).map(|session| unsafe { &*session.cast() })
}

/// The only word of a counter.
#[inline(always)]
pub(crate) fn counter<const N: usize>(of: &Array<u64, N>, index: u32) -> Option<&'static Word<u64>> {
    // SAFETY: as in `flow`.
    of.get_ptr(index).map(|counter| unsafe { &*counter.cast() })
}

/// Counts one more.
#[inline(always)]
pub(crate) fn count<const N: usize>(of: &Array<u64, N>, index: u32) {
    if let Some(counter) = counter(of, index) {
        counter.add(1);
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Counts a loss of one of [`abi::lost`].
#[inline(always)]
pub(crate) fn count_lost(what: u32) {
    count(&LOST, what);
}

/// Puts an event into the ring buffer, or counts its loss. Written in place: the stack is 512 bytes.
#[inline(always)]
pub(crate) fn emit<T: 'static>(event: T) {
    match EVENTS.reserve_untyped::<T>(0) {
        Some(mut record) => {
            record.write(event);
            record.submit(0);
        }
        None => count_lost(abi::lost::RING_BUFFER),
    }
}
