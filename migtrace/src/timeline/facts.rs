//! What the events have told so far, in the order of what they are about.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use serde_json::Value;

use super::clocks::Clocks;
use super::losses::Losses;
use super::migration::heading;
use super::removals::Removals;
use super::runs::Runs;
use super::silences::Silences;
use super::stamped::Stamped;
use super::untied::Untied;
use crate::event::{
    Crossed, EchoEnd, EchoOwnerMethod, EchoStart, EndReason, Event, Fact, FlowCounters, InstrumentStatus,
    Observation, Qemu, QmpEvent, Vcpus,
};
use crate::record::PhaseName;
use crate::units::{Counters, Directions, Flow, MonotonicNs};
use crate::vm::VmKey;
use crate::vocabulary::{Announcement, NotMeasured, Purpose};

/// The probe that reads QEMU's events, by its name in the probe table.
const QMP_INSTRUMENT: &str = "qmp";
/// How far apart, counted in events, the same event may be read at two monitors.
const ECHO_DISTANCE: usize = 8;

/// Everything that was told.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) observation: Option<Observation>,
    pub(super) clocks: Clocks,
    pub(super) processes: Vec<Process>,
    pub(super) flows: Vec<FlowFacts>,
    /// The fragments between two addresses, each time that they were counted; once more from the start after the counting
    /// had ended.
    pub(super) fragments: BTreeMap<(IpAddr, IpAddr), Vec<Stamped<Directions<Counters>>>>,
    /// Since when which address was asked.
    pub(super) echo_start: Option<(MonotonicNs, EchoStart)>,
    /// The processes whose guest has the probed address, as indices into `processes`, and how that is known.
    echo_owners: Vec<(usize, EchoOwnerMethod)>,
    pub(super) silences: Silences,
    /// When the asking ended, and what it told as a whole.
    pub(super) echo_end: Option<(MonotonicNs, EchoEnd)>,
    pub(super) not_measured: Vec<NotMeasured>,
    not_measured_so_far: HashSet<NotMeasured>,
    /// Interfaces that vanished.
    pub(super) gone_interfaces: Stamped<String>,
    pub(super) removals: Removals,
    /// Kinds of events that were not understood, and how many of each.
    pub(super) not_understood: BTreeMap<String, u64>,
    pub(super) losses: Losses,
    pub(super) end: Option<EndReason>,
    /// The latest instant that any event told.
    pub(super) latest: MonotonicNs,
    /// The latest instant at which any QEMU said something of a migration.
    latest_word: MonotonicNs,
    /// How many processes have ended.
    gone: usize,
    /// The process that now has a pid: pids are used again.
    process_of_pid: HashMap<u32, usize>,
    /// The connection that now has an address pair: ports are used again.
    flow_of_ends: HashMap<Flow, usize>,
    /// The flows whose owner is not known, as indices into `flows`.
    pub(super) unowned: BTreeSet<usize>,
}

/// A QEMU process.
#[derive(Clone, Debug, Default)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) qemu: Option<Qemu>,
    pub(super) gone: Option<MonotonicNs>,
    pub(super) marks: Stamped<Mark>,
    /// As the marks; of use only when those tell of no migration.
    pub(super) dirty_logs: Stamped<Mark>,
    pub(super) jobs: Stamped<JobStep>,
    pub(super) replies: Stamped<Value>,
    pub(super) parameters: Stamped<Value>,
    pub(super) runs: Runs,
    /// The taps at which a first frame came that was waited for.
    pub(super) first_frames: Stamped<String>,
    /// The frames of the guest at a tap, each time that they were counted.
    pub(super) counted_frames: Stamped<CountedFrames>,
    pub(super) announcements: Stamped<Announced>,
    /// The flows of this process, as indices into [`Facts::flows`].
    pub(super) flows: BTreeSet<usize>,
}

/// The frames of a guest at a tap until an instant.
#[derive(Clone, Debug)]
pub(super) struct CountedFrames {
    pub(super) interface: String,
    /// When the last of them came; none: there was none.
    pub(super) last: Option<MonotonicNs>,
}

/// The network is told where the guest is.
#[derive(Clone, Debug)]
pub(super) struct Announced {
    pub(super) interface: String,
    pub(super) kind: Announcement,
}

