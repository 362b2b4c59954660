//! What the facts say about now, kept until one of them changes more than a count.

use super::assemble;
use super::direction::dominant_role;
use super::facts::{Facts, Process};
use super::migration::{Ending, MigrationFacts};
use super::phases;
use super::transition::TransitionKind;
use crate::record::{Mode, Outcome, PhaseName, Role};
use crate::units::{Directions, MonotonicNs};

/// A migration as it is now, for display.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Live {
    /// The migration's id, as in its record; none while it is not known.
    pub id: Option<String>,
    /// The VM's name.
    pub vm: Option<String>,
    /// QEMU's process id; none when its QEMU is not in this network namespace.
    pub pid: Option<u32>,
    /// This host's part.
    pub role: Role,
    /// What QEMU is doing.
    pub phase: PhaseName,
    /// The round of dirty-page copying.
    pub pass: Option<u64>,
    /// Time since the migration's start.
    pub elapsed_ns: u64,
    /// Wire bytes so far, as last counted; `tx` is from the source to the destination. None while no flow was
    /// counted.
    pub wire_bytes: Option<Directions<u64>>,
}

/// The end of the awaited migration.
#[non_exhaustive]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ended {
    /// QEMU's process id; none when its QEMU is not in this network namespace.
    pub pid: Option<u32>,
    /// When QEMU reported it, died, or closed its last flow.
    pub at: MonotonicNs,
    /// How.
    pub outcome: Outcome,
    /// This host's part.
    pub role: Role,
    /// How memory moved.
    pub mode: Mode,
    /// True once all of its flows have closed: nothing more will be counted.
    pub flows_closed: bool,
    /// True once everything was seen: how it ended and, where the guest has arrived, that it runs, that it was
    /// announced, and that its tap carries its frames.
    pub all_seen: bool,
    /// True while a guest that has arrived here does not run yet, though its QEMU lives. Its manager resumes it,
    /// possibly seconds later.
    pub awaits_guest: bool,
}

/// The migration to show, and the end that is awaited.
#[derive(Clone, Debug)]
pub(super) struct Look {
    shown: Option<Shown>,
    /// Those that have ended, in the order of their starts.
    pub(super) ended: Vec<Ended>,
    /// A migration is under way.
    pub(super) under_way: bool,
    /// The processes of those that are under way.
    pub(super) busy: Vec<Option<u32>>,
    /// The flows of each migration whose flows go different ways, and which way they go together. That can change
    /// although no single flow changes its direction.
    mixed: Vec<(Vec<usize>, Option<Role>)>,
}

/// A migration without what changes with every packet.
#[derive(Clone, Debug)]
struct Shown {
    id: Option<String>,
    vm: Option<String>,
    pid: Option<u32>,
    role: Role,
    phase: PhaseName,
    pass: Option<u64>,
    start: MonotonicNs,
    /// None while it runs.
    end: Option<MonotonicNs>,
    /// Its flows, as indices into [`Facts::flows`].
    flows: Vec<usize>,
    /// What was read with its events; it may be newer than the flows' counters.
    read_with_event: Option<Directions<u64>>,
}

impl Look {
    pub(super) fn at(facts: &Facts, selected: &[&MigrationFacts<'_>]) -> Self {
        let runs = |m: &&&MigrationFacts<'_>| matches!(m.end, Ending::Open(_)) && !m.only_listens();
        let running = selected.iter().rfind(runs);
        let busy = selected.iter().filter(runs).map(|m| m.process.map(|process| process.pid)).collect();
        let shown = running.or_else(|| selected.last()).and_then(|migration| Shown::of(facts, migration));
        let ended = |m: &&&MigrationFacts<'_>| {
            matches!(m.end, Ending::Declared(..) | Ending::Replied(..) | Ending::Died(_) | Ending::Closed(_))
        };
        let ended = selected.iter().filter(ended).map(|migration| self::ended(facts, migration)).collect();
        // The first payload of a flow causes a new look anyway.
        let carrying = |m: &&MigrationFacts<'_>| {
            m.flows.iter().filter(|flow| flow.payload_by.is_some()).map(|flow| flow.index).collect()
        };
        let mixed = selected.iter().map(carrying).filter(|flows: &Vec<usize>| is_mixed(facts, flows));
        let mixed = mixed.map(|flows| {
            let role = heading_of(facts, &flows);
            (flows, role)
        });
        Self { shown, ended, under_way: running.is_some(), busy, mixed: mixed.collect() }
    }

    /// Whether a new look would be the same, although more was counted since.
    pub(super) fn holds(&self, facts: &Facts) -> bool {
        self.mixed.iter().all(|(flows, role)| heading_of(facts, flows) == *role)
    }

    pub(super) fn live(&self, facts: &Facts, now: MonotonicNs) -> Option<Live> {
        let shown = self.shown.as_ref()?;
        Some(Live {
            id: shown.id.clone(),
            vm: shown.vm.clone(),
            pid: shown.pid,
            role: shown.role,
            phase: shown.phase.clone(),
            pass: shown.pass,
            elapsed_ns: shown.end.unwrap_or(now).0.saturating_sub(shown.start.0),
            wire_bytes: shown.wire_bytes(facts),
        })
    }
}

