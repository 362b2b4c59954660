//! The maps, most of which user space reads or writes, and safe access to their values.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
    helpers::bpf_ktime_get_ns,
    macros::btf_map,
};
use migtrace_ebpf::{
    abi::{
        self, Claim, EchoKey, EchoSession, EchoTarget, EventHeader, FlowEntry, FlowKey, GuestPort, GuestTaps,
        Handshake, Opening, Process, QMP_LINE_MAX, QmpLine, Sums, Vcpu, shared,
    },
    echo_session::BUCKETS,
    packet::{Ip, Tcp},
    vcpu_state::Survey,
    word::Word,
};

/// Connections. No LRU map: it would silently evict one, with its bytes.
#[btf_map]
pub(crate) static FLOWS: HashMap<FlowKey, FlowEntry, 4096> = HashMap::new();

/// Connections that are not open yet. Anybody can fill this map, so it evicts the oldest.
#[btf_map]
pub(crate) static HANDSHAKES: LruHashMap<FlowKey, Handshake, 4096> = LruHashMap::new();

/// Empty values, from which new entries of the two are made: they are too large for the stack. Nobody writes to
/// these.
#[btf_map]
pub(crate) static NO_FLOW: Array<FlowEntry, 1> = Array::new();
#[btf_map]
pub(crate) static NO_HANDSHAKE: Array<Handshake, 1> = Array::new();

/// The flows of each process: see [`Claim`].
#[btf_map]
pub(crate) static FLOW_CLAIMS: HashMap<Claim, FlowKey, 4096> = HashMap::new();

/// How many flows have no owner yet. While there are any, each `sendmsg` of a traced process is checked for one.
#[btf_map]
pub(crate) static UNOWNED: Array<u64, 1> = Array::new();

/// See [`abi::waking`].
#[btf_map]
pub(crate) static WAKING: Array<u64, { abi::waking::COUNT }> = Array::new();

/// When sockets here have begun to open a connection, by the kernel's address of the socket. Anybody can fill this map and
/// the next one, so they evict the oldest: of such a connection it is not known what crossed before it was counted.
#[btf_map]
pub(crate) static BEGUN: LruHashMap<u64, u64, { abi::OPENINGS }> = LruHashMap::new();

/// Connections that have opened while nothing was counted.
#[btf_map]
pub(crate) static OPENED: LruHashMap<FlowKey, Opening, { abi::OPENINGS }> = LruHashMap::new();

/// Packets with a watched port that belong to no flow.
#[btf_map]
pub(crate) static STRAYS: Array<u64, 1> = Array::new();

/// Room for an `Ip`, in which the verifier loses track of how the header was found. Declared as words: BTF cannot
/// describe the type of `Ip`. TC programs of one CPU do not interrupt each other.
#[btf_map]
pub(crate) static IP: PerCpuArray<[u32; size_of::<Ip>().div_ceil(4)], 1> = PerCpuArray::new();

/// A packet that needs a closer look, and the flow to which it would belong.
#[repr(C)]
pub(crate) struct Meeting {
    pub(crate) key: FlowKey,
    pub(crate) packet: Tcp,
}

/// Holds it meanwhile, for a function with too little room for arguments. TC programs of one CPU do not interrupt each
/// other.
#[btf_map]
static MEETING: PerCpuArray<Meeting, 1> = PerCpuArray::new();

/// Where the flows of a process are added up, and its vCPUs are looked at. On the stack, the verifier would follow
/// every possible value of each counter. No other program that uses them runs on this CPU meanwhile.
#[btf_map]
pub(crate) static SUMS: PerCpuArray<Sums, 1> = PerCpuArray::new();
#[btf_map]
pub(crate) static SURVEY: PerCpuArray<Survey, 1> = PerCpuArray::new();

/// Traced processes, by thread group: QEMUs.
#[btf_map]
pub(crate) static TRACED: HashMap<u32, Process, { abi::TRACED_MAX }> = HashMap::new();

/// Further names that a QEMU process may have, as the kernel keeps them (`task_struct.comm`); the values mean
/// nothing.
#[btf_map]
pub(crate) static QEMU_NAMES: HashMap<[u8; 16], u32, 64> = HashMap::new();

/// vCPUs by thread.
#[btf_map]
pub(crate) static VCPUS: HashMap<u32, Vcpu, 4096> = HashMap::new();

/// The vCPU threads of each process: see [`Claim`].
#[btf_map]
pub(crate) static VCPU_CLAIMS: HashMap<Claim, u32, 4096> = HashMap::new();

/// Taps of traced QEMUs, by interface index.
#[btf_map]
pub(crate) static GUEST_PORTS: HashMap<u32, GuestPort, { abi::GUEST_PORTS_MAX }> = HashMap::new();

/// The taps of each traced QEMU.
#[btf_map]
pub(crate) static GUEST_TAPS: HashMap<u32, GuestTaps, 1024> = HashMap::new();

/// Interfaces at which tagged frames are not counted, because the VLAN device above counts them.
#[btf_map]
pub(crate) static TAGGED_ELSEWHERE: HashMap<u32, u32, 256> = HashMap::new();

/// VLAN devices, by interface index: how many bytes of tags their frames have on the wire.
#[btf_map]
pub(crate) static TAG_BYTES: HashMap<u32, u32, 256> = HashMap::new();

/// Addresses whose echo requests and replies are followed.
#[btf_map]
pub(crate) static ECHO_TARGETS: HashMap<[u32; 4], EchoTarget, 16> = HashMap::new();