/// A QMP event that a phase can begin or end at.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub(super) at: MonotonicNs,
    pub(super) kind: MarkKind,
    pub(super) qemu_realtime_us: i64,
    pub(super) counters: Option<Directions<Counters>>,
    pub(super) vcpus: Option<Vcpus>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum MarkKind {
    Status(PhaseName),
    Pass(u64),
    Stop,
    Resume,
    /// No event of QEMU: a round of copying begins, as its calls of KVM tell.
    DirtyLog,
}

/// A step in the life of a block job.
#[derive(Clone, Debug)]
pub(super) struct JobStep {
    pub(super) id: String,
    pub(super) step: JobState,
    pub(super) qemu_realtime_us: i64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum JobState {
    Created,
    /// Only mirrors (and active commits) become ready.
    Ready,
    Over,
}

/// A TCP connection.
#[derive(Clone, Debug)]
pub(super) struct FlowFacts {
    /// Its place in [`Facts::flows`].
    pub(super) index: usize,
    pub(super) flow: Flow,
    pub(super) interface: String,
    pub(super) seen_at: MonotonicNs,
    pub(super) from_start: bool,
    pub(super) owner: Option<Owner>,
    pub(super) purpose: Purpose,
    /// Wire bytes each time the flow was counted.
    pub(super) samples: Vec<(MonotonicNs, Directions<u64>)>,
    /// When it was counted for the last time; none: it never was.
    pub(super) counted_until: Option<MonotonicNs>,
    /// When it was first counted with payload.
    pub(super) payload_by: Option<MonotonicNs>,
    /// When it was counted no more: later sums over its process' flows lack it.
    pub(super) gone: Option<MonotonicNs>,
    /// What had crossed before its owner was known.
    pub(super) untied: Untied,
    /// All that the counters have told, whatever the order in which they came.
    pub(super) last: Option<FlowCounters>,
}

/// Whose flow it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    /// Index into [`Facts::processes`].
    pub(super) process: usize,
    pub(super) at: MonotonicNs,
}

impl Process {
    /// The VM that it runs.
    pub(super) fn vm(&self) -> VmKey<'_> {
        self.qemu.as_ref().map_or(VmKey::of_process(self.pid), VmKey::of)
    }
}

impl FlowFacts {
    pub(super) fn first(&self) -> MonotonicNs {
        self.last.as_ref().map_or(self.seen_at, |c| c.first_ns)
    }

    pub(super) fn last(&self) -> MonotonicNs {
        self.last.as_ref().map_or(self.seen_at, |c| c.last_ns)
    }

    pub(super) fn closed(&self) -> bool {
        self.gone.is_some() || self.last.as_ref().is_some_and(|c| c.closed)
    }

    pub(super) fn payload_bytes(&self) -> Directions<u64> {
        self.last.as_ref().map_or_else(Directions::default, |c| c.counters.map(|d| d.payload_bytes))
    }
}

impl Facts {
    /// Whether QEMU's events can be read on this host; if not, that none was seen says nothing.
    pub(super) fn hears_qemu(&self) -> bool {
        let mut instruments = self.observation.iter().flat_map(|o| &o.instruments);
        !instruments.any(|p| p.name == QMP_INSTRUMENT && p.status == InstrumentStatus::Missing)
    }

