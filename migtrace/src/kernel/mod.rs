//! The only place that names aya: loads the programs, attaches them, reads what they found.

mod btf;
mod control;
// Not for an embedder: `cargo xtask bench` times the programs with it.
#[doc(hidden)]
pub mod cost;
pub(crate) mod echo;
mod examine;
mod flows;
/// Packets for the tests of the programs.
#[cfg(test)]
#[path = "../../../migtrace-ebpf/tests/frames/mod.rs"]
mod frames;
mod grace;
mod guest;
mod instruments;
#[cfg(feature = "kernel-log")]
mod kernel_log;
mod loading;
mod maps;
mod memory;
mod messages;
mod misses;
mod ownership;
mod priority;
mod system_call;
mod tc;
mod tcx;
#[cfg(test)]
mod test_run;
mod traced;

use std::collections::HashMap as StdHashMap;
use std::os::fd::AsFd as _;

use aya::maps::{MapData, MapError, RingBuf};
use aya::{Ebpf, EbpfLoader};
use migtrace_ebpf::abi::{self, FlowEntry, FlowKey, PORT_RANGES, RetransmitOffsets, SocketOffsets};
use tokio::io::unix::AsyncFd;
use zerocopy::IntoBytes as _;

pub use examine::{WIRE, examine};
pub(crate) use flows::{FirstPacket, FlowState, is_other, purpose};
pub(crate) use grace::Grace;
pub(crate) use messages::{Body, Message, Opened, QmpWrite};
pub(crate) use priority::{OnCpu, be_punctual};
pub use tc::{AttachPreference, Leftover, TcAttachError};
pub(crate) use tc::{Change, ChangeNews, cleanup};

use crate::errors::with_causes;
use crate::event::Instrument;
use crate::ports::PortRanges;
use crate::vocabulary::{AttachMode, Lost};
use btf::Btf;

/// The flow table.
const FLOWS: &str = "FLOWS";

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/migtrace-programs"));

/// What the kernel programs are to do.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// TCP ports to watch.
    pub ports: PortRanges,
    /// Look into VXLAN packets.
    pub vxlan: bool,
    /// Look into Geneve packets.
    pub geneve: bool,
    /// How many connections can be counted at once.
    pub flow_capacity: u32,
    /// How to attach the TC programs.
    pub attach: AttachPreference,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ports: PortRanges::default(),
            vxlan: false,
            geneve: false,
            flow_capacity: 4096,
            attach: AttachPreference::Auto,
        }
    }
}

impl Settings {
    /// Sets the TCP ports to watch.
    #[must_use]
    pub fn ports(mut self, ports: PortRanges) -> Self {
        self.ports = ports;
        self
    }

    /// Sets whether to look into VXLAN packets.
    #[must_use]
    pub fn vxlan(mut self, look_inside: bool) -> Self {
        self.vxlan = look_inside;
        self
    }

    /// Sets whether to look into Geneve packets.
    #[must_use]
    pub fn geneve(mut self, look_inside: bool) -> Self {
        self.geneve = look_inside;
        self
    }

    /// Sets how many connections can be counted at once.
    #[must_use]
    pub fn flow_capacity(mut self, connections: u32) -> Self {
        self.flow_capacity = connections;
        self
    }

    /// Sets how to attach the TC programs.
    #[must_use]
    pub fn attach(mut self, preference: AttachPreference) -> Self {
        self.attach = preference;
        self
    }
}

