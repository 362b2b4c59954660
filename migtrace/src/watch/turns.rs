//! What becomes due as time passes: looks, endings, and connections whose owner is not found.

use std::time::Duration;

use tokio::time::Instant;

use super::dealer::Dealer;
use super::flows::KnownFlow;
use super::journal::JournalId;
use crate::units::{Flow, MonotonicNs};
use crate::vocabulary::Purpose;

/// For so long the owner of a connection is looked for. After that it is another process', which may carry the migration of
/// a QEMU: libvirt does in a tunnelled migration.
const OWNER_PATIENCE: Duration = Duration::from_secs(3);
/// A connection may be older than the first sign of its migration by so much.
const AHEAD: Duration = Duration::from_secs(10);

impl Dealer {
    /// Does what is due.
    pub(crate) fn turn(&mut self, now: Instant, now_ns: MonotonicNs) {
        self.settle_ownerless(now, now_ns, None);
        let due = self.journals.iter().filter(|(_, journal)| journal.is_look_due(now));
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.look_at(id, now);
        }
        for id in self.in_vain(now) {
            match self.journals.get_mut(&id) {
                Some(journal) if !journal.records().is_empty() => journal.is_ending = true,
                _ => self.close(id, &[], now),
            }
        }
    }

    /// A journal whose migration is over, and of which nothing more is awaited.
    pub(crate) fn settled(&mut self, now: Instant, now_ns: MonotonicNs) -> Option<JournalId> {
        self.open_journals().into_iter().find(|id| {
            // The connections that it turns out to have may be open.
            self.has_settled(*id, now) && {
                self.conclude(*id, now, now_ns);
                self.has_settled(*id, now)
            }
        })
    }

    fn has_settled(&mut self, id: JournalId, now: Instant) -> bool {
        self.journals.get_mut(&id).is_some_and(|journal| journal.has_settled(now))
    }

    /// When something is due if nothing happens before.
    pub(crate) fn next_turn(&self, now: Instant) -> Option<Instant> {
        let ownerless = self.flows.values().filter(|flow| flow.pid().is_none() && flow.journals.is_empty());
        let ownerless = ownerless.map(|flow| flow.since + OWNER_PATIENCE).filter(|at| *at > now).min();
        let journals = self.journals.values().filter_map(|journal| journal.next_look(now)).min();
        [ownerless, journals].into_iter().flatten().min()
    }

    /// Whether no migration is under way, and the last one is finished.
    pub(crate) fn is_idle(&self) -> bool {
        self.journals.values().all(|journal| !journal.has_begun)
    }

    /// Whether any journal is open.
    pub(crate) fn has_journals(&self) -> bool {
        !self.journals.is_empty()
    }

    /// The journals that are open.
    pub(crate) fn open_journals(&self) -> Vec<JournalId> {
        self.journals.keys().copied().collect()
    }

    /// A journal is about to be closed: connections without an owner are of its migration, if they can be of no other.
    pub(crate) fn conclude(&mut self, id: JournalId, now: Instant, now_ns: MonotonicNs) {
        self.settle_ownerless(now, now_ns, Some(id));
        self.look_at(id, now);
    }

    /// All journals are about to be closed.
    pub(crate) fn conclude_all(&mut self, now: Instant, now_ns: MonotonicNs) {
        if self.journals.is_empty() {
            // It may have been too early to open one for a connection without an owner.
            self.flows
                .values_mut()
                .for_each(|flow| flow.since = now.checked_sub(OWNER_PATIENCE).unwrap_or(now));
            self.settle_ownerless(now, now_ns, None);
        }
        for id in self.open_journals() {
            self.conclude(id, now, now_ns);
        }
    }

    fn in_vain(&self, now: Instant) -> Vec<JournalId> {
        let open = self.flows.values().filter(|flow| !flow.is_closed() && flow.has_payload());
        let busy: Vec<_> = open.flat_map(KnownFlow::journals).collect();
        let in_vain = self
            .journals
            .iter()
            .filter(|(id, journal)| !journal.is_ending && journal.is_in_vain(now) && !busy.contains(id));
        in_vain.map(|(id, _)| *id).collect()
    }

    /// Finds the migrations of connections whose owner was looked for in vain. `closing`: for this journal it is the last time.
    fn settle_ownerless(&mut self, now: Instant, now_ns: MonotonicNs, closing: Option<JournalId>) {
        let is_ripe =
            |flow: &KnownFlow| flow.has_payload() && (flow.is_closed() || now >= flow.since + OWNER_PATIENCE);
        let is_due = |flow: &KnownFlow| {
            flow.pid().is_none()
                && flow.journals.is_empty()
                && flow.may_be_of_next()
                && (closing.is_some() || is_ripe(flow))
        };
        let due: Vec<Flow> =
            self.flows.iter().filter(|(_, flow)| is_due(flow)).map(|(flow, _)| *flow).collect();
        for flow in due {
            let candidate = self.only_candidate(flow, now, now_ns);
            if let Some(id) = candidate.filter(|id| closing.is_none_or(|closing| *id == closing)) {
                self.enter(flow, id, now);
            }
        }
    }

    /// The journal of the only migration that a connection without an owner can be of.
    fn only_candidate(&mut self, flow: Flow, now: Instant, now_ns: MonotonicNs) -> Option<JournalId> {
        let (since, purpose) = self.flows.get(&flow).map(|known| (known.since, known.purpose()))?;
        let in_time = self.journals.values().filter(|journal| !journal.is_ending);
        let mut candidates = in_time.filter(|journal| journal.owned_flows == 0);
        match (candidates.next(), candidates.next()) {
            (Some(only), None) => (since + AHEAD >= only.opened).then_some(only.id),
            (None, None) if purpose == Purpose::Ram && self.journals.is_empty() => {
                self.open_for_ownerless(now, now_ns)
            }
            _ => None,
        }
    }

    /// Opens a journal for a memory stream that no QEMU owns: for the only one that there is, or for one that is not in this
    /// network namespace.
    fn open_for_ownerless(&mut self, now: Instant, now_ns: MonotonicNs) -> Option<JournalId> {
        let mut pids = self.qemus.keys().copied();
        match (pids.next(), pids.next()) {
            (None, _) if self.selects_everything() => self.open_empty(now_ns, now),
            (Some(only), None) if self.selects(only) => self.open(only, now_ns, now),
            _ => None,
        }
    }
}