    /// Takes in an event. Returns whether it may change which migrations there are and what they are doing, and not
    /// only how much they have carried or what is told of them in the end.
    pub(super) fn push(&mut self, event: &Event) -> bool {
        let at = event.at_ns;
        let processes = self.processes.len();
        self.latest = self.latest.max(at);
        match &event.fact {
            Fact::LogStart(observation) => self.observation = Some(observation.clone()),
            Fact::Clock(sample) => self.clocks.push(at, *sample),
            Fact::QemuSeen(qemu) => self.qemu_seen(qemu),
            Fact::QemuGone { pid } => {
                let process = self.process(*pid);
                let is_news = process.gone.is_none();
                process.gone = process.gone.max(Some(at));
                self.gone += usize::from(is_news);
            }
            Fact::FlowSeen { flow, interface, from_start } => {
                let flow = self.flow_seen(*flow, at);
                flow.interface.clone_from(interface);
                flow.from_start = *from_start;
            }
            Fact::FlowOwner { flow, pid, crossed, .. } => self.flow_owner(*flow, *pid, at, *crossed),
            Fact::FlowGone { flow } => self.flow_gone(*flow, at),
            Fact::FlowPurpose { flow, purpose } => self.flow(*flow, at).purpose = *purpose,
            Fact::FlowCounters(counters) => return self.flow_counters(at, counters),
            Fact::Fragments { local, remote, counters } => {
                let counted = self.fragments.entry((*local, *remote)).or_default();
                if counted.is_empty() {
                    counted.push(Stamped::default());
                }
                counted.last_mut().expect("there is one").insert(at, *counters);
            }
            Fact::Qmp(qmp) => return self.qmp(at, qmp) || self.processes.len() > processes,
            Fact::QueryMigrate { pid, reply } => self.process(*pid).replies.insert(at, reply.clone()),
            Fact::QueryMigrateParameters { pid, reply } => {
                self.process(*pid).parameters.insert(at, reply.clone());
            }
            Fact::GuestRun { pid, vcpus } => self.process(*pid).runs.push(at, *vcpus),
            Fact::GuestRunVoid { pid, entered_ns, certain } => {
                self.process(*pid).runs.void(*entered_ns, *certain);
            }
            Fact::DirtyLog { pid, counters } => {
                let kind = MarkKind::DirtyLog;
                let mark = Mark { at, kind, qemu_realtime_us: 0, counters: Some(*counters), vcpus: None };
                self.process(*pid).dirty_logs.insert(at, mark);
                self.latest_word = self.latest_word.max(at);
            }
            Fact::GuestFrame { pid, interface } => {
                self.process(*pid).first_frames.insert(at, interface.clone());
            }
            Fact::GuestFrames { pid, interface, last_ns, .. } => {
                let counted = CountedFrames { interface: interface.clone(), last: *last_ns };
                self.process(*pid).counted_frames.insert(at, counted);
            }
            Fact::Announcement { pid, interface, kind } => {
                let announced = Announced { interface: interface.clone(), kind: *kind };
                self.process(*pid).announcements.insert(at, announced);
            }
            Fact::EchoStart(start) => self.echo_start = Some((at, start.clone())),
            Fact::EchoOwner { pid, method } => {
                let process = self.process_index(*pid);
                self.echo_owners.push((process, *method));
            }
            Fact::EchoGap(gap) => self.silences.push(*gap),
            Fact::EchoEnd(end) => self.echo_end = Some((at, end.clone())),
            // A flow names the interface that it is counted at.
            Fact::InterfaceAdded(_) => {}
            Fact::InterfaceGone { interface } => self.gone_interfaces.insert(at, interface.clone()),
            Fact::TcRemoved(removed) => self.removals.push(removed),
            Fact::Lost { so_far, since_ns } => self.losses.push(at, *since_ns, *so_far),
            Fact::NotMeasured(entry) => {
                if self.not_measured_so_far.insert(entry.clone()) {
                    self.not_measured.push(entry.clone());
                }
            }
            Fact::NotUnderstood { kind } => *self.not_understood.entry(kind.clone()).or_default() += 1,
            Fact::LogEnd { reason } => self.end = Some(*reason),
        }
        !is_told_in_the_end(&event.fact) || self.processes.len() > processes
    }

