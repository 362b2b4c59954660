//! The kernel side: loads the eBPF programs, attaches them, reads what they found. The only module that names
//! aya.
//!
//! It knows flows, processes, taps and sessions of echo requests, but nothing of phases or migrations.

// In which order to read:
//
// 1. `Kernel`, below: what a tracer uses. `settings` is what it is asked to do, `error` what can go wrong.
// 2. How it starts: `object` makes the maps, `offsets` and `btf` find fields of the kernel's structs,
//    `programs` loads a program, `instruments` attaches one program for each entry of its table, `tc`
//    attaches programs to interfaces.
// 3. What it reads: `messages` come through ring buffers, `flows` is the flow table, `tap` has the frames of
//    guests; `maps` reads any map by its name.
// 4. What it asks of the programs while they run: `flow_commands`, `traced_processes`.
// 5. `echo`: the programs of `migtrace probe`, which are loaded on their own.
// 6. `sleep`: detaches between migrations whatever costs something then.
// 7. `examine` tries what works on this host, for `migtrace doctor`; `cost` measures what the programs cost.

mod address;
mod bpf_syscall;
mod btf;
// Not for an embedder: `cargo xtask bench` times the programs with it.
#[doc(hidden)]
pub mod cost;
pub(crate) mod echo;
mod error;
mod examine;
mod flow_commands;
mod flows;
mod grace_period;
mod instruments;
#[cfg(feature = "kernel-log")]
mod kernel_log;
mod maps;
mod memory;
mod messages;
mod object;
mod offsets;
mod programs;
mod purpose;
mod scheduling;
mod settings;
mod skipped_runs;
mod sleep;
mod tap;
mod tc;
#[cfg(test)]
mod test_run;
#[cfg(test)]
mod testing;
mod traced_processes;
mod tunnel;

use std::collections::HashMap as StdHashMap;
use std::os::fd::AsFd as _;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use migtrace_ebpf::abi::{self, FlowEntry, FlowKey};
use tokio::io::unix::AsyncFd;

pub use error::KernelError;
pub use examine::{WIRE, examine};
pub(crate) use flows::{FirstPacket, FlowState};
pub(crate) use grace_period::GracePeriod;
pub(crate) use messages::{Body, FlowId, Message, MilestonesCrossed, QmpWrite};
pub(crate) use purpose::{is_other, purpose};
pub(crate) use scheduling::{OnCpu, be_punctual};
pub use settings::Settings;
pub(crate) use sleep::Opened;
pub use tc::{AttachChoice, Leftover, TcAttachError};
pub(crate) use tc::{Change, ChangeNews, cleanup};
pub use tunnel::{Tunnel, UnknownTunnel};

use crate::event::Instrument;
use crate::units::Flow;
use crate::vocabulary::{AttachMode, Lost};
use btf::Btf;
use instruments::{Attached, Functions, Need, Unmet};
use offsets::Offsets;

/// The flow table.
const FLOWS: &str = "FLOWS";

/// The loaded programs and what they have found. Dropping it detaches everything.
pub(crate) struct Kernel {
    ebpf: Ebpf,
    events: AsyncFd<RingBuf<MapData>>,
    /// Lines of QMP.
    lines: AsyncFd<RingBuf<MapData>>,
    milestones: RingBuf<MapData>,
    interfaces: StdHashMap<u32, tc::Attached>,
    taps: StdHashMap<u32, tc::Attached>,
    attacher: tc::Attacher,
    instruments: Vec<Instrument>,
    attached: Vec<Attached>,
    /// Whether the programs themselves find the owner of a flow.
    ties_sockets: bool,
    counts_retransmissions: bool,
    /// Whether a connection that opens during a sleep ends it.
    can_sleep: bool,
    is_asleep: bool,
    #[cfg(feature = "kernel-log")]
    _log: kernel_log::KernelLog,
}

