//! What the events have told so far, in the order of what they are about.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde_json::Value;

use super::clocks::Clocks;
use super::untied::Untied;
use crate::event::{
    Announcement, Crossed, EchoEnd, EchoGap, EchoStart, EndReason, Event, Fact, FlowCounters, Lost,
    NotMeasured, Observation, ProbeStatus, Purpose, Qemu, QmpEvent, Vcpus,
};
use crate::units::{Counters, Directions, Flow, MonotonicNs};

/// The probe that reads QEMU's events, by its name in the probe table.
const QMP_PROBE: &str = "qmp";
/// How far apart, counted in events, the same event may be read at two monitors.
const ECHO_DISTANCE: usize = 8;

/// What had crossed at an instant.
pub(super) type Count = (MonotonicNs, Directions<Counters>);

/// Everything that was told.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) observation: Option<Observation>,
    pub(super) clocks: Clocks,
    pub(super) processes: Vec<Process>,
    pub(super) flows: Vec<FlowFacts>,
    pub(super) fragments: BTreeMap<(IpAddr, IpAddr), Vec<Count>>,
    pub(super) echo_start: Option<EchoStart>,
    /// The processes whose guest has the probed address: both ends of its migration may be on this host.
    pub(super) echo_owners: Vec<u32>,
    pub(super) echo_gaps: Vec<EchoGap>,
    pub(super) echo_end: Option<EchoEnd>,
    pub(super) not_measured: Vec<NotMeasured>,
    pub(super) lost: Lost,
    pub(super) end: Option<EndReason>,
    /// The latest instant that any event told.
    pub(super) latest: MonotonicNs,
    /// The process that now has a pid: pids are used again.
    process_of_pid: HashMap<u32, usize>,
    /// The connection that now has an address pair: ports are used again.
    flow_of_ends: HashMap<Flow, usize>,
}

/// A QEMU process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) qemu: Option<Qemu>,
    pub(super) gone: Option<MonotonicNs>,
    /// In the order of their stamps.
    pub(super) marks: Vec<Mark>,
    /// As the marks; of use only when those tell of no migration.
    pub(super) dirty_logs: Vec<Mark>,
    /// In the order of their stamps.
    pub(super) jobs: Vec<JobStep>,
    pub(super) replies: Vec<(MonotonicNs, Value)>,
    pub(super) parameters: Vec<Value>,
    /// In the order of their stamps.
    pub(super) runs: Vec<Run>,
    pub(super) void_runs: Vec<VoidRun>,
    /// When the first frame came that was waited for, in the order of their stamps.
    pub(super) first_frames: Vec<MonotonicNs>,
    /// The latest frame of the guest each time that they were counted: when, and the frame's stamp.
    pub(super) last_frames: Vec<(MonotonicNs, MonotonicNs)>,
    pub(super) announcements: Vec<Announced>,
}

/// The network is told where the guest is.
#[derive(Clone, Debug)]
pub(super) struct Announced {
    pub(super) at: MonotonicNs,
    pub(super) interface: String,
    pub(super) kind: Announcement,
}

/// A vCPU enters KVM and ends a stop, as far as KVM can tell.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) at: MonotonicNs,
    /// The vCPUs before.
    pub(super) vcpus: Vcpus,
}

/// A run that was none.
#[derive(Clone, Copy, Debug)]
pub(super) struct VoidRun {
    pub(super) entered: MonotonicNs,
    pub(super) certain: bool,
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
    Status(String),
    Pass(u64),
    Stop,
    Resume,
    /// No event of QEMU: a round of copying begins, as its calls of KVM tell.
    DirtyLog,
}

/// A step in the life of a block job.
#[derive(Clone, Debug)]
pub(super) struct JobStep {
    pub(super) at: MonotonicNs,
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
    pub(super) flow: Flow,
    pub(super) interface: String,
    pub(super) seen_at: MonotonicNs,
    pub(super) from_start: bool,
    pub(super) owner: Option<Owner>,
    pub(super) purpose: Purpose,
    /// Wire bytes each time the flow was counted.
    pub(super) samples: Vec<(MonotonicNs, Directions<u64>)>,
    /// When it was first counted with payload.
    pub(super) payload_by: Option<MonotonicNs>,
    /// What had crossed before its owner was known.
    pub(super) untied: Untied,
    pub(super) last: Option<FlowCounters>,
}

/// Whose flow it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    /// Index into [`Facts::processes`].
    pub(super) process: usize,
    pub(super) at: MonotonicNs,
}

