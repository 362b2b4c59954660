//! What the events have shown so far, indexed by what they are about.

mod flow;
mod process;
mod samples;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

pub(super) use flow::FlowFacts;
pub(super) use process::{GivenUpCopy, JobState, Process, TapAnnouncement};

use flow::Owner;
use process::CountedFrames;

use super::clocks::Clocks;
use super::echo_gaps::EchoGaps;
use super::losses::Losses;
use super::removals::Removals;
use super::stamped::Stamped;
use super::transition::Transition;
use crate::event::{
    Crossed, EchoEnd, EchoOwnerMethod, EchoStart, EndReason, Event, Fact, FlowCounters, InstrumentStatus,
    Interface, Observation, PeerRecording, Qemu, QmpEvent,
};
use crate::units::{Counters, Directions, Flow, MonotonicNs};
use crate::vm::VmKey;
use crate::vocabulary::NotMeasured;

/// The instrument that reads QEMU's events, by its name in the table of instruments.
const QMP_INSTRUMENT: &str = "qmp";

/// A reading of another host's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockReading {
    /// When this host has asked.
    pub(super) asked: MonotonicNs,
    /// What the other clock showed after that, and before the answer came.
    pub(super) showed: MonotonicNs,
    /// When the answer came.
    pub(super) answered: MonotonicNs,
}

/// Everything that the events have shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) observation: Option<Observation>,
    /// When the log began.
    begun: Option<MonotonicNs>,
    pub(super) clocks: Clocks,
    /// The fastest slew of the monotonic clock that was noticed, in millionths; 0: none was faster than NTP's.
    pub(super) fastest_slew_ppm: u64,
    /// What was read of the clocks of other hosts, by their recordings.
    clock_readings: BTreeMap<PeerRecording, Vec<ClockReading>>,
    pub(super) processes: Vec<Process>,
    pub(super) flows: Vec<FlowFacts>,
    /// The fragments between two addresses, each time that they were counted. Another series begins when the counting
    /// has ended and starts anew.
    pub(super) fragments: BTreeMap<(IpAddr, IpAddr), Vec<Stamped<Directions<Counters>>>>,
    /// Since when which address was probed.
    pub(super) echo_start: Option<(MonotonicNs, EchoStart)>,
    /// The processes whose guest has the probed address, as indices into `processes`, and how that is known.
    echo_owners: Vec<(usize, EchoOwnerMethod)>,
    pub(super) echo_gaps: EchoGaps,
    /// When the probing ended, and its overall figures.
    pub(super) echo_end: Option<(MonotonicNs, EchoEnd)>,
    pub(super) not_measured: Vec<NotMeasured>,
    not_measured_so_far: HashSet<NotMeasured>,
    /// The interfaces at which packets are or were counted, by their names.
    pub(super) interfaces: BTreeMap<String, Interface>,
    /// Interfaces that vanished.
    pub(super) gone_interfaces: Stamped<String>,
    pub(super) removals: Removals,
    /// Kinds of events that were not understood, and how many of each.
    pub(super) not_understood: BTreeMap<String, u64>,
    pub(super) losses: Losses,
    pub(super) end: Option<EndReason>,
    /// The latest stamp of any event.
    pub(super) latest: MonotonicNs,
    /// The latest instant at which any QEMU reported something of a migration.
    latest_report: MonotonicNs,
    /// How many processes have ended.
    gone: usize,
    /// The process that now has a pid: pids are reused.
    process_of_pid: HashMap<u32, usize>,
    /// The connection that now has an address pair: ports are reused.
    flow_of_ends: HashMap<Flow, usize>,
    /// The flows whose owner is not known, as indices into `flows`.
    pub(super) unowned: BTreeSet<usize>,
}

impl Facts {
    /// Whether QEMU's events can be read on this host. If not, their absence means nothing.
    pub(super) fn hears_qemu(&self) -> bool {
        let mut instruments = self.observation.iter().flat_map(|o| &o.instruments);
        !instruments.any(|i| i.name == QMP_INSTRUMENT && i.status == InstrumentStatus::Missing)
    }

    /// The host's name.
    pub(super) fn host(&self) -> &str {
        self.observation.as_ref().map_or("", |observation| observation.host.as_str())
    }

    /// Which recording of which host this is.
    pub(super) fn recording(&self) -> Option<PeerRecording> {
        Some(PeerRecording { host: self.host().to_owned(), since_ns: self.begun? })
    }

    /// What this host has read of another's clock.
    pub(super) fn readings_of(&self, other: &Self) -> &[ClockReading] {
        let readings = other.recording().and_then(|recording| self.clock_readings.get(&recording));
        readings.map_or(&[], Vec::as_slice)
    }

    /// The recordings of other hosts whose clocks this host has read.
    pub(super) fn recordings_read(&self) -> impl Iterator<Item = &PeerRecording> {
        self.clock_readings.keys()
    }

