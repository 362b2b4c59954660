//! Deals the events of a host out to the journals of its migrations.

use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;

use super::about::{About, about};
use super::flows::KnownFlow;
use super::journal::{Journal, JournalId};
use super::qemus::{KnownQemu, KnownQemus, Sign};
use super::standing::Standing;
use super::{Finished, News};
use crate::event::{Event, Fact};
use crate::record::{Outcome, Record, Vantage};
use crate::selection::Selection;
use crate::timeline::Live;
use crate::units::{Flow, MonotonicNs};

/// Deals the events of a host out to the journals of its migrations. It does no I/O and reads no clock of the system.
#[derive(Debug)]
pub(crate) struct Dealer {
    selection: Selection,
    standing: Standing,
    pub(super) qemus: KnownQemus,
    pub(super) flows: BTreeMap<Flow, KnownFlow>,
    pub(super) journals: BTreeMap<JournalId, Journal>,
    /// The journal into which the events of a process go.
    of_pid: BTreeMap<u32, JournalId>,
    last: JournalId,
    /// Whether migrations that begin from now on are taken on.
    accepts: bool,
    news: VecDeque<News>,
}

impl Dealer {
    /// For the migrations of the selected VMs.
    pub(crate) fn new(selection: Selection) -> Self {
        Self {
            selection,
            standing: Standing::default(),
            qemus: KnownQemus::new(),
            flows: BTreeMap::new(),
            journals: BTreeMap::new(),
            of_pid: BTreeMap::new(),
            last: JournalId(0),
            accepts: true,
            news: VecDeque::new(),
        }
    }

    pub(super) fn select(&mut self, selection: Selection) {
        self.selection = selection;
    }

    /// Takes on no more migrations.
    pub(super) const fn decline(&mut self) {
        self.accepts = false;
    }

    /// Takes in the next event.
    pub(crate) fn deal(&mut self, event: &Event, now: Instant) {
        match about(&event.fact) {
            About::Host => self.deal_to_all(event, now),
            About::Qemu(pid) => self.deal_of_qemu(event, pid, now),
            About::Flow(flow) => self.deal_of_flow(event, flow, now),
            About::Recording => self.standing.take(event),
        }
    }

    fn deal_to_all(&mut self, event: &Event, now: Instant) {
        self.standing.take(event);
        let concerned: Vec<_> = match &event.fact {
            Fact::Fragments { local, remote, .. } => {
                let flows = self.flows.iter().filter(|(flow, _)| {
                    flow.local.ip() == *local && flow.remote.ip() == *remote && flow.local.port() != 0
                });
                flows.flat_map(|(_, known)| known.journals()).collect()
            }
            _ => self.journals.keys().copied().collect(),
        };
        for id in concerned {
            self.give(id, event, now, false);
        }
    }

    fn deal_of_qemu(&mut self, event: &Event, pid: u32, now: Instant) {
        if matches!(event.fact, Fact::QemuSeen(_)) && self.qemus.get(&pid).is_some_and(|known| known.gone) {
            // Another process has the number.
            self.qemus.remove(&pid);
            self.of_pid.remove(&pid);
            let flows = self.flows.values_mut().filter(|flow| flow.pid() == Some(pid));
            flows.for_each(KnownFlow::disown);
        }
        let is_known = self.qemus.contains_key(&pid);
        if !is_known && matches!(event.fact, Fact::NotMeasured(_) | Fact::QemuGone { .. }) {
            return;
        }
        let sign = Sign::of(&event.fact);
        if sign == Sign::Setup {
            // A guest may leave again before its arrival has settled.
            self.end_earlier(pid, event.at_ns);
        }
        let begins = self.qemus.entry(pid).or_default().begins(sign);
        let journal = self.of_pid.get(&pid).copied();
        match journal {
            None if begins && self.selects(pid) => {
                if let Some(id) = self.open(pid, event.at_ns, now) {
                    self.give(id, event, now, true);
                }
            }
            None => {}
            Some(id) => self.give(id, event, now, true),
        }
        let Some(known) = self.qemus.get_mut(&pid) else { return };
        known.take(event);
        match event.fact {
            Fact::QemuSeen(_) if journal.is_none() => self.join_other_end(pid, event.at_ns, now),
            Fact::QemuGone { .. } if journal.is_none() => drop(self.qemus.remove(&pid)),
            _ => {}
        }
    }