impl FlowFacts {
    pub(super) fn first(&self) -> MonotonicNs {
        self.last.as_ref().map_or(self.seen_at, |c| c.first_ns)
    }

    pub(super) fn last(&self) -> MonotonicNs {
        self.last.as_ref().map_or(self.seen_at, |c| c.last_ns)
    }

    pub(super) fn closed(&self) -> bool {
        self.last.as_ref().is_some_and(|c| c.closed)
    }

    pub(super) fn payload_bytes(&self) -> Directions<u64> {
        self.last.as_ref().map_or_else(Directions::default, |c| c.counters.map(|d| d.payload_bytes))
    }
}

impl Facts {
    /// Whether QEMU's events can be read on this host; if not, that none was seen says nothing.
    pub(super) fn hears_qemu(&self) -> bool {
        let mut probes = self.observation.iter().flat_map(|o| &o.probes);
        !probes.any(|p| p.name == QMP_PROBE && p.status == ProbeStatus::Missing)
    }

    pub(super) fn push(&mut self, event: &Event) {
        let at = event.at_ns;
        self.latest = self.latest.max(at);
        match &event.fact {
            Fact::LogStart(observation) => self.observation = Some(observation.clone()),
            Fact::Clock(sample) => self.clocks.push(at, *sample),
            Fact::QemuSeen(qemu) => self.qemu_seen(qemu),
            Fact::QemuGone { pid } => {
                let process = self.process(*pid);
                self.processes[process].gone = Some(at);
            }
            Fact::FlowSeen { flow, interface, from_start } => {
                let flow = self.flow_seen(*flow, at);
                flow.interface.clone_from(interface);
                flow.from_start = *from_start;
            }
            Fact::FlowOwner { flow, pid, crossed, .. } => {
                let process = self.process(*pid);
                let flow = self.flow(*flow, at);
                if let Some(crossed) = crossed.filter(|_| flow.owner.is_none()) {
                    flow.untied.push(at, crossed);
                }
                flow.owner = Some(Owner { process, at });
            }
            Fact::FlowPurpose { flow, purpose } => self.flow(*flow, at).purpose = *purpose,
            Fact::FlowCounters(counters) => {
                let flow = self.flow(counters.flow, at);
                flow.samples.push((at, counters.counters.map(|c| c.wire_bytes)));
                let payload = counters.counters.map(|c| c.payload_bytes);
                if payload.tx > 0 || payload.rx > 0 {
                    flow.payload_by.get_or_insert(at);
                }
                if flow.owner.is_none() {
                    let crossed = Crossed { counters: counters.counters, last_ns: counters.last_ns };
                    flow.untied.push(at, crossed);
                }
                flow.last = Some(counters.clone());
            }
            Fact::Fragments { local, remote, counters } => {
                self.fragments.entry((*local, *remote)).or_default().push((at, *counters));
            }
            Fact::Qmp(qmp) => self.qmp(at, qmp),
            Fact::QueryMigrate { pid, reply } => {
                let process = self.process(*pid);
                self.processes[process].replies.push((at, reply.clone()));
            }
            Fact::QueryMigrateParameters { pid, reply } => {
                let process = self.process(*pid);
                self.processes[process].parameters.push(reply.clone());
            }
            Fact::GuestRun { pid, vcpus } => {
                let process = self.process(*pid);
                insert(&mut self.processes[process].runs, Run { at, vcpus: *vcpus }, |run| run.at);
            }
            Fact::GuestRunVoid { pid, entered_ns, certain } => {
                let process = self.process(*pid);
                let void = VoidRun { entered: *entered_ns, certain: *certain };
                self.processes[process].void_runs.push(void);
            }
            Fact::DirtyLog { pid, counters } => {
                let process = self.process(*pid);
                let mark = Mark {
                    at,
                    kind: MarkKind::DirtyLog,
                    qemu_realtime_us: 0,
                    counters: Some(*counters),
                    vcpus: None,
                };
                insert(&mut self.processes[process].dirty_logs, mark, |mark| mark.at);
            }
            Fact::GuestFrame { pid, .. } => {
                let process = self.process(*pid);
                insert(&mut self.processes[process].first_frames, at, |at| *at);
            }
            Fact::GuestFrames { pid, last_ns, .. } => {
                let process = self.process(*pid);
                self.processes[process].last_frames.extend(last_ns.map(|last| (at, last)));
            }
            Fact::Announcement { pid, interface, kind } => {
                let process = self.process(*pid);
                let announced = Announced { at, interface: interface.clone(), kind: *kind };
                insert(&mut self.processes[process].announcements, announced, |announced| announced.at);
            }
            Fact::EchoStart(start) => self.echo_start = Some(start.clone()),
            Fact::EchoOwner { pid, .. } => self.echo_owners.push(*pid),
            Fact::EchoGap(gap) => self.echo_gaps.push(*gap),
            Fact::EchoEnd(end) => self.echo_end = Some(end.clone()),
            // A flow names the interface that it is counted at.
            Fact::InterfaceAdded(_) => {}
            Fact::InterfaceGone { interface } => self.not_measured(NotMeasured {
                what: format!("packets on {interface}"),
                why: "the interface vanished during the recording: what crossed before is counted".to_owned(),
            }),
            Fact::Lost(lost) => {
                self.lost = Lost {
                    ring_buffer: self.lost.ring_buffer.max(lost.ring_buffer),
                    flows: self.lost.flows.max(lost.flows),
                    probes: self.lost.probes.max(lost.probes),
                }
            }
            Fact::NotMeasured(entry) => self.not_measured(entry.clone()),
            Fact::LogEnd { reason } => self.end = Some(*reason),
        }
    }