    /// The VMs whose guests have the probed address; none when nobody said. The network knows better than the person who
    /// named one.
    pub(super) fn echo_owners(&self) -> BTreeSet<VmKey<'_>> {
        let known_by = |method| self.echo_owners.iter().filter(move |(_, by)| *by == method);
        let by_mac: BTreeSet<_> =
            known_by(EchoOwnerMethod::Mac).map(|(p, _)| self.processes[*p].vm()).collect();
        if by_mac.is_empty() {
            known_by(EchoOwnerMethod::Selected).map(|(p, _)| self.processes[*p].vm()).collect()
        } else {
            by_mac
        }
    }

    /// The process that has this pid, known or not.
    fn process(&mut self, pid: u32) -> &mut Process {
        let index = self.process_index(pid);
        &mut self.processes[index]
    }

    fn process_index(&mut self, pid: u32) -> usize {
        *self.process_of_pid.entry(pid).or_insert_with(|| {
            self.processes.push(Process { pid, ..Process::default() });
            self.processes.len() - 1
        })
    }

    /// The process that had this pid when QEMU said something: none does after its end, so that is another one.
    fn speaker(&mut self, pid: u32, at: MonotonicNs) -> &mut Process {
        let known = self.process_of_pid.get(&pid);
        if known.is_some_and(|&p| self.processes[p].gone.is_some_and(|gone| gone < at)) {
            self.process_of_pid.remove(&pid);
        }
        self.process(pid)
    }

    fn qemu_seen(&mut self, qemu: &Qemu) {
        if self.process_of_pid.get(&qemu.pid).is_some_and(|&p| self.processes[p].gone.is_some()) {
            self.process_of_pid.remove(&qemu.pid);
        }
        self.process(qemu.pid).qemu = Some(qemu.clone());
    }

    /// The connection between these ends, known or not: its facts come from several probes in no fixed order.
    fn flow(&mut self, flow: Flow, at: MonotonicNs) -> &mut FlowFacts {
        let index = self.flow_index(flow, at);
        &mut self.flows[index]
    }

    fn flow_index(&mut self, flow: Flow, at: MonotonicNs) -> usize {
        *self.flow_of_ends.entry(flow).or_insert_with(|| {
            let index = self.flows.len();
            self.unowned.insert(index);
            self.flows.push(FlowFacts {
                index,
                flow,
                interface: String::new(),
                seen_at: at,
                from_start: true,
                owner: None,
                purpose: Purpose::Unknown,
                samples: Vec::new(),
                counted_until: None,
                payload_by: None,
                gone: None,
                untied: Untied::default(),
                last: None,
            });
            index
        })
    }

    /// As [`Facts::flow`], but the end of an older connection that used the same ports ends it.
    fn flow_seen(&mut self, flow: Flow, at: MonotonicNs) -> &mut FlowFacts {
        if self.flow_of_ends.get(&flow).is_some_and(|&f| self.flows[f].closed()) {
            self.flow_of_ends.remove(&flow);
        }
        let flow = self.flow(flow, at);
        flow.seen_at = flow.seen_at.min(at);
        flow
    }

    /// What comes later of these ends is another connection's.
    fn flow_gone(&mut self, flow: Flow, at: MonotonicNs) {
        if let Some(index) = self.flow_of_ends.remove(&flow) {
            self.flows[index].gone = Some(at);
        }
        if let Some(counted) = self.fragments.get_mut(&(flow.local.ip(), flow.remote.ip()))
            && flow.local.port() == 0
            && counted.last().is_some_and(|last| last.iter().next().is_some())
        {
            counted.push(Stamped::default());
        }
    }

    fn flow_owner(&mut self, flow: Flow, pid: u32, at: MonotonicNs, crossed: Option<Crossed>) {
        let process = self.process_index(pid);
        let index = self.flow_index(flow, at);
        let flow = &mut self.flows[index];
        if let Some(crossed) = crossed.filter(|_| flow.owner.is_none()) {
            flow.untied.push(at, crossed);
        }
        match flow.owner.replace(Owner { process, at }) {
            Some(before) => self.processes[before.process].flows.remove(&index),
            None => self.unowned.remove(&index),
        };
        self.processes[process].flows.insert(index);
    }

    /// Returns whether more has changed than how much the flow has carried, and until when.
    fn flow_counters(&mut self, at: MonotonicNs, counters: &FlowCounters) -> bool {
        let index = self.flow_index(counters.flow, at);
        let flow = &self.flows[index];
        // What was said before its last packet was said during the migration; what comes after its process, is late.
        let last_matters = flow.last() < self.latest_word
            || match flow.owner {
                Some(owner) => self.processes[owner.process].gone.is_some(),
                None => self.gone > 0,
            };
        let state = |flow: &FlowFacts| {
            let last = (last_matters || flow.closed()).then(|| flow.last());
            (flow.closed(), flow.payload_by.is_some(), heading([flow.payload_bytes()]), flow.first(), last)
        };
        let before = state(flow);
        let flow = &mut self.flows[index];
        flow.samples.push((at, counters.counters.map(|c| c.wire_bytes)));
        let payload = counters.counters.map(|c| c.payload_bytes);
        if payload.tx > 0 || payload.rx > 0 {
            flow.payload_by.get_or_insert(at);
        }
        if flow.owner.is_none() {
            flow.untied.push(at, Crossed { counters: counters.counters, last_ns: counters.last_ns });
        }
        match &mut flow.last {
            Some(last) => grow(last, counters, flow.counted_until <= Some(at)),
            None => flow.last = Some(counters.clone()),
        }
        flow.counted_until = flow.counted_until.max(Some(at));
        state(flow) != before
    }

    /// Returns whether it tells of a migration.
    fn qmp(&mut self, at: MonotonicNs, qmp: &QmpEvent) -> bool {
        let text = |key: &str| qmp.data.get(key).and_then(Value::as_str).map(str::to_owned);
        let kind = match qmp.name.as_str() {
            "MIGRATION" => text("status")
                .filter(|status| !status.is_empty())
                .map(|status| MarkKind::Status(status.as_str().into())),
            "MIGRATION_PASS" => qmp.data.get("pass").and_then(Value::as_u64).map(MarkKind::Pass),
            "STOP" => Some(MarkKind::Stop),
            "RESUME" => Some(MarkKind::Resume),
            _ => None,
        };
        let step = match (qmp.name.as_str(), text("status").as_deref()) {
            ("JOB_STATUS_CHANGE", Some("created")) => Some(JobState::Created),
            ("JOB_STATUS_CHANGE", Some("ready")) => Some(JobState::Ready),
            ("JOB_STATUS_CHANGE", Some("aborting" | "concluded" | "null")) => Some(JobState::Over),
            ("BLOCK_JOB_READY", _) => Some(JobState::Ready),
            ("BLOCK_JOB_COMPLETED" | "BLOCK_JOB_CANCELLED", _) => Some(JobState::Over),
            _ => None,
        };
        let process = self.speaker(qmp.pid, at);
        // QEMU writes an event once to each monitor that has a client: it is told again, but happened once.
        let is_echo = |m: &Mark| Some(&m.kind) == kind.as_ref() && m.qemu_realtime_us == qmp.qemu_realtime_us;
        if process.marks.latest_come().take(ECHO_DISTANCE).any(is_echo) {
            return false;
        }
        let mut tells = false;
        if let Some(kind) = kind {
            let mark = Mark {
                at,
                kind,
                qemu_realtime_us: qmp.qemu_realtime_us,
                counters: qmp.counters,
                vcpus: qmp.vcpus,
            };
            process.marks.insert(at, mark);
            tells = true;
        }
        if let (Some(step), Some(id)) = (step, text("id").or_else(|| text("device"))) {
            let step = JobStep { id, step, qemu_realtime_us: qmp.qemu_realtime_us };
            process.jobs.insert(at, step);
            tells = true;
        }
        if tells {
            self.latest_word = self.latest_word.max(at);
        }
        tells
    }
}

