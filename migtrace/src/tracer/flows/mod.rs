//! The flows in the table: each is reported when it is found, counted, and reported again when it is over.

mod adoption;
mod answers;
pub(super) mod known_flows;
mod late;
mod owner_search;
mod retirement;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::event::{Crossing, Fact, OwnerMethod};
use crate::kernel::{FirstPacket, FlowId, FlowState, MilestonesCrossed};
use crate::ports::PortRanges;
use crate::tracer::base::Base;
use crate::tracer::error::TracerError;
use crate::tracer::queue::{EventQueue, now};
use crate::tracer::this_host::interfaces::Interfaces;
use crate::tracer::this_host::qemus::Qemus;
use crate::units::{Directions, Flow, MonotonicNs};
use crate::vocabulary::Purpose;
use adoption::Adoption;
use known_flows::{Found, KnownFlow, KnownFlows, Owner, counters};
use late::LateFlows;
use owner_search::find_owners;
use retirement::{Migrating, Retirement, Snapshot};

/// How often the flow table is read, and the counters of young flows become events.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// How often the counters of flows older than [`YOUNG`] become events, so that an hour's log stays small.
const SAMPLE_OLD_EVERY: Duration = Duration::from_secs(1);
/// See [`SAMPLE_OLD_EVERY`].
const YOUNG: Duration = Duration::from_secs(60);

/// How a flow begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) first: FirstPacket,
    pub(super) from_start: bool,
    pub(super) initial_sequences: Option<Directions<u32>>,
}

/// Whether a QEMU with this status does not migrate.
pub(super) fn is_over(status: &str) -> bool {
    matches!(status, "none" | "completed" | "failed" | "cancelled")
}

/// The flows of the table, and whose they are.
pub(super) struct Flows {
    ports: PortRanges,
    known: KnownFlows,
    /// The last status of each QEMU that migrates.
    migrating: Migrating,
    retirement: Retirement,
    adoption: Adoption,
    late: LateFlows,
}

impl Flows {
    /// For a table that has room for `capacity` connections to these ports.
    pub(super) fn new(ports: PortRanges, capacity: u32) -> Self {
        Self {
            ports,
            known: KnownFlows::default(),
            migrating: Migrating::new(),
            retirement: Retirement::new(capacity),
            adoption: Adoption::default(),
            late: LateFlows::default(),
        }
    }

    /// Whether the table has to be read from time to time.
    pub(super) fn needs_samples(&self) -> bool {
        !self.known.is_empty() || self.retirement.is_pending() || !self.late.is_empty()
    }

    /// Whether a migration is under way or may be: there are flows, or a QEMU says that it migrates.
    pub(super) fn is_any_expected(&self) -> bool {
        self.needs_samples() || !self.migrating.is_empty()
    }

    /// The tracer sleeps, and still does.
    pub(super) fn note_sleep(&mut self) {
        self.late.note_sleep();
    }

    /// The tracer begins to wake up.
    pub(super) fn note_waking(&mut self, at_ns: MonotonicNs) {
        self.late.note_waking(at_ns);
    }

    /// The ports that are watched.
    pub(super) const fn ports(&self) -> &PortRanges {
        &self.ports
    }

    /// A flow is in the table, and has had its first packet.
    pub(super) fn seen(
        &mut self,
        base: &mut Base,
        interfaces: &Interfaces,
        qemus: &mut Qemus,
        id: FlowId,
        Seen { first, from_start, initial_sequences }: Seen,
    ) -> Result<(), TracerError> {
        let Some(known) = self.known(&mut base.events, first.at_ns, id) else { return Ok(()) };
        if std::mem::replace(&mut known.reported, true) {
            return Ok(());
        }
        let owner = known.owner;
        qemus.follow_change();
        let (flow, interface) = (id.flow, interfaces.name(first.ifindex));
        base.events.add(first.at_ns, Fact::FlowSeen { flow, interface, from_start, initial_sequences });
        match owner {
            Some(owner) => base.events.add(owner.at_ns, owner.of(flow)),
            None if !base.kernel.ties_sockets() => find_owners(base, qemus, &mut self.known)?,
            None => {}
        }
        Ok(())
    }

