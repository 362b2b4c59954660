//! What becomes of the flows in the table: each is told of when it is found, counted, and told of again when it is over.

use std::time::Duration;

use tokio::time::Instant;

use super::retirement::Sight;
use super::watched::{self, Found, Known, Owner};
use super::{Tracer, TracerError, host, owners};
use crate::event::{Fact, OwnerMethod};
use crate::host::clock;
use crate::kernel::{FirstPacket, FlowState, Opened, is_other};
use crate::units::{Directions, Flow, MonotonicNs};
use crate::vocabulary::Purpose;

/// How often the counters of flows older than [`YOUNG`] become events: an hour's log stays small.
const SAMPLE_OLD_EVERY: Duration = Duration::from_secs(1);
/// See [`SAMPLE_OLD_EVERY`].
const YOUNG: Duration = Duration::from_secs(60);

impl Tracer {
    /// A flow is in the table, and has had its first packet.
    pub(super) fn flow_seen(
        &mut self,
        opened: Opened,
        first: FirstPacket,
        from_start: bool,
    ) -> Result<(), TracerError> {
        let Some(known) = self.known(first.at_ns, opened) else { return Ok(()) };
        if std::mem::replace(&mut known.told, true) {
            return Ok(());
        }
        let owner = known.owner;
        self.scans.follow_change(Instant::now());
        let (flow, interface) = (opened.flow, self.interface_name(first.ifindex));
        self.tell(first.at_ns, Fact::FlowSeen { flow, interface, from_start });
        match owner {
            Some(owner) => self.tell(owner.at_ns, owner.of(flow)),
            None if !self.kernel.ties_sockets() => self.find_owners()?,
            None => {}
        }
        Ok(())
    }

    /// A flow has an owner.
    pub(super) fn flow_owned(&mut self, opened: Opened, owner: Owner) {
        let Some(known) = self.known(owner.at_ns, opened) else { return };
        if known.owner.is_some_and(|before| before.pid == owner.pid) {
            return;
        }
        known.owner = Some(owner);
        if known.told {
            self.tell(owner.at_ns, owner.of(opened.flow));
        }
    }

    /// A flow has carried its first payload.
    pub(super) fn flow_payload(&mut self, at_ns: MonotonicNs, opened: Opened, first_bytes: u32) {
        let Some(purpose) = crate::kernel::purpose(first_bytes) else { return };
        let Some(known) = self.known(at_ns, opened) else { return };
        // The first that says something is right: the answers of the other end begin with anything.
        if known.purpose.is_none() {
            known.purpose = Some(purpose);
            self.tell(at_ns, Fact::FlowPurpose { flow: opened.flow, purpose });
        }
    }

    /// A flow is over: what it has carried in the end, and that.
    pub(super) fn flow_gone(&mut self, at_ns: MonotonicNs, state: &FlowState) {
        let was_told = match self.flows.get(state.opened()) {
            Some(known) => known.told || (state.is_fragments() && state.first.is_some()),
            None => false,
        };
        if self.flows.forget(state.opened()) && was_told {
            if let Some(counters) = watched::counters(state) {
                self.tell(at_ns, counters);
            }
            self.tell(at_ns, Fact::FlowGone { flow: state.flow });
        }
    }

    /// What is remembered of a flow; `None` when it is over.
    fn known(&mut self, at_ns: MonotonicNs, opened: Opened) -> Option<&mut Known> {
        if self.flows.find(opened) == Found::InPlaceOfAnother {
            self.tell(at_ns, Fact::FlowGone { flow: opened.flow });
        }
        self.flows.get_mut(opened)
    }

    /// Tells the counters of every flow that has moved since the last time, and which of them are over.
    pub(super) fn sample(&mut self) -> Result<(), TracerError> {
        let now = clock::now().map_err(host("read the clock"))?;
        let states = self.kernel.flows()?;
        // What the programs have told of is known from when they found it, and not from now.
        self.take_pending()?;
        for state in &states {
            self.sample_flow(now, state)?;
        }
        self.find_owners()?;
        self.retire(now, &states)
    }

    fn sample_flow(&mut self, now: MonotonicNs, state: &FlowState) -> Result<(), TracerError> {
        let opened = state.opened();
        if !state.is_fragments()
            && let Some(first) = state.first
        {
            self.flow_seen(opened, first, state.from_start)?;
        }
        if let Some(pid) = state.owner {
            self.flow_owned(opened, Owner { at_ns: now, pid, method: OwnerMethod::Socket, crossed: None });
        }
        self.look_at_answers(now, state);
        let Some(known) = self.known(now, opened) else { return Ok(()) };
        let age = state.first.map_or(0, |first| now.0.saturating_sub(first.at_ns.0));
        let is_young = Duration::from_nanos(age) < YOUNG;
        let due = known.is_due(state, now, if is_young { super::SAMPLE_EVERY } else { SAMPLE_OLD_EVERY });
        // When an owner is found now, QEMU's events until now lack what this flow has carried, moved or not.
        if (due || (known.told && known.awaits_owner(owners::OWNER_TRIES)))
            && let Some(counters) = watched::counters(state)
        {
            self.tell(now, counters);
        }
        Ok(())
    }

    /// Notes a flow that is no migration, by how much comes back; not of a process that says that it migrates.
    fn look_at_answers(&mut self, now: MonotonicNs, state: &FlowState) {
        let flow = state.flow;
        let is_other = self.carries_other(flow, state.counters.map(|counters| counters.payload_bytes));
        let is_busy = state.owner.is_some_and(|pid| self.migrating.contains_key(&pid));
        if !is_other || is_busy {
            return;
        }
        let Some(known) = self.known(now, state.opened()) else { return };
        if known.purpose.is_none() {
            known.purpose = Some(Purpose::Other);
            self.tell(now, Fact::FlowPurpose { flow, purpose: Purpose::Other });
        }
    }

    /// Whether the payload of a connection shows that it is no migration's.
    pub(super) fn carries_other(&self, flow: Flow, Directions { tx, rx }: Directions<u64>) -> bool {
        match (self.ports.contains(flow.local.port()), self.ports.contains(flow.remote.port())) {
            (true, false) => is_other(tx, rx),
            (false, true) => is_other(rx, tx),
            // Either end may be the one that listens.
            _ => false,
        }
    }

    /// Takes the flows that are over out of the table.
    fn retire(&mut self, now: MonotonicNs, states: &[FlowState]) -> Result<(), TracerError> {
        for opened in self.retirement.take_ripe() {
            self.kernel.remove(opened)?;
        }
        let sight = Sight::of(now, states, &self.flows, &self.migrating);
        let over = self.retirement.over(&sight, &mut self.flows)?;
        for opened in over {
            self.retirement.retired(opened);
            match self.kernel.retire(opened)? {
                Some(state) => self.flow_gone(clock::now().map_err(host("read the clock"))?, &state),
                None => drop(self.flows.forget(opened)),
            }
        }
        Ok(())
    }
}