    fn deal_of_flow(&mut self, event: &Event, flow: Flow, now: Instant) {
        if let Fact::FlowSeen { .. } = event.fact
            && self.flows.get(&flow).is_some_and(KnownFlow::is_closed)
        {
            self.flows.remove(&flow);
        }
        let known = self.flows.entry(flow).or_insert_with(|| KnownFlow::new(now, event.at_ns));
        let before = known.pid();
        known.take(event);
        if let (Fact::FlowOwner { pid, .. }, Some(before)) = (&event.fact, before)
            && *pid != before
        {
            // It has left the process that had it, and what it carries later does not concern that one.
            known.begin_anew();
        }
        let ids = known.journals();
        let pid = known.pid();
        for id in &ids {
            self.give(*id, event, now, true);
        }
        if let Some(pid) = pid {
            let is_new = matches!(event.fact, Fact::FlowOwner { .. });
            self.take_owned(flow, (pid, is_new), event.at_ns, now);
        }
        if matches!(event.fact, Fact::FlowGone { .. }) {
            self.flow_gone(flow);
        }
    }

    /// A flow has an owner: it enters that process' journal, and opens one if it may be a migration's.
    fn take_owned(&mut self, flow: Flow, (pid, is_new): (u32, bool), at_ns: MonotonicNs, now: Instant) {
        let Some(known) = self.flows.get(&flow) else { return };
        let may_be_next = known.may_be_of_next() && (is_new || !known.is_closed());
        let first = known.first();
        if self.of_pid.get(&pid).is_some_and(|id| known.journals.contains(id)) {
            return;
        }
        if may_be_next {
            self.end_earlier(pid, first);
        }
        match self.of_pid.get(&pid) {
            Some(id) => self.enter(flow, *id, now),
            // The journal takes in all flows of the process, this one among them.
            None if may_be_next && self.selects(pid) => {
                let _ = self.open(pid, at_ns, now);
            }
            None => {}
        }
    }

    /// Puts a flow into a journal.
    pub(super) fn enter(&mut self, flow: Flow, id: JournalId, now: Instant) {
        let Some(known) = self.flows.get_mut(&flow).filter(|known| !known.journals.contains(&id)) else {
            return;
        };
        let is_owned = known.pid().is_some();
        let events = known.enter(id);
        if let Some(journal) = self.journals.get_mut(&id) {
            journal.owned_flows += usize::from(is_owned);
        }
        for event in events.iter().chain(&self.standing.fragments(&flow)) {
            self.give(id, event, now, true);
        }
    }

    fn flow_gone(&mut self, flow: Flow) {
        self.standing.flow_gone(&flow);
        let Some(known) = self.flows.get(&flow) else { return };
        // One without an owner may turn out to be of a migration that is under way.
        if known.pid().is_some() || !known.journals.is_empty() || self.journals.is_empty() {
            self.flows.remove(&flow);
        }
    }

    /// If the migration of a process has ended before something of the next one happened, its journal ends.
    fn end_earlier(&mut self, pid: u32, next_ns: MonotonicNs) {
        let Some(id) = self.of_pid.get(&pid).copied() else { return };
        let Some(journal) = self.journals.get_mut(&id) else { return };
        if journal.ended(Some(pid)).is_some_and(|ended| ended < next_ns) {
            journal.is_ending = true;
            for pid in journal.arrivals() {
                self.qemus.entry(pid).or_default().arrived = true;
            }
            self.forget_processes(id);
        }
    }