    fn not_measured(&mut self, entry: NotMeasured) {
        if !self.not_measured.contains(&entry) {
            self.not_measured.push(entry);
        }
    }

    /// The process that has this pid, known or not.
    fn process(&mut self, pid: u32) -> usize {
        *self.process_of_pid.entry(pid).or_insert_with(|| {
            self.processes.push(Process {
                pid,
                qemu: None,
                gone: None,
                marks: Vec::new(),
                dirty_logs: Vec::new(),
                jobs: Vec::new(),
                replies: Vec::new(),
                parameters: Vec::new(),
                runs: Vec::new(),
                void_runs: Vec::new(),
                first_frames: Vec::new(),
                last_frames: Vec::new(),
                announcements: Vec::new(),
            });
            self.processes.len() - 1
        })
    }

    fn qemu_seen(&mut self, qemu: &Qemu) {
        if self.process_of_pid.get(&qemu.pid).is_some_and(|&p| self.processes[p].gone.is_some()) {
            self.process_of_pid.remove(&qemu.pid);
        }
        let process = self.process(qemu.pid);
        self.processes[process].qemu = Some(qemu.clone());
    }

    /// The connection between these ends, known or not: its facts come from several probes in no fixed order.
    fn flow(&mut self, flow: Flow, at: MonotonicNs) -> &mut FlowFacts {
        let index = *self.flow_of_ends.entry(flow).or_insert_with(|| {
            self.flows.push(FlowFacts {
                flow,
                interface: String::new(),
                seen_at: at,
                from_start: true,
                owner: None,
                purpose: Purpose::Unknown,
                samples: Vec::new(),
                payload_by: None,
                untied: Untied::default(),
                last: None,
            });
            self.flows.len() - 1
        });
        &mut self.flows[index]
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

    fn qmp(&mut self, at: MonotonicNs, qmp: &QmpEvent) {
        let text = |key: &str| qmp.data.get(key).and_then(Value::as_str).map(str::to_owned);
        let kind = match qmp.name.as_str() {
            "MIGRATION" => text("status").map(MarkKind::Status),
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
        let process = self.process(qmp.pid);
        let process = &mut self.processes[process];
        // QEMU writes an event once to each monitor that has a client: it is told again, but happened once.
        let is_echo = |m: &Mark| Some(&m.kind) == kind.as_ref() && m.qemu_realtime_us == qmp.qemu_realtime_us;
        if process.marks.iter().rev().take(ECHO_DISTANCE).any(is_echo) {
            return;
        }
        if let Some(kind) = kind {
            let mark = Mark {
                at,
                kind,
                qemu_realtime_us: qmp.qemu_realtime_us,
                counters: qmp.counters,
                vcpus: qmp.vcpus,
            };
            insert(&mut process.marks, mark, |mark| mark.at);
        }
        if let (Some(step), Some(id)) = (step, text("id").or_else(|| text("device"))) {
            let step = JobStep { at, id, step, qemu_realtime_us: qmp.qemu_realtime_us };
            insert(&mut process.jobs, step, |step| step.at);
        }
    }
}

/// Inserts in the order of the stamps: two threads of QEMU can be stamped in one order and reach the ring buffer in the
/// other.
fn insert<T>(list: &mut Vec<T>, new: T, at: impl Fn(&T) -> MonotonicNs) {
    let place = list.partition_point(|other| at(other) <= at(&new));
    list.insert(place, new);
}