    /// A flow has an owner.
    pub(super) fn owned(&mut self, events: &mut EventQueue, id: FlowId, owner: Owner) {
        let Some(known) = self.known(events, owner.at_ns, id) else { return };
        if known.owner.is_some_and(|before| before.pid == owner.pid) {
            return;
        }
        known.owner = Some(owner);
        if known.reported {
            events.add(owner.at_ns, owner.of(id.flow));
        }
    }

    /// A flow has carried its first payload in one direction.
    pub(super) fn payload(
        &mut self,
        events: &mut EventQueue,
        at_ns: MonotonicNs,
        id: FlowId,
        first_bytes: u32,
    ) {
        let Some(purpose) = crate::kernel::purpose(first_bytes) else { return };
        let Some(known) = self.known(events, at_ns, id) else { return };
        // The first payload with a known beginning decides: the answers of the other end begin with anything.
        if known.purpose.is_none() {
            known.purpose = Some(purpose);
            events.add(at_ns, Fact::FlowPurpose { flow: id.flow, purpose });
        }
    }

    /// Reports the milestones that were crossed since the last time, one event for each flow.
    pub(super) fn milestones(&self, base: &mut Base) {
        let mut crossings: BTreeMap<Flow, Vec<Crossing>> = BTreeMap::new();
        for MilestonesCrossed { flow, crossing } in base.kernel.milestones_crossed() {
            if self.known.get(flow).is_some_and(|known| known.reported) {
                crossings.entry(flow.flow).or_default().push(crossing);
            }
        }
        for (flow, crossings) in crossings {
            if let Some(last) = crossings.last() {
                base.events.add(last.at_ns, Fact::Milestones { flow, crossings });
            }
        }
    }

    /// A flow is over: reports what it has carried in all, and that it is over.
    fn gone(&mut self, events: &mut EventQueue, at_ns: MonotonicNs, state: &FlowState) {
        let was_reported = match self.known.get(state.id()) {
            Some(known) => known.reported || (state.is_fragments() && state.first.is_some()),
            None => false,
        };
        if self.known.forget(state.id()) && was_reported {
            self.late.gone(events, at_ns, state);
            if let Some(counters) = counters(state) {
                events.add(at_ns, counters);
            }
            events.add(at_ns, Fact::FlowGone { flow: state.flow });
        } else if !was_reported {
            self.late.gone_uncounted(events, at_ns, &state.flow);
        }
    }

    /// A flow has made room in the table for the next one between its ends.
    pub(super) fn replaced(&mut self, events: &mut EventQueue, at_ns: MonotonicNs, state: &FlowState) {
        self.gone(events, at_ns, state);
        self.known.remember_replaced(state.id());
    }

    /// What is known of a flow; `None` when it is over.
    fn known(&mut self, events: &mut EventQueue, at_ns: MonotonicNs, id: FlowId) -> Option<&mut KnownFlow> {
        if self.known.find(id) == Found::InPlaceOfAnother {
            events.add(at_ns, Fact::FlowGone { flow: id.flow });
        }
        self.known.get_mut(id)
    }

    /// Makes every flow due, so that its final counters are reported.
    pub(super) fn make_all_due(&mut self) {
        self.known.forget_samples();
    }