impl Kernel {
    /// Loads the programs and attaches every instrument but the TC programs, which need an interface.
    pub(crate) fn load(settings: &Settings) -> Result<Self, KernelError> {
        let types = Btf::of_running_kernel();
        let (offsets, mut unmet) = Offsets::of(&types);
        let functions = Functions::find(&types);
        drop(types);
        let mut ebpf = object::load(settings, &offsets)?;
        let instruments = instruments::attach_all(&mut ebpf, &functions, &mut unmet);
        let kernel = Self::new(ebpf, settings, instruments, &unmet)?;
        // Loading takes more memory than everything after it.
        memory::give_back();
        Ok(kernel)
    }

    /// As [`Self::load`], but attaches nothing.
    #[cfg(test)]
    fn load_detached(settings: &Settings) -> Result<Self, KernelError> {
        let ebpf = object::load(settings, &Offsets::default())?;
        Self::new(ebpf, settings, (Vec::new(), Vec::new()), &Unmet::default())
    }

    fn new(
        mut ebpf: Ebpf,
        settings: &Settings,
        (instruments, attached): (Vec<Instrument>, Vec<Attached>),
        unmet: &Unmet,
    ) -> Result<Self, KernelError> {
        let is_attached = |name| attached.iter().any(|attached: &Attached| attached.name == name);
        Ok(Self {
            events: maps::ring(&mut ebpf, "EVENTS")?,
            lines: maps::ring(&mut ebpf, "LINES")?,
            milestones: maps::unpolled_ring(&mut ebpf, "MILESTONES")?,
            interfaces: StdHashMap::new(),
            taps: StdHashMap::new(),
            attacher: tc::Attacher::new(settings.attach),
            ties_sockets: is_attached("qmp") && unmet.why(&[Need::SocketOffsets]).is_none(),
            counts_retransmissions: is_attached("retransmit"),
            can_sleep: is_attached("connect"),
            is_asleep: false,
            instruments,
            attached,
            #[cfg(feature = "kernel-log")]
            _log: kernel_log::KernelLog::start(&mut ebpf)?,
            ebpf,
        })
    }

    /// The instrument table as it is on this host.
    pub(crate) fn instruments(&self) -> &[Instrument] {
        &self.instruments
    }

    /// Whether the programs themselves find the process that owns a flow.
    pub(crate) const fn ties_sockets(&self) -> bool {
        self.ties_sockets
    }