    /// Takes in an event. Returns whether it may change which migrations there are and what they are doing, not only counts
    /// and details.
    pub(super) fn push(&mut self, event: &Event) -> bool {
        let processes = self.processes.len();
        self.latest = self.latest.max(event.at_ns);
        let changes = self.take_in(event.at_ns, &event.fact) && !is_detail(&event.fact);
        changes || self.processes.len() > processes
    }

    /// Hands a fact to what it is about. Returns false when it is known to change counts only.
    fn take_in(&mut self, at: MonotonicNs, fact: &Fact) -> bool {
        match fact {
            Fact::LogStart(observation) => {
                self.begun = Some(at);
                observation.interfaces.iter().for_each(|interface| self.interface(interface));
                self.observation = Some(observation.clone());
            }
            Fact::Clock(sample) => self.clocks.push(at, *sample),
            Fact::ClockSlew { ppm, .. } => self.fastest_slew_ppm = self.fastest_slew_ppm.max(*ppm),
            Fact::PeerClock { peer, asked_ns, showed_ns } => {
                let reading = ClockReading { asked: *asked_ns, showed: *showed_ns, answered: at };
                self.clock_readings.entry(peer.clone()).or_default().push(reading);
            }
            Fact::QemuSeen(qemu) => self.qemu_seen(qemu),
            Fact::QemuGone { pid } => self.qemu_gone(*pid, at),
            Fact::FlowSeen { flow, interface, from_start, initial_sequences } => {
                self.flow_seen(*flow, at, interface, *from_start).initial_sequences = *initial_sequences;
            }
            Fact::Milestones { flow, crossings } => {
                self.flow(*flow, at).crossings.extend_from_slice(crossings);
            }
            Fact::FlowOwner { flow, pid, crossed, .. } => self.flow_owner(*flow, *pid, at, *crossed),
            Fact::FlowGone { flow } => self.flow_gone(*flow, at),
            Fact::FlowPurpose { flow, purpose } => self.flow(*flow, at).purpose = *purpose,
            Fact::FlowCounters(counted) => return self.flow_counters(at, counted),
            Fact::FlowCarriedBefore(carried) => self.flow(carried.flow, at).push_carried_before(carried),
            Fact::Fragments { local, remote, counters } => self.fragments(at, (*local, *remote), *counters),
            Fact::Qmp(qmp) => return self.qmp(at, qmp),
            Fact::QueryMigrate { pid, reply } => self.process(*pid).replies.insert(at, reply.clone()),
            Fact::QueryMigrateParameters { pid, reply } => {
                self.process(*pid).parameters.insert(at, reply.clone());
            }
            Fact::Domjobinfo { pid, figures } => self.process(*pid).push_libvirt_figures(at, figures),
            Fact::GuestRun { pid, vcpus } => self.process(*pid).runs.push(at, *vcpus),
            Fact::GuestRunVoid { pid, entered_ns, certain } => {
                self.process(*pid).runs.void(*entered_ns, *certain);
            }
            Fact::DirtyLog { pid, counters } => self.dirty_log(at, *pid, *counters),
            Fact::GuestFrame { pid, interface } => {
                self.process(*pid).first_frames.insert(at, interface.clone());
            }
            Fact::GuestFrames { pid, interface, last_ns, .. } => {
                self.process(*pid).counted_frames.insert(at, CountedFrames::new(interface, *last_ns));
            }
            Fact::Announcement { pid, interface, kind } => {
                let announcement = TapAnnouncement { interface: interface.clone(), kind: *kind };
                self.process(*pid).announcements.insert(at, announcement);
            }
            Fact::EchoStart(start) => self.echo_start = Some((at, start.clone())),
            Fact::EchoOwner { pid, method } => self.echo_owner(*pid, *method),
            Fact::EchoGap(gap) => self.echo_gaps.push(*gap),
            Fact::EchoEnd(end) => self.echo_end = Some((at, end.clone())),
            Fact::InterfaceAdded(interface) => self.interface(interface),
            Fact::InterfaceGone { interface } => self.gone_interfaces.insert(at, interface.clone()),
            Fact::TcRemoved(removed) => self.removals.push(removed),
            Fact::Lost { so_far, since_ns } => self.losses.push(at, *since_ns, *so_far),
            Fact::NotMeasured(entry) => self.not_measured(entry),
            Fact::NotUnderstood { kind } => *self.not_understood.entry(kind.clone()).or_default() += 1,
            Fact::LogEnd { reason } => self.end = Some(*reason),
        }
        true
    }

    /// The VMs whose guests have the probed address; empty when nothing shows it. What the network says outweighs whom the
    /// person named.
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

    fn echo_owner(&mut self, pid: u32, method: EchoOwnerMethod) {
        let process = self.process_index(pid);
        self.echo_owners.push((process, method));
    }