/// The number of each echo session, and the session that has each number. A number belongs to the session that enters
/// it first. User space takes an ended session out of the first map, and much later out of the second.
#[btf_map]
pub(crate) static ECHO_SLOTS: HashMap<EchoKey, u32, { abi::ECHO_SESSIONS as usize }> = HashMap::new();
#[btf_map]
pub(crate) static ECHO_KEYS: HashMap<u32, EchoKey, { abi::ECHO_SESSIONS as usize }> = HashMap::new();

/// Echo sessions by number. User space makes this map and the next two as large as `settings::ECHO_LIMIT` requires.
#[btf_map]
pub(crate) static ECHO_STATES: Array<EchoSession, { abi::ECHO_SESSIONS as usize }> = Array::new();

/// When each request was sent, by session and sequence number: see `migtrace_ebpf::echo_session::Stamps`.
#[btf_map]
pub(crate) static ECHO_STAMPS: Array<u64, { (abi::ECHO_SESSIONS * abi::ECHO_SEQUENCES) as usize }> =
    Array::new();

/// Round trips, by session and by `migtrace_ebpf::echo_session::bucket`.
#[btf_map]
pub(crate) static ECHO_ROUND_TRIPS: Array<u64, { abi::ECHO_SESSIONS as usize * BUCKETS }> = Array::new();

/// See [`abi::lost`].
#[btf_map]
pub(crate) static LOST: Array<u64, { abi::lost::COUNT }> = Array::new();

/// Events for user space, except QMP lines. They are rare by construction.
#[btf_map]
pub(crate) static EVENTS: RingBuf<EventHeader, { 1 << 20 }> = RingBuf::new();

/// QMP lines. Their number is up to the processes that write them, so they cannot crowd out [`EVENTS`].
#[btf_map]
pub(crate) static LINES: RingBuf<EventHeader, { 1 << 20 }> = RingBuf::new();

/// Crossings of milestones. Without those that find no room, clocks are only aligned less well, so they are not counted
/// as lost; and they take no room from others.
#[btf_map]
pub(crate) static MILESTONES: RingBuf<EventHeader, { 1 << 18 }> = RingBuf::new();

/// Where an entry of [`LINES`] is put together.
#[btf_map]
pub(crate) static LINE: PerCpuArray<Line, 1> = PerCpuArray::new();

/// An entry of [`LINES`], and room to build it.
#[repr(C)]
pub(crate) struct Line {
    /// How many bytes were copied.
    pub(crate) length: u64,
    pub(crate) head: QmpLine,
    /// Twice as many as are emitted: the last of several pieces is copied whole, and cut afterwards.
    pub(crate) bytes: [u8; 2 * QMP_LINE_MAX],
}

/// Puts a packet where the function that looks closely at it finds it; returns whether that was possible.
#[inline(always)]
pub(crate) fn set_meeting(key: &FlowKey, packet: &Tcp) -> bool {
    let Some(meeting) = MEETING.get_ptr_mut(0) else { return false };
    // SAFETY: the map's value for this CPU, which only this program uses until that function returns.
    unsafe { *meeting = Meeting { key: *key, packet: *packet } };
    true
}

/// The packet of the last [`set_meeting`].
#[inline(always)]
pub(crate) fn meeting() -> Option<&'static Meeting> {
    // SAFETY: as in `set_meeting`.
    MEETING.get_ptr(0).map(|meeting| unsafe { &*meeting })
}

/// A flow's entry.
///
/// A removed entry may become another flow's entry a moment later. So user space marks an entry as
/// [`abi::flags::RETIRED`] long before it removes it.
#[inline(always)]
pub(crate) fn flow(key: &FlowKey) -> Option<&'static shared::FlowEntry> {
    // SAFETY: the map's value has this size and alignment, stays in memory for as long as the program runs, and is
    // only accessed in whole words.
    FLOWS.get_ptr(key).map(|entry| unsafe { &*entry.cast() })
}

/// A handshake that is not over.
#[inline(always)]
pub(crate) fn handshake(key: &FlowKey) -> Option<&'static shared::Handshake> {
    // SAFETY: as in `flow`. One that is evicted meanwhile is another's: then neither of them proves anything, since
    // the numbers of its packets do not fit.
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

/// The state of a tap.
#[inline(always)]
pub(crate) fn guest_port(ifindex: u32) -> Option<&'static shared::GuestPort> {
    // SAFETY: as in `flow`; a tap is removed when nothing is attached to it any more.
    GUEST_PORTS.get_ptr(ifindex).map(|port| unsafe { &*port.cast() })
}

/// The state of an echo session.
#[inline(always)]
pub(crate) fn echo_session(slot: u32) -> Option<&'static shared::EchoSession> {
    // SAFETY: as in `flow`; user space resets it when no program has its number any more.
    ECHO_STATES.get_ptr(slot).map(|session| unsafe { &*session.cast() })
}

/// An element of an array of counters.
#[inline(always)]
pub(crate) fn counter<const N: usize>(of: &Array<u64, N>, index: u32) -> Option<&'static Word<u64>> {
    // SAFETY: as in `flow`.
    of.get_ptr(index).map(|counter| unsafe { &*counter.cast() })
}

/// Adds one to a counter.
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

/// Counts a loss; `what` is one of [`abi::lost`].
#[inline(always)]
pub(crate) fn count_lost(what: u32) {
    count(&LOST, what);
}

/// Puts an event into the ring buffer, or counts its loss. It is written in place, because the stack has 512 bytes.
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