    /// Counts at an interface of this network namespace. With `skip_tagged`, VLAN frames are left to the
    /// device above; `tag_bytes` are added to each frame.
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
        let mut attached = self.attacher.attach(&mut self.ebpf, &tc::COUNT, name, index)?;
        let mode = attached.mode();
        if self.is_asleep {
            // It was attached to see whether it can be.
            attached.rest();
        }
        self.interfaces.insert(index, attached);
        Ok(mode)
    }

    fn leave_tagged(&mut self, index: u32) -> Result<(), KernelError> {
        maps::set(&mut self.ebpf, "TAGGED_ELSEWHERE", index, 1_u32)
    }

    fn add_tags(&mut self, index: u32, bytes: u32) -> Result<(), KernelError> {
        maps::set(&mut self.ebpf, "TAG_BYTES", index, bytes)
    }

    /// Stops counting at an interface, which may have vanished.
    pub(crate) fn detach(&mut self, index: u32) {
        self.interfaces.remove(&index);
    }

    /// Whether packets are counted at this interface.
    pub(crate) fn is_attached(&self, index: u32) -> bool {
        self.interfaces.contains_key(&index)
    }

    /// What happened to the TC programs since the last call. Those that somebody removed are attached again.
    pub(crate) fn look_after_attachments(&mut self) -> std::io::Result<Vec<Change>> {
        if self.is_asleep {
            return Ok(Vec::new());
        }
        let all = self.interfaces.values_mut().chain(self.taps.values_mut());
        self.attacher.check(&mut self.ebpf, all)
    }

    /// Also reports processes that start under this name, as the kernel keeps it.
    pub(crate) fn take_for_qemu(&mut self, name: [u8; 16]) -> Result<(), KernelError> {
        maps::set(&mut self.ebpf, "QEMU_NAMES", name, 1_u32)
    }

    /// What was counted of every flow, and of the fragments between every pair of hosts. Sorted by addresses
    /// and ports, so that the order never depends on a hash.
    pub(crate) fn flows(&self) -> Result<Vec<FlowState>, KernelError> {
        let entries = maps::entries::<FlowKey, FlowEntry>(&self.ebpf, FLOWS)?;
        let state = |(key, entry)| flows::state_of(&key, &entry, self.counts_retransmissions);
        let mut flows: Vec<FlowState> = entries.into_iter().filter_map(state).collect();
        flows.sort_unstable_by_key(|state| state.flow);
        Ok(flows)
    }

    /// What was counted of one flow; `None` when it is not in the table.
    pub(crate) fn flow(&self, flow: Flow) -> Result<Option<FlowState>, KernelError> {
        let key = flows::key_of(flow);
        let entry = maps::get::<_, FlowEntry>(&self.ebpf, FLOWS, key)?;
        Ok(entry.and_then(|entry| flows::state_of(&key, &entry, self.counts_retransmissions)))
    }

    /// The final counters of a flow, from the entry in a message.
    pub(crate) fn final_state(&self, key: &FlowKey, entry: &FlowEntry) -> FlowState {
        flows::final_state(key, entry, self.counts_retransmissions)
    }

    /// How many packets had a watched port but belonged to no known flow.
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
            // A flow without room in its owner's list is missing from the sums that an instrument reports.
            hook_calls: read(abi::lost::UNREADABLE) + read(abi::lost::CLAIMS) + self.skipped_runs(),
            qmp_lines: read(abi::lost::LINES),
            vcpus: read(abi::lost::VCPUS),
        })
    }

    /// Runs of our programs that the kernel skipped, as far as it reports them.
    fn skipped_runs(&self) -> u64 {
        let programs = self.ebpf.programs().filter_map(|(_, program)| program.fd().ok());
        programs.filter_map(|program| skipped_runs::of(program.as_fd())).sum()
    }

    /// The next messages; waits until there may be some. Cancel-safe.
    pub(crate) async fn messages(&mut self) -> Result<Vec<Message>, KernelError> {
        // Cleared before the rings are read, so that what comes later wakes the next wait.
        tokio::select! {
            guard = self.events.readable_mut() => guard?.clear_ready(),
            guard = self.lines.readable_mut() => guard?.clear_ready(),
        }
        Ok(self.pending_messages())
    }

    /// The messages that are there now, in the order of their stamps.
    pub(crate) fn pending_messages(&mut self) -> Vec<Message> {
        // Lines last: if the end of a process is among the messages, so are all lines that it wrote.
        let mut messages = drain(self.events.get_mut(), Message::decode);
        messages.extend(drain(self.lines.get_mut(), Message::decode));
        messages.sort_by_key(|message| message.at_ns);
        messages
    }

    /// The milestones that were crossed since the last call, in the order of their stamps.
    pub(crate) fn milestones_crossed(&mut self) -> Vec<MilestonesCrossed> {
        let mut crossed = drain(&mut self.milestones, MilestonesCrossed::decode);
        crossed.sort_by_key(|crossed| crossed.crossing.at_ns);
        crossed
    }
}

fn drain<T>(ring: &mut RingBuf<MapData>, decode: impl Fn(&[u8]) -> Option<T>) -> Vec<T> {
    let mut messages = Vec::new();
    while let Some(item) = ring.next() {
        // Programs and user space are one binary, so no message is of an unknown kind.
        messages.extend(decode(&item));
    }
    messages
}