    /// A flow names the interface at which it is counted.
    fn interface(&mut self, interface: &Interface) {
        self.interfaces.insert(interface.name.clone(), interface.clone());
    }

    fn not_measured(&mut self, entry: &NotMeasured) {
        if self.not_measured_so_far.insert(entry.clone()) {
            self.not_measured.push(entry.clone());
        }
    }

    /// The process that now has this pid, described or not.
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

    fn qemu_seen(&mut self, qemu: &Qemu) {
        if self.process_of_pid.get(&qemu.pid).is_some_and(|&p| self.processes[p].gone.is_some()) {
            self.process_of_pid.remove(&qemu.pid);
        }
        self.process(qemu.pid).qemu = Some(qemu.clone());
    }

    fn qemu_gone(&mut self, pid: u32, at: MonotonicNs) {
        let process = self.process(pid);
        let is_news = process.gone.is_none();
        process.gone = process.gone.max(Some(at));
        self.gone += usize::from(is_news);
    }

    /// Returns whether the event is about a migration.
    fn qmp(&mut self, at: MonotonicNs, qmp: &QmpEvent) -> bool {
        // No process writes after its end, so this is another one with the same pid.
        let known = self.process_of_pid.get(&qmp.pid);
        if known.is_some_and(|&p| self.processes[p].gone.is_some_and(|gone| gone < at)) {
            self.process_of_pid.remove(&qmp.pid);
        }
        let is_about_migration = self.process(qmp.pid).push_qmp(at, qmp);
        if is_about_migration {
            self.latest_report = self.latest_report.max(at);
        }
        is_about_migration
    }

    fn dirty_log(&mut self, at: MonotonicNs, pid: u32, counters: Directions<Counters>) {
        self.process(pid).dirty_logs.insert(at, Transition::of_dirty_log(at, counters));
        self.latest_report = self.latest_report.max(at);
    }

    /// The connection that now has these ends, seen or not: its facts come from several instruments in no fixed order.
    fn flow(&mut self, flow: Flow, at: MonotonicNs) -> &mut FlowFacts {
        let index = self.flow_index(flow, at);
        &mut self.flows[index]
    }

    fn flow_index(&mut self, flow: Flow, at: MonotonicNs) -> usize {
        *self.flow_of_ends.entry(flow).or_insert_with(|| {
            let index = self.flows.len();
            self.unowned.insert(index);
            self.flows.push(FlowFacts::new(index, flow, at));
            index
        })
    }

    /// A new connection may use the ports of one that has closed.
    fn flow_seen(
        &mut self,
        flow: Flow,
        at: MonotonicNs,
        interface: &str,
        from_start: bool,
    ) -> &mut FlowFacts {
        if self.flow_of_ends.get(&flow).is_some_and(|&f| self.flows[f].closed()) {
            self.flow_of_ends.remove(&flow);
        }
        let flow = self.flow(flow, at);
        flow.seen_at = flow.seen_at.min(at);
        interface.clone_into(&mut flow.interface);
        flow.begins(from_start);
        flow
    }

    /// Later facts about these ends belong to another connection.
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
            flow.push_crossed(at, crossed);
        }
        match flow.owner.replace(Owner { process, at }) {
            Some(before) => self.processes[before.process].flows.remove(&index),
            None => self.unowned.remove(&index),
        };
        self.processes[process].flows.insert(index);
    }

    /// Returns whether more has changed than how much the flow has carried, and until when.
    fn flow_counters(&mut self, at: MonotonicNs, counted: &FlowCounters) -> bool {
        let index = self.flow_index(counted.flow, at);
        let flow = &self.flows[index];
        // Whether QEMU's latest report was made during the migration, and whether packets came after its process had ended.
        let last_matters = flow.last() < self.latest_report
            || match flow.owner {
                Some(owner) => self.processes[owner.process].gone.is_some(),
                None => self.gone > 0,
            };
        let flow = &mut self.flows[index];
        let before = flow.state(last_matters);
        flow.push_counters(at, counted);
        flow.state(last_matters) != before
    }

    fn fragments(&mut self, at: MonotonicNs, ends: (IpAddr, IpAddr), counters: Directions<Counters>) {
        let counted = self.fragments.entry(ends).or_default();
        if counted.is_empty() {
            counted.push(Stamped::default());
        }
        counted.last_mut().expect("there is one").insert(at, counters);
    }
}

/// Whether a fact does not change which migrations there are and what they are doing, unless it is the first about its
/// process.
const fn is_detail(fact: &Fact) -> bool {
    matches!(
        fact,
        Fact::Fragments { .. }
            | Fact::Milestones { .. }
            | Fact::ClockSlew { .. }
            | Fact::PeerClock { .. }
            | Fact::QueryMigrateParameters { .. }
            | Fact::Domjobinfo { .. }
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
