//! Which flows are over. They give up their places in the table for others.
//!
//! A connection that turns out not to be a migration's is over at once. A flow of a process that migrates is never over:
//! the sums that come with QEMU's events include it, and must not fall.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::known_flows::{KnownFlow, KnownFlows};
use crate::host::sockets;
use crate::kernel::{FlowId, FlowState, GracePeriod};
use crate::tracer::error::{TracerError, host};
use crate::units::MonotonicNs;
use crate::vocabulary::Purpose;

/// A closed connection is over when nothing has crossed for this long: by then nothing is sent again.
const CLOSED: Duration = Duration::from_secs(10);
/// A connection without a traced owner is over when it has carried nothing for this long.
const SILENT: Duration = Duration::from_secs(3);
/// Likewise with one: the channel for pages that the guest waits for is opened long before it is used.
const SILENT_OWNED: Duration = Duration::from_secs(60);
/// When nothing has crossed for this long, the kernel is asked whether there is a socket at all, and so often.
const IDLE: Duration = Duration::from_secs(10);
/// A connection whose socket is not found here (it may be in a tunnel) is over when nothing has crossed for this long.
const IDLE_ELSEWHERE: Duration = Duration::from_secs(600);

/// The flows that are being taken out of the table.
#[derive(Debug)]
pub(super) struct Retirement {
    /// With more connections than these the table is crowded, and those without an owner go.
    comfortable: usize,
    retired: GracePeriod<FlowId>,
}

/// What the table holds at an instant.
pub(super) struct Snapshot<'a> {
    now: MonotonicNs,
    states: &'a [FlowState],
    /// Processes that migrate.
    busy: BTreeSet<u32>,
    /// The other ends of the streams of processes that migrate.
    peers: BTreeSet<(u32, IpAddr)>,
}

/// The last status of each process that migrates.
pub(super) type Migrating = BTreeMap<u32, String>;

impl<'a> Snapshot<'a> {
    pub(super) fn of(
        now: MonotonicNs,
        states: &'a [FlowState],
        flows: &KnownFlows,
        migrating: &Migrating,
    ) -> Self {
        let mut carrying = BTreeSet::new();
        let mut peers = BTreeSet::new();
        for (id, known) in flows.iter() {
            if let (Some(owner), Some(purpose)) = (known.owner, known.purpose)
                && purpose != Purpose::Other
            {
                carrying.insert(owner.pid);
                peers.insert((owner.pid, id.flow.remote.ip()));
            }
        }
        // A destination says `setup` when it begins to listen, which may be long before anybody connects.
        let is_busy =
            |(pid, status): (&u32, &String)| (status != "setup" || carrying.contains(pid)).then_some(*pid);
        Self { now, states, busy: migrating.iter().filter_map(is_busy).collect(), peers }
    }

    const fn since(&self, at: MonotonicNs) -> Duration {
        Duration::from_nanos(self.now.0.saturating_sub(at.0))
    }

    /// Whether a connection is over.
    fn verdict(&self, state: &FlowState, known: &KnownFlow, is_crowded: bool) -> Verdict {
        let owner = known.owner.map(|owner| owner.pid);
        let (age, quiet) = (self.since(state.opened_ns), self.since(state.last_ns));
        let is_silent = !state.has_payload() && state.from_start;
        if let Some(pid) = owner.filter(|pid| self.busy.contains(pid)) {
            // A QEMU that is being migrated to accepts whoever connects to its port.
            let is_stranger = !self.peers.contains(&(pid, state.flow.remote.ip()));
            return Verdict::over_if(is_crowded && is_silent && is_stranger && age >= SILENT);
        }
        if known.purpose == Some(Purpose::Other) || (state.closed && quiet >= CLOSED) {
            return Verdict::Over;
        }
        let is_awaited = owner.is_some() && !is_crowded;
        if is_silent && age >= if is_awaited { SILENT_OWNED } else { SILENT } {
            return Verdict::Over;
        }
        match owner {
            None if is_crowded && age >= SILENT && known.settled => Verdict::Over,
            None => Verdict::over_if(quiet >= IDLE_ELSEWHERE),
            Some(_) if quiet < IDLE => Verdict::Stays,
            Some(_) => Verdict::IfNoSocket,
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Stays,
    Over,
    IfNoSocket,
}

impl Verdict {
    const fn over_if(condition: bool) -> Self {
        if condition { Self::Over } else { Self::Stays }
    }
}

impl Retirement {
    /// For a table that has room for `capacity` connections.
    pub(super) fn new(capacity: u32) -> Self {
        Self { comfortable: capacity as usize / 2, retired: GracePeriod::default() }
    }

    /// Notes that a flow is no longer counted.
    pub(super) fn retired(&mut self, flow: FlowId) {
        self.retired.begin(flow);
    }

    /// The flows whose places can be given to others now.
    pub(super) fn take_ripe(&mut self) -> Vec<FlowId> {
        self.retired.take_free()
    }

    /// Whether flows wait for that.
    pub(super) fn is_pending(&self) -> bool {
        self.retired.iter().next().is_some()
    }

    /// The flows that are over, and the fragments between hosts that have no flow left.
    pub(super) fn over(
        &self,
        snapshot: &Snapshot<'_>,
        flows: &mut KnownFlows,
    ) -> Result<Vec<FlowId>, TracerError> {
        let is_crowded = snapshot.states.len() > self.comfortable;
        let mut over = Vec::new();
        let mut ends = BTreeSet::new();
        for state in snapshot.states.iter().filter(|state| !state.is_fragments()) {
            let Some(known) = flows.get_mut(state.id()) else { continue };
            let is_over = match snapshot.verdict(state, known, is_crowded) {
                Verdict::Stays => false,
                Verdict::Over => true,
                Verdict::IfNoSocket => {
                    known.looked_for_socket.is_none_or(|looked| looked.elapsed() >= IDLE) && {
                        known.looked_for_socket = Some(Instant::now());
                        !sockets::is_there(&state.flow).map_err(host("look up a socket"))?
                    }
                }
            };
            if is_over {
                over.push(state.id());
            } else {
                ends.insert((state.flow.local.ip(), state.flow.remote.ip()));
            }
        }
        let orphans = snapshot.states.iter().filter(|state| {
            state.is_fragments() && !ends.contains(&(state.flow.local.ip(), state.flow.remote.ip()))
        });
        over.extend(orphans.map(FlowState::id));
        Ok(over)
    }
}
