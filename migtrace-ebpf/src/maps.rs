//! The maps that user space reads and writes, and the constants that it sets before loading.

use aya_ebpf::{
    Global,
    btf_maps::{Array, HashMap, PerCpuArray, RingBuf},
    helpers::bpf_ktime_get_ns,
    macros::btf_map,
};
use core::intrinsics::{AtomicOrdering, atomic_xadd};
use migtrace_ebpf::{
    abi::{
        self, DirtyLogRound, EchoKey, EchoSession, EchoTarget, FlowEntry, FlowKey, GuestPort, Header,
        Process, QMP_LINE_MAX, QmpLine, Retransmitted, Vcpu,
    },
    packet::Ip,
    session::BUCKETS,
};

/// Flows, one entry a direction. No LRU: it would evict a flow, and its bytes, without a word.
#[btf_map]
pub(crate) static FLOWS: HashMap<FlowKey, FlowEntry, 4096> = HashMap::new();

/// Owners that user space knows before the kernel does; the value is a thread group.
#[btf_map]
pub(crate) static OWNERS: HashMap<FlowKey, u32, 4096> = HashMap::new();

/// Where the verifier loses track of how an IP header was found: room for an `Ip`, whose type the kernel's type
/// information cannot tell. TC programs of a CPU do not interrupt each other.
#[btf_map]
pub(crate) static IP: PerCpuArray<[u32; size_of::<Ip>().div_ceil(4)], 1> = PerCpuArray::new();

/// Retransmissions by the sender's flow (direction is [`abi::EGRESS`]).
#[btf_map]
pub(crate) static RETRANSMITTED: HashMap<FlowKey, Retransmitted, 2048> = HashMap::new();

/// Thread groups that are traced: QEMU processes.
#[btf_map]
pub(crate) static TRACED: HashMap<u32, Process, { abi::TRACED_MAX }> = HashMap::new();

/// vCPUs by thread.
#[btf_map]
pub(crate) static VCPUS: HashMap<u32, Vcpu, 4096> = HashMap::new();

/// The rounds of reading the log of dirtied pages, by process.
#[btf_map]
pub(crate) static DIRTY_LOGS: HashMap<u32, DirtyLogRound, 1024> = HashMap::new();

/// Taps of traced QEMUs, by interface index.
#[btf_map]
pub(crate) static GUEST_PORTS: HashMap<u32, GuestPort, { abi::GUEST_PORTS_MAX }> = HashMap::new();

/// Interfaces at which tagged frames are left to the VLAN device above.
#[btf_map]
pub(crate) static TAGGED_ELSEWHERE: HashMap<u32, u32, 256> = HashMap::new();

/// How many flows were found, and (written by user space) how many of them need no owner any more.
#[btf_map]
pub(crate) static FOUND: Array<u64, 1> = Array::new();
#[btf_map]
pub(crate) static SETTLED: Array<u64, 1> = Array::new();

/// Addresses whose echo replies are followed.
#[btf_map]
pub(crate) static ECHO_TARGETS: HashMap<[u32; 4], EchoTarget, 16> = HashMap::new();

/// The number of each session, and the session of each number: a number belongs to who enters it first.
#[btf_map]
pub(crate) static ECHO_SLOTS: HashMap<EchoKey, u32, { abi::ECHO_SESSIONS as usize }> = HashMap::new();
#[btf_map]
pub(crate) static ECHO_KEYS: HashMap<u32, EchoKey, { abi::ECHO_SESSIONS as usize }> = HashMap::new();

/// Sessions by number. This and the next two have room for [`ECHO_LIMIT`] of them.
#[btf_map]
pub(crate) static ECHO_STATES: Array<EchoSession, { abi::ECHO_SESSIONS as usize }> = Array::new();

/// When each request was sent, by session and sequence number; see `migtrace_ebpf::session::Stamps`.
#[btf_map]
pub(crate) static ECHO_STAMPS: Array<u64, { (abi::ECHO_SESSIONS * abi::ECHO_SEQUENCES) as usize }> =
    Array::new();

/// Round trips, by session and by `migtrace_ebpf::session::bucket`.
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
pub(crate) fn is_watched(source_port: u16, destination_port: u16) -> bool {
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

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Adds to a counter that other CPUs add to as well.
///
/// # Safety
///
/// `counter` points into a map's value.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, value: u64) {
    // SAFETY: the caller's promise; the only fetch-less atomic of the target is XADD.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(counter, value) };
}

/// Counts a loss of one of [`abi::lost`].
#[inline(always)]
pub(crate) fn count_lost(what: u32) {
    if let Some(counter) = LOST.get_ptr_mut(what) {
        // SAFETY: `counter` is the map's value.
        unsafe { add(counter, 1) };
    }
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