impl Shown {
    fn of(facts: &Facts, migration: &MigrationFacts<'_>) -> Option<Self> {
        let (phases, _) = phases::phases(migration);
        let phase = phases.last()?;
        Some(Self {
            id: assemble::id(facts, migration),
            vm: migration.qemu().and_then(|q| q.name.clone()),
            pid: migration.process.map(|p| p.pid),
            role: migration.role,
            phase: phase.name.clone(),
            pass: phase.pass,
            start: migration.start,
            end: (!matches!(migration.end, Ending::Open(_))).then_some(migration.end.at()),
            flows: migration.flows.iter().map(|flow| flow.index).collect(),
            read_with_event: phases::total(migration).map(|total| total.map(|c| c.wire_bytes)),
        })
    }

    fn wire_bytes(&self, facts: &Facts) -> Option<Directions<u64>> {
        let counted = self.flows.iter().filter_map(|&flow| facts.flows[flow].last.as_ref());
        let sum = counted.map(|c| c.counters.map(|c| c.wire_bytes)).reduce(|sum, flow| Directions {
            tx: sum.tx.saturating_add(flow.tx),
            rx: sum.rx.saturating_add(flow.rx),
        })?;
        let read = self.read_with_event.unwrap_or_default();
        let latest = Directions { tx: sum.tx.max(read.tx), rx: sum.rx.max(read.rx) };
        Some(match self.role {
            Role::Source => latest,
            Role::Destination => latest.swapped(),
        })
    }
}

/// Which way the payload of some flows goes together.
fn heading_of(facts: &Facts, flows: &[usize]) -> Option<Role> {
    dominant_role(flows.iter().map(|&flow| facts.flows[flow].payload_bytes()))
}

fn is_mixed(facts: &Facts, flows: &[usize]) -> bool {
    let mut headings = flows.iter().map(|flow| heading_of(facts, std::slice::from_ref(flow)));
    let first = headings.next().flatten();
    flows.len() > 1 && (first.is_none() || headings.any(|heading| heading != first))
}

fn ended(facts: &Facts, migration: &MigrationFacts<'_>) -> Ended {
    let outcome = migration.outcome(facts.end);
    let arrived = migration.role == Role::Destination && outcome == Outcome::Completed;
    let runs = migration.transitions.iter().any(|m| m.kind == TransitionKind::Resume);
    let is_complete =
        runs && migration.process.is_none_or(|process| has_shown_itself(process, migration.start));
    let has_died = migration.process.is_some_and(|process| process.gone.is_some());
    Ended {
        pid: migration.process.map(|p| p.pid),
        at: migration.end.at(),
        outcome,
        role: migration.role,
        mode: migration.mode(),
        all_seen: !matches!(migration.end, Ending::Closed(_)) && (is_complete || !arrived || has_died),
        awaits_guest: migration.may_still_run() && facts.hears_qemu(),
        flows_closed: migration.flows.iter().all(|f| f.closed()),
    }
}

/// Whether a guest that has arrived was announced to the network, and has sent a frame, at each of its taps.
fn has_shown_itself(process: &Process, start: MonotonicNs) -> bool {
    let taps = process.qemu.as_ref().map_or(&[][..], |qemu| &qemu.taps);
    taps.iter().all(|tap| {
        let announced = process.announcements.since(start).any(|(_, seen)| seen.interface == *tap);
        announced && process.first_frames.since(start).any(|(_, interface)| interface == tap)
    })
}