    /// Events of its processes go into a journal no more.
    fn forget_processes(&mut self, id: JournalId) {
        let Self { of_pid, qemus, .. } = self;
        of_pid.retain(|pid, of| {
            if *of != id {
                return true;
            }
            match qemus.get_mut(pid) {
                Some(known) if known.gone => drop(qemus.remove(pid)),
                Some(known) => known.forget_migration(),
                None => {}
            }
            false
        });
    }

    pub(super) fn selects_everything(&self) -> bool {
        self.selection == Selection::default()
    }

    pub(super) fn selects(&self, pid: u32) -> bool {
        match self.qemus.get(&pid).and_then(KnownQemu::qemu) {
            Some(qemu) => self.selection.matches(qemu),
            None => self.selection.vm.is_none() && self.selection.pid.is_none_or(|wanted| wanted == pid),
        }
    }

    /// Opens a journal for a process; or lets it join that of the other end of its migration, if that is here too. `None`
    /// when no more are taken on.
    pub(super) fn open(&mut self, pid: u32, at_ns: MonotonicNs, now: Instant) -> Option<JournalId> {
        let id = self.of_other_end(pid).or_else(|| self.open_empty(at_ns, now))?;
        self.join(id, pid, at_ns, now);
        let ends: Vec<u32> = self.other_ends(pid).collect();
        for other in ends {
            self.join(id, other, at_ns, now);
        }
        Some(id)
    }

    /// Opens a journal that has only what holds for the host.
    pub(super) fn open_empty(&mut self, at_ns: MonotonicNs, now: Instant) -> Option<JournalId> {
        if !self.accepts {
            return None;
        }
        self.last.0 += 1;
        let (preamble, lost_before) = self.standing.preamble(at_ns);
        self.journals.insert(self.last, Journal::new(self.last, now, lost_before));
        let journal = self.journals.get_mut(&self.last)?;
        for event in preamble {
            // These are rebased already.
            journal.take_preamble(event);
        }
        Some(self.last)
    }

    /// Puts all that is known of a process into a journal.
    fn join(&mut self, id: JournalId, pid: u32, at_ns: MonotonicNs, now: Instant) {
        if self.of_pid.contains_key(&pid) {
            return;
        }
        self.of_pid.insert(pid, id);
        if let Some(journal) = self.journals.get_mut(&id) {
            journal.pids.push(pid);
        }
        let preamble = self.qemus.get(&pid).map(|known| known.preamble(at_ns.0)).unwrap_or_default();
        for event in &preamble {
            self.give(id, event, now, true);
        }
        let flows = self.flows.iter().filter(|(_, known)| known.pid() == Some(pid));
        for flow in flows.map(|(flow, _)| *flow).collect::<Vec<_>>() {
            self.enter(flow, id, now);
        }
    }

    /// The other QEMUs of the same VM, one of which awaits the guest of the other, and which are in no journal.
    fn other_ends(&self, pid: u32) -> impl Iterator<Item = u32> {
        let own = self.qemus.get(&pid).and_then(|known| Some((known.vm()?, known.awaits_guest())));
        let is_other_end = move |other: &KnownQemu| {
            own.is_some_and(|(vm, awaits)| other.vm() == Some(vm) && other.awaits_guest() != awaits)
        };
        let others = self.qemus.iter().filter(move |(of, known)| **of != pid && is_other_end(known));
        others.map(|(pid, _)| *pid).filter(|pid| !self.of_pid.contains_key(pid))
    }

    /// The journal of the other end of this process' migration, which has not ended yet.
    fn of_other_end(&self, pid: u32) -> Option<JournalId> {
        let own = self.qemus.get(&pid)?;
        let vm = own.vm()?;
        let is_other_end = |of: u32| {
            let other = self.qemus.get(&of).filter(|_| of != pid);
            other.is_some_and(|other| other.vm() == Some(vm) && other.awaits_guest() != own.awaits_guest())
        };
        let found = self.of_pid.iter().find(|(of, id)| {
            let journal = self.journals.get(*id);
            is_other_end(**of) && journal.is_some_and(|journal| !journal.has_ended())
        });
        found.map(|(_, id)| *id)
    }

