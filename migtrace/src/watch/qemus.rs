//! What is known of a QEMU while none of its migrations is under way: what a migration that begins would need.

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value;

use super::standing::{RECENT_NS, keep};
use crate::event::{Event, Fact, Qemu, QmpEvent};
use crate::vm::VmKey;

/// So many recent events are kept.
const MOST_RECENT: usize = 256;
/// So many steps of block jobs, and so many states of a migration. A guest cannot cause them, but whoever holds the monitor
/// can cause any number.
const MOST_STEPS: usize = 64;

/// A QEMU.
#[derive(Debug, Default)]
pub(super) struct KnownQemu {
    seen: Option<Event>,
    pub(super) gone: bool,
    /// Why something of it is not measured; that ends with it.
    not_measured: VecDeque<Event>,
    /// The steps of the block jobs that are not over. A disk may be copied for hours before the memory follows.
    jobs: VecDeque<Event>,
    /// The states that it has reported of a migration that is not over: a destination listens for days.
    states: VecDeque<Event>,
    /// What else has happened lately.
    recent: VecDeque<Event>,
    /// The last state that it reported was the end of a migration.
    ended: bool,
    /// Its guest has arrived here.
    pub(super) arrived: bool,
}

/// What a QEMU reports of a migration.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sign {
    /// Nothing.
    None,
    /// It begins, unless it only listens.
    Setup,
    /// It is under way.
    UnderWay,
    /// It has ended.
    End,
}

impl Sign {
    pub(super) fn of(fact: &Fact) -> Self {
        let Fact::Qmp(QmpEvent { name, data, .. }) = fact else { return Self::None };
        match (name.as_str(), text(data, "status")) {
            ("MIGRATION_PASS", _) => Self::UnderWay,
            ("MIGRATION", Some("setup")) => Self::Setup,
            ("MIGRATION", Some("completed" | "failed" | "cancelled")) => Self::End,
            ("MIGRATION", Some("none" | "") | None) => Self::None,
            ("MIGRATION", Some(_)) => Self::UnderWay,
            _ => Self::None,
        }
    }
}

impl KnownQemu {
    /// Its description; `None` when it was never seen.
    pub(super) fn qemu(&self) -> Option<&Qemu> {
        match &self.seen.as_ref()?.fact {
            Fact::QemuSeen(qemu) => Some(qemu),
            _ => None,
        }
    }

    /// The VM that it runs, if its name or UUID is known.
    pub(super) fn vm(&self) -> Option<VmKey<'_>> {
        let named = self.qemu().filter(|qemu| qemu.uuid.is_some() || qemu.name.is_some());
        named.map(VmKey::of)
    }

    /// Whether it was started to be migrated to, and nothing has arrived yet.
    pub(super) fn awaits_guest(&self) -> bool {
        !self.arrived && self.qemu().is_some_and(|qemu| qemu.incoming)
    }

    /// Whether what it reports shows that a migration has begun of which nothing was known. A second end repeats the first.
    pub(super) fn begins(&self, sign: Sign) -> bool {
        match sign {
            Sign::None => false,
            Sign::Setup => !self.awaits_guest(),
            Sign::UnderWay => true,
            Sign::End => !self.ended,
        }
    }

    /// Takes in one of its events.
    pub(super) fn take(&mut self, event: &Event) {
        match &event.fact {
            Fact::QemuSeen(_) => self.seen = Some(event.clone()),
            Fact::QemuGone { .. } => self.gone = true,
            Fact::NotMeasured(_) => keep(&mut self.not_measured, event, MOST_STEPS),
            Fact::Qmp(qmp) => self.take_qmp(event, qmp),
            _ => self.take_recent(event),
        }
    }

    fn take_qmp(&mut self, event: &Event, qmp: &QmpEvent) {
        match Sign::of(&event.fact) {
            Sign::Setup => {
                self.states.clear();
                self.take_state(event);
            }
            Sign::UnderWay => self.take_state(event),
            Sign::End => {
                self.states.clear();
                self.ended = true;
            }
            Sign::None => match job(qmp) {
                Some((id, is_over)) => {
                    if is_over {
                        self.jobs.retain(|step| !is_of_job(step, id));
                        self.take_recent(event);
                    } else {
                        keep(&mut self.jobs, event, MOST_STEPS);
                    }
                }
                None => self.take_recent(event),
            },
        }
    }

    fn take_state(&mut self, event: &Event) {
        self.ended = false;
        keep(&mut self.states, event, MOST_STEPS);
    }

    fn take_recent(&mut self, event: &Event) {
        keep(&mut self.recent, event, MOST_RECENT);
        let is_old = |other: &Event| event.at_ns.0.saturating_sub(other.at_ns.0) > RECENT_NS;
        while self.recent.front().is_some_and(is_old) {
            self.recent.pop_front();
        }
    }

    /// What a journal that begins now needs of it, in the order of the stamps. The event with which it begins is not in it.
    pub(super) fn preamble(&self, now_ns: u64) -> Vec<Event> {
        let is_recent = |event: &&Event| now_ns.saturating_sub(event.at_ns.0) <= RECENT_NS;
        let recent = self.recent.iter().filter(is_recent);
        let mut events: Vec<Event> = self.jobs.iter().chain(&self.states).chain(recent).cloned().collect();
        events.sort_by_key(|event| event.at_ns);
        self.seen.iter().chain(&self.not_measured).cloned().chain(events).collect()
    }

    /// One of its migrations is over: what happened until now has nothing to do with the next one.
    pub(super) fn forget_migration(&mut self) {
        self.states.clear();
        self.recent.clear();
        self.not_measured.retain(|event| !is_count(event));
    }
}

/// How many of its lines were not read is counted in what was lost, too, by the time at which it happened.
fn is_count(event: &Event) -> bool {
    matches!(&event.fact, Fact::NotMeasured(entry) if entry.what.starts_with("QMP events of"))
}

fn text<'a>(data: &'a Value, key: &str) -> Option<&'a str> {
    data.get(key).and_then(Value::as_str)
}

/// The block job that an event is about, and whether it is over.
fn job(qmp: &QmpEvent) -> Option<(&str, bool)> {
    let is_over = match (qmp.name.as_str(), text(&qmp.data, "status")) {
        ("JOB_STATUS_CHANGE", Some("aborting" | "concluded" | "null"))
        | ("BLOCK_JOB_COMPLETED" | "BLOCK_JOB_CANCELLED", _) => true,
        ("JOB_STATUS_CHANGE" | "BLOCK_JOB_READY", _) => false,
        _ => return None,
    };
    Some((text(&qmp.data, "id").or_else(|| text(&qmp.data, "device"))?, is_over))
}

fn is_of_job(event: &Event, id: &str) -> bool {
    matches!(&event.fact, Fact::Qmp(qmp) if job(qmp).is_some_and(|(of, _)| of == id))
}

/// The QEMUs, by their processes.
pub(super) type KnownQemus = BTreeMap<u32, KnownQemu>;