    /// Reports the counters of every flow that has moved since the last time, and which of the flows are over. `states` are
    /// the flows of the table, in their order.
    pub(super) fn sample(
        &mut self,
        base: &mut Base,
        interfaces: &Interfaces,
        qemus: &mut Qemus,
        now: MonotonicNs,
        states: &[FlowState],
    ) -> Result<(), TracerError> {
        for state in states {
            if let Some(first) = state.first.filter(|_| !state.is_fragments()) {
                let initial_sequences = self.late.initial_sequences(&state.flow).or(state.initial_sequences);
                let from_start = state.from_start && !self.late.has(&state.flow);
                self.seen(
                    base,
                    interfaces,
                    qemus,
                    state.id(),
                    Seen { first, from_start, initial_sequences },
                )?;
            }
            self.sample_flow(&mut base.events, now, state);
        }
        self.milestones(base);
        self.follow_late(base, qemus)?;
        self.known.forget_replaced(|id| {
            states.binary_search_by_key(&id.flow, |state| state.flow).is_ok_and(|at| states[at].id() == id)
        });
        find_owners(base, qemus, &mut self.known)?;
        self.retire(base, now, states)
    }

    fn sample_flow(&mut self, events: &mut EventQueue, now: MonotonicNs, state: &FlowState) {
        let id = state.id();
        if let Some(pid) = state.owner {
            let owner = Owner { at_ns: now, pid, method: OwnerMethod::Socket, crossed: None };
            self.owned(events, id, owner);
        }
        self.look_at_answers(events, now, state);
        let Some(known) = self.known(events, now, id) else { return };
        let age = state.first.map_or(0, |first| now.0.saturating_sub(first.at_ns.0));
        let is_young = Duration::from_nanos(age) < YOUNG;
        let is_due = known.is_due(state, now, if is_young { SAMPLE_EVERY } else { SAMPLE_OLD_EVERY });
        // The owner may be found next. QEMU's events until now then lack what this flow has carried, so its counters are
        // needed even when they have not moved.
        if (is_due || (known.reported && known.awaits_owner(owner_search::TRIES)))
            && let Some(counters) = counters(state)
        {
            events.add(now, counters);
        }
    }

    /// Notes that a flow is not a migration's, by how much comes back; unless its owner says that it migrates.
    fn look_at_answers(&mut self, events: &mut EventQueue, now: MonotonicNs, state: &FlowState) {
        let flow = state.flow;
        let payload_bytes = state.counters.map(|counters| counters.payload_bytes);
        let is_other = answers::is_not_migration(&self.ports, flow, payload_bytes);
        let owner_migrates = state.owner.is_some_and(|pid| self.migrating.contains_key(&pid));
        if !is_other || owner_migrates {
            return;
        }
        let Some(known) = self.known(events, now, state.id()) else { return };
        if known.purpose.is_none() {
            known.purpose = Some(Purpose::Other);
            events.add(now, Fact::FlowPurpose { flow, purpose: Purpose::Other });
        }
    }

    /// Takes the flows that are over out of the table.
    fn retire(
        &mut self,
        base: &mut Base,
        now_ns: MonotonicNs,
        states: &[FlowState],
    ) -> Result<(), TracerError> {
        for id in self.retirement.take_ripe() {
            base.kernel.remove(id)?;
        }
        let snapshot = Snapshot::of(now_ns, states, &self.known, &self.migrating);
        for id in self.retirement.over(&snapshot, &mut self.known)? {
            self.retirement.retired(id);
            match base.kernel.retire(id)? {
                Some(state) => self.gone(&mut base.events, now()?, &state),
                None => drop(self.known.forget(id)),
            }
        }
        Ok(())
    }

    /// Notes what a QEMU says of its migration.
    pub(super) fn note_migration(
        &mut self,
        base: &mut Base,
        qemus: &Qemus,
        pid: u32,
        status: &str,
    ) -> Result<(), TracerError> {
        if is_over(status) {
            self.migration_over(pid);
            return Ok(());
        }
        self.migrating.insert(pid, status.into());
        // The opening of its connections may have been missed in a flood of packets that belong to no flow.
        self.adoption.end_wait();
        self.adopt_strays(base, qemus)
    }

    /// A QEMU migrates no more.
    pub(super) fn migration_over(&mut self, pid: u32) {
        self.migrating.remove(&pid);
    }
}