/// Takes what the counters of a flow told at one instant together with what they told at others: a counter only grows.
fn grow(last: &mut FlowCounters, counted: &FlowCounters, is_latest: bool) {
    let most = |a: Counters, b: Counters| Counters {
        wire_bytes: a.wire_bytes.max(b.wire_bytes),
        payload_bytes: a.payload_bytes.max(b.payload_bytes),
        segments: a.segments.max(b.segments),
        skbs: a.skbs.max(b.skbs),
    };
    let (a, b) = (last.counters, counted.counters);
    last.counters = Directions { tx: most(a.tx, b.tx), rx: most(a.rx, b.rx) };
    last.first_ns = last.first_ns.min(counted.first_ns);
    last.last_ns = last.last_ns.max(counted.last_ns);
    let (a, b) = (last.last_byte_ns, counted.last_byte_ns);
    last.last_byte_ns = Directions { tx: a.tx.max(b.tx), rx: a.rx.max(b.rx) };
    last.elsewhere_skbs = last.elsewhere_skbs.max(counted.elsewhere_skbs);
    if is_latest {
        // Who goes on with a connection was not heard when somebody else closed it.
        last.closed = counted.closed;
        // These are none from when they cannot be read.
        last.retransmitted_segments = counted.retransmitted_segments;
        last.retransmitted_payload_bytes = counted.retransmitted_payload_bytes;
    }
}

/// Whether a fact says nothing of which migrations there are and what they are doing, unless its process is news.
const fn is_told_in_the_end(fact: &Fact) -> bool {
    matches!(
        fact,
        Fact::Fragments { .. }
            | Fact::QueryMigrateParameters { .. }
            | Fact::GuestRun { .. }
            | Fact::GuestRunVoid { .. }
            | Fact::GuestFrames { .. }
            | Fact::EchoStart(_)
            | Fact::EchoOwner { .. }
            | Fact::EchoGap(_)
            | Fact::EchoEnd(_)
            | Fact::InterfaceAdded(_)
            | Fact::InterfaceGone { .. }
            | Fact::TcRemoved(_)
            | Fact::Lost { .. }
            | Fact::NotMeasured(_)
            | Fact::NotUnderstood { .. }
    )
}