    /// A QEMU has come: the other end of a migration that is under way, perhaps.
    fn join_other_end(&mut self, pid: u32, at_ns: MonotonicNs, now: Instant) {
        if let Some(id) = self.of_other_end(pid) {
            self.join(id, pid, at_ns, now);
        }
    }

    /// Gives an event to a journal. `is_own`: it is not about the host only.
    fn give(&mut self, id: JournalId, event: &Event, now: Instant, is_own: bool) {
        let Some(journal) = self.journals.get_mut(&id) else { return };
        let (written, is_time) =
            if is_own { journal.take(event, now) } else { journal.take_of_host(event, now) };
        self.news.extend(written.map(|event| News::Event { journal: id, event }));
        if is_time {
            self.look_at(id, now);
        }
    }

    pub(super) fn look_at(&mut self, id: JournalId, now: Instant) {
        let sharing = u32::try_from(self.journals.len()).unwrap_or(u32::MAX);
        let Some(journal) = self.journals.get_mut(&id) else { return };
        if let Some(events) = journal.look(now, sharing) {
            self.news.push_back(News::Begun { journal: id });
            self.news.extend(events.into_iter().map(|event| News::Event { journal: id, event }));
        }
    }

    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    pub(super) fn take_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// The migrations as they are now.
    pub(crate) fn live(&self, now: MonotonicNs) -> Vec<(JournalId, Live)> {
        self.journals.iter().filter_map(|(id, journal)| Some((*id, journal.live(now)?))).collect()
    }

    /// Ends a journal with these events, and tells of it.
    pub(crate) fn close(&mut self, id: JournalId, last: &[Event], now: Instant) {
        for event in last {
            self.give(id, event, now, true);
        }
        let Some(mut journal) = self.journals.remove(&id) else { return };
        let records = journal.records();
        self.forget(&journal, &records);
        if records.is_empty() {
            if journal.has_begun {
                self.news.push_back(News::Discarded { journal: id });
            }
            return;
        }
        if !journal.has_begun {
            self.news.push_back(News::Begun { journal: id });
            let events = journal.begin();
            self.news.extend(events.into_iter().map(|event| News::Event { journal: id, event }));
        }
        self.news.push_back(News::Finished(Finished { journal: id, records }));
    }

    /// Forgets what a journal knew.
    fn forget(&mut self, journal: &Journal, records: &[Record]) {
        let arrived = records.iter().any(|record| {
            let role = record.observers.first().map(|observer| observer.role);
            role == Some(Vantage::Destination)
                && matches!(record.migration.outcome, Outcome::Completed | Outcome::Unknown)
        });
        for pid in &journal.pids {
            if let Some(known) = self.qemus.get_mut(pid).filter(|known| arrived && known.awaits_guest()) {
                known.arrived = true;
            }
        }
        if records.is_empty() {
            self.of_pid.retain(|_, of| *of != journal.id);
            let of_pid = &self.of_pid;
            self.qemus.retain(|pid, known| !known.gone || of_pid.contains_key(pid));
        } else {
            self.forget_processes(journal.id);
        }
        self.flows.values_mut().for_each(|flow| flow.leave(journal.id, !records.is_empty()));
        let is_last = self.journals.is_empty();
        // What was never seen to begin may have come late, and nothing tells when it ends.
        self.flows
            .retain(|_, flow| !flow.journals.is_empty() || (flow.is_seen() && !(is_last && flow.is_gone)));
        let of_pid = &self.of_pid;
        self.qemus.retain(|pid, known| known.qemu().is_some() || of_pid.contains_key(pid));
    }
}
