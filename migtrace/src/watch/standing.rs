//! What holds for the whole host: each journal begins with it. It stays small, however long the watch.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use crate::event::{Event, Fact, TcProgram};
use crate::timeline::less;
use crate::units::{Flow, MonotonicNs};
use crate::vocabulary::Lost;

/// How far back things may matter to a migration whose first sign comes now.
pub(super) const RECENT_NS: u64 = 10_000_000_000;
/// So many of a kind are kept. There are hardly ever more than a few.
const MOST: usize = 64;
/// As many as a record lists.
const MOST_NOT_MEASURED: usize = 100;

/// What holds for the whole host.
#[derive(Debug, Default)]
pub(super) struct Standing {
    start: Option<Event>,
    /// The latest of them holds until the wall clock is set.
    clocks: VecDeque<Event>,
    fastest_slew: Option<Event>,
    interfaces: BTreeMap<String, Event>,
    removals: BTreeMap<(MonotonicNs, String, TcProgram), Event>,
    not_measured: VecDeque<Event>,
    not_understood: BTreeMap<String, Event>,
    losses: Losses,
    fragments: BTreeMap<(IpAddr, IpAddr), VecDeque<Event>>,
}

/// What was lost in all, each time that it was counted.
#[derive(Debug, Default)]
struct Losses(VecDeque<Event>);

impl Standing {
    /// Takes in a fact about the host.
    pub(super) fn take(&mut self, event: &Event) {
        match &event.fact {
            Fact::LogStart(_) => self.start = Some(event.clone()),
            Fact::Clock(_) => keep(&mut self.clocks, event, MOST),
            Fact::ClockSlew { .. } => self.fastest_slew = Some(event.clone()),
            Fact::InterfaceAdded(interface) => {
                self.interfaces.insert(interface.name.clone(), event.clone());
            }
            Fact::InterfaceGone { interface } => self.forget_interface(interface),
            Fact::TcRemoved(removed) => {
                let key = (removed.last_seen_ns, removed.interface.clone(), removed.program);
                self.removals.insert(key, event.clone());
                self.forget_removals(event.at_ns);
            }
            Fact::NotMeasured(_) => keep(&mut self.not_measured, event, MOST_NOT_MEASURED),
            Fact::NotUnderstood { kind } if self.not_understood.len() < MOST => {
                self.not_understood.insert(kind.clone(), event.clone());
            }
            Fact::Lost { .. } => self.losses.take(event),
            Fact::Fragments { local, remote, .. } => self.take_fragments((*local, *remote), event),
            _ => {}
        }
    }

    /// Nothing is counted at the interface any more.
    fn forget_interface(&mut self, name: &str) {
        self.interfaces.remove(name);
        if let Some(Event { fact: Fact::LogStart(observation), .. }) = &mut self.start {
            observation.interfaces.retain(|interface| interface.name != name);
        }
    }

    /// Forgets programs that were attached again long ago.
    fn forget_removals(&mut self, now: MonotonicNs) {
        self.removals.retain(|_, event| match &event.fact {
            Fact::TcRemoved(removed) => {
                removed.attached_again_ns.is_none_or(|again| now.0.saturating_sub(again.0) < RECENT_NS)
            }
            _ => false,
        });
        while self.removals.len() > MOST {
            self.removals.pop_first();
        }
    }

    fn take_fragments(&mut self, ends: (IpAddr, IpAddr), event: &Event) {
        let counted = self.fragments.entry(ends).or_default();
        keep(counted, event, MOST);
        // The last count before that time is needed, too.
        while counted.get(1).is_some_and(|second| event.at_ns.0.saturating_sub(second.at_ns.0) > RECENT_NS) {
            counted.pop_front();
        }
    }

    /// A flow is over. That of port 0 stands for the fragments between two hosts.
    pub(super) fn flow_gone(&mut self, flow: &Flow) {
        if flow.local.port() == 0 {
            self.fragments.remove(&(flow.local.ip(), flow.remote.ip()));
        }
    }

    /// The counts of the fragments between the ends of a flow.
    pub(super) fn fragments(&self, flow: &Flow) -> Vec<Event> {
        let counted = self.fragments.get(&(flow.local.ip(), flow.remote.ip()));
        counted.into_iter().flatten().cloned().collect()
    }

    /// What a journal begins with, and what was lost before it.
    pub(super) fn preamble(&self, now: MonotonicNs) -> (Vec<Event>, Lost) {
        let begun: Vec<Event> = [&self.start, &self.fastest_slew].into_iter().flatten().cloned().collect();
        let rest = self
            .clocks
            .iter()
            .chain(self.interfaces.values())
            .chain(self.removals.values())
            .chain(&self.not_measured)
            .chain(self.not_understood.values())
            .cloned();
        let (lost_before, recent) = self.losses.since(now);
        (begun.into_iter().chain(rest).chain(recent).collect(), lost_before)
    }
}

impl Losses {
    fn take(&mut self, event: &Event) {
        self.0.push_back(event.clone());
        if self.0.len() > MOST {
            self.join_oldest();
        }
    }

    /// Joins the two oldest: what was lost may then have been lost at any time of both.
    fn join_oldest(&mut self) {
        let Some(Event { fact: Fact::Lost { since_ns, .. }, .. }) = self.0.pop_front() else { return };
        if let Some(Event { fact: Fact::Lost { since_ns: of_next, .. }, .. }) = self.0.front_mut() {
            *of_next = since_ns;
        }
    }

    /// What was lost in all until some time before `now`, and each loss after that, less that.
    fn since(&self, now: MonotonicNs) -> (Lost, Vec<Event>) {
        let mut before = Lost::default();
        let mut recent = Vec::new();
        for event in &self.0 {
            match &event.fact {
                Fact::Lost { so_far, .. } if now.0.saturating_sub(event.at_ns.0) > RECENT_NS => {
                    before = *so_far;
                }
                _ => recent.push(rebased(event, &before)),
            }
        }
        (before, recent)
    }
}

/// An event as it would be if nothing had been lost before.
pub(super) fn rebased(event: &Event, before: &Lost) -> Event {
    match &event.fact {
        Fact::Lost { so_far, since_ns } => {
            let so_far = less(*so_far, *before);
            Event { at_ns: event.at_ns, fact: Fact::Lost { so_far, since_ns: *since_ns } }
        }
        _ => event.clone(),
    }
}

/// Keeps an event, and at most `most` of them.
pub(super) fn keep(events: &mut VecDeque<Event>, event: &Event, most: usize) {
    events.push_back(event.clone());
    while events.len() > most {
        events.pop_front();
    }
}