/// Why the kernel side cannot work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The kernel refused a map or a program.
    #[error("the kernel refused the eBPF {what}: {why}")]
    Refused {
        /// `object`, `map NAME`, `program NAME`.
        what: String,
        /// The kernel's words; of a verifier's log, the last lines that mean something.
        why: String,
    },
    /// A map could not be read or written.
    #[error("cannot access the eBPF map {name}")]
    Map {
        /// Its name.
        name: &'static str,
        /// What happened.
        source: MapError,
    },
    /// A table of the kernel side is full.
    #[error("the table of {what} is full: it has room for {room}")]
    Full {
        /// What it holds.
        what: &'static str,
        /// How many of them.
        room: usize,
    },
    /// The ring buffer could not be polled.
    #[error("cannot wait for the kernel's events")]
    Poll(#[from] std::io::Error),
    /// A TC program could not be attached.
    #[error(transparent)]
    Attach(#[from] TcAttachError),
}

impl KernelError {
    /// Whether a map had no room for one entry more.
    fn is_full(&self) -> bool {
        self.fails_with(libc::E2BIG)
    }

    /// Whether the kernel refused to access a map with this error.
    fn fails_with(&self, errno: i32) -> bool {
        matches!(
            self,
            Self::Map { source: MapError::SyscallError(error), .. } if error.io_error.raw_os_error() == Some(errno)
        )
    }
}

/// The loaded programs and what they have found. Dropping it detaches everything.
pub(crate) struct Kernel {
    ebpf: Ebpf,
    events: AsyncFd<RingBuf<MapData>>,
    /// Of the lines of QMP.
    lines: AsyncFd<RingBuf<MapData>>,
    interfaces: StdHashMap<u32, tc::Attached>,
    taps: StdHashMap<u32, tc::Attached>,
    attacher: tc::Attacher,
    instruments: Vec<Instrument>,
    /// Whether the programs themselves find out who owns a flow.
    ties_sockets: bool,
    counts_retransmissions: bool,
    #[cfg(feature = "kernel-log")]
    _log: kernel_log::KernelLog,
}

impl Kernel {
    /// Loads the object and attaches every instrument but the TC programs, which want an interface.
    pub(crate) fn load(settings: &Settings) -> Result<Self, KernelError> {
        let offsets = Btf::of_running_kernel();
        let socket_offsets = instruments::resolve(&offsets, Btf::socket_offsets);
        let retransmit_offsets = instruments::resolve(&offsets, Btf::retransmit_offsets);
        let task_tgid = instruments::resolve(&offsets, Btf::task_tgid);
        drop(offsets);

        let mut ebpf =
            load_object(settings, &socket_offsets.value, &retransmit_offsets.value, task_tgid.value)?;
        let instruments =
            instruments::attach_all(&mut ebpf, &socket_offsets, &retransmit_offsets, &task_tgid);
        let kernel = Self::new(ebpf, settings, instruments, socket_offsets.why_not.is_none())?;
        // To load takes more memory than all that comes after it.
        memory::give_back();
        Ok(kernel)
    }

    /// As [`Self::load`], but attaches nothing.
    #[cfg(test)]
    fn load_detached(settings: &Settings) -> Result<Self, KernelError> {
        let ebpf = load_object(settings, &SocketOffsets::default(), &RetransmitOffsets::default(), 0)?;
        Self::new(ebpf, settings, Vec::new(), false)
    }

    fn new(
        mut ebpf: Ebpf,
        settings: &Settings,
        instruments: Vec<Instrument>,
        finds_sockets: bool,
    ) -> Result<Self, KernelError> {
        let is_attached = |name| {
            instruments
                .iter()
                .any(|instrument: &Instrument| instrument.name == name && instrument.hook.is_some())
        };
        Ok(Self {
            events: maps::ring(&mut ebpf, "EVENTS")?,
            lines: maps::ring(&mut ebpf, "LINES")?,
            interfaces: StdHashMap::new(),
            taps: StdHashMap::new(),
            attacher: tc::Attacher::new(settings.attach),
            ties_sockets: finds_sockets && is_attached("qmp"),
            counts_retransmissions: is_attached("retransmit"),
            instruments,
            #[cfg(feature = "kernel-log")]
            _log: kernel_log::KernelLog::start(&mut ebpf)?,
            ebpf,
        })
    }

    /// The instrument table as it is on this host.
    pub(crate) fn instruments(&self) -> &[Instrument] {
        &self.instruments
    }

    /// Whether the programs themselves find out which process owns a flow.
    pub(crate) const fn ties_sockets(&self) -> bool {
        self.ties_sockets
    }

    /// Counts at an interface of this network namespace. `skip_tagged` leaves VLAN frames to the device above, `tag_bytes` are
    /// added to each frame.
    pub(crate) fn attach(
        &mut self,
        name: &str,
        index: u32,
        skip_tagged: bool,
        tag_bytes: u32,
    ) -> Result<AttachMode, KernelError> {
        if skip_tagged {
            self.leave_tagged(index)?;
        }
        if tag_bytes != 0 {
            self.add_tags(index, tag_bytes)?;
        }
        let attached = self.attacher.attach(&mut self.ebpf, &tc::COUNT, name, index)?;
        let mode = attached.mode();
        self.interfaces.insert(index, attached);
        Ok(mode)
    }

    fn leave_tagged(&mut self, index: u32) -> Result<(), KernelError> {
        maps::set(&mut self.ebpf, "TAGGED_ELSEWHERE", index, 1_u32)
    }

    fn add_tags(&mut self, index: u32, bytes: u32) -> Result<(), KernelError> {
        maps::set(&mut self.ebpf, "TAG_BYTES", index, bytes)
    }

    /// Forgets an interface that has vanished, or stops counting at it.
    pub(crate) fn detach(&mut self, index: u32) {
        self.interfaces.remove(&index);
    }

    /// Whether packets are counted at this interface.
    pub(crate) fn is_attached(&self, index: u32) -> bool {
        self.interfaces.contains_key(&index)
    }

    /// What has become of the TC programs since the last time. Those that somebody removed are attached again.
    pub(crate) fn look_after_attachments(&mut self) -> std::io::Result<Vec<Change>> {
        let all = self.interfaces.values_mut().chain(self.taps.values_mut());
        self.attacher.look(&mut self.ebpf, all)
    }

    /// Tells of processes that start with this name, too, as the kernel keeps it.
    pub(crate) fn take_for_qemu(&mut self, name: [u8; 16]) -> Result<(), KernelError> {
        maps::set(&mut self.ebpf, "QEMU_NAMES", name, 1_u32)
    }

    /// What was counted of every flow, and of the fragments between every pair of hosts; in the order of their ends, which
    /// never depends on a hash.
    pub(crate) fn flows(&self) -> Result<Vec<FlowState>, KernelError> {
        let entries = maps::entries::<FlowKey, FlowEntry>(&self.ebpf, FLOWS)?;
        let state = |(key, entry)| flows::state_of(&key, &entry, self.counts_retransmissions);
        let mut flows: Vec<FlowState> = entries.into_iter().filter_map(state).collect();
        flows.sort_unstable_by_key(|state| state.flow);
        Ok(flows)
    }

    /// What a message says that was counted of a flow in the end.
    pub(crate) fn final_state(&self, key: &FlowKey, entry: &FlowEntry) -> FlowState {
        flows::final_state(key, entry, self.counts_retransmissions)
    }

    /// How many packets had a watched port but belonged to no flow.
    pub(crate) fn strays(&self) -> Result<u64, KernelError> {
        maps::element(&self.ebpf, "STRAYS", 0)
    }

    /// What was lost so far.
    pub(crate) fn lost(&self) -> Result<Lost, KernelError> {
        let counters = maps::elements::<u64>(&self.ebpf, "LOST", 0..abi::lost::COUNT as u32)?;
        let read = |index| counters[index as usize];
        Ok(Lost {
            ring_buffer: read(abi::lost::RING_BUFFER),
            flows: read(abi::lost::FLOWS),
            // A flow too many is one of which an instrument cannot tell what it should.
            hook_calls: read(abi::lost::PROBES) + read(abi::lost::CLAIMS) + self.missed(),
            qmp_lines: read(abi::lost::LINES),
            vcpus: read(abi::lost::VCPUS),
        })
    }

    /// Runs of our programs that the kernel skipped, as far as it tells.
    fn missed(&self) -> u64 {
        let programs = self.ebpf.programs().filter_map(|(_, program)| program.fd().ok());
        programs.filter_map(|program| misses::of(program.as_fd())).sum()
    }

    /// The next events; waits until there may be one. Cancel-safe.
    pub(crate) async fn messages(&mut self) -> Result<Vec<Message>, KernelError> {
        // Cleared before the rings are read: what comes after that wakes the next wait.
        tokio::select! {
            guard = self.events.readable_mut() => guard?.clear_ready(),
            guard = self.lines.readable_mut() => guard?.clear_ready(),
        }
        Ok(self.pending_messages())
    }

    /// The events that are there now, in the order of their stamps.
    pub(crate) fn pending_messages(&mut self) -> Vec<Message> {
        // The lines last: when the end of a process is among the messages, so are all lines that it wrote before.
        let mut messages = drain(self.events.get_mut());
        messages.extend(drain(self.lines.get_mut()));
        messages.sort_by_key(|message| message.at_ns);
        messages
    }
}

/// Loads the maps and the TC programs.
fn load_object(
    settings: &Settings,
    socket_offsets: &SocketOffsets,
    retransmit_offsets: &RetransmitOffsets,
    task_tgid: u32,
) -> Result<Ebpf, KernelError> {
    let ports: [u32; PORT_RANGES] = settings.ports.packed();
    let encapsulations = encapsulations(settings);
    let mut loader = EbpfLoader::new();
    echo::size(&mut loader, 1);
    let mut ebpf = loader
        // The object needs no relocation against the kernel's types, and parsing them costs 100 MiB.
        .btf(None)
        .override_global("PORTS", &ports, true)
        .override_global("ENCAPSULATIONS", &encapsulations, true)
        .override_global("SOCKET_OFFSETS", socket_offsets.as_bytes(), true)
        .override_global("RETRANSMIT_OFFSETS", retransmit_offsets.as_bytes(), true)
        .override_global("TASK_TGID", &task_tgid, true)
        .map_max_entries("FLOWS", settings.flow_capacity)
        .load(OBJECT)
        .map_err(|error| KernelError::Refused { what: "object".into(), why: with_causes(&error) })?;
    tc::load(&mut ebpf, &tc::COUNT)?;
    tc::load(&mut ebpf, &tc::GUEST)?;
    tc::load_program(&mut ebpf, control::PROGRAM)?;
    Ok(ebpf)
}

fn drain(ring: &mut RingBuf<MapData>) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some(item) = ring.next() {
        // A message of an unknown kind cannot come: programs and user space are one binary.
        messages.extend(Message::decode(&item));
    }
    messages
}

const fn encapsulations(settings: &Settings) -> u32 {
    use migtrace_ebpf::packet::encapsulation::{GENEVE, NONE, VXLAN};
    (if settings.vxlan { VXLAN } else { NONE }) | (if settings.geneve { GENEVE } else { NONE })
}
