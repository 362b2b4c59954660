//! Which flows are over: their places in the table are wanted for others.
//!
//! What turns out to be no migration is over at once. A flow of a process that migrates is never over: the sums that go with
//! QEMU's events hold it, and must not fall.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::watched::{Known, Watched};
use super::{TracerError, host};
use crate::host::sockets;
use crate::kernel::{FlowState, Grace, Opened};
use crate::units::MonotonicNs;
use crate::vocabulary::Purpose;

/// How long nothing may have crossed before a connection that was closed is over: by then nothing is sent again.
const CLOSED: Duration = Duration::from_secs(10);
/// How long a connection may take before it carries something, if it is nobody's that is traced.
const SILENT: Duration = Duration::from_secs(3);
/// Likewise of a traced process: the channel of the pages that the guest waits for is opened long before it is used.
const SILENT_OWNED: Duration = Duration::from_secs(60);
/// How long nothing may have crossed before it is asked whether there is a socket at all; and how often it is asked.
const IDLE: Duration = Duration::from_secs(10);
/// How long nothing may have crossed on a connection whose socket is not to be found here: it may be in a tunnel.
const IDLE_ELSEWHERE: Duration = Duration::from_secs(600);

/// The flows that are being taken out of the table.
#[derive(Debug)]
pub(super) struct Retirement {
    /// More connections than these are too many: those that nobody owns go.
    comfortable: usize,
    retired: Grace<Opened>,
}

/// What the table holds at an instant.
pub(super) struct Sight<'a> {
    now: MonotonicNs,
    states: &'a [FlowState],
    /// Processes that migrate.
    busy: BTreeSet<u32>,
    /// The other ends of the streams of processes that migrate.
    peers: BTreeSet<(u32, IpAddr)>,
}

/// What a process said last of its migration.
pub(super) type Migrating = BTreeMap<u32, String>;

impl<'a> Sight<'a> {
    pub(super) fn of(
        now: MonotonicNs,
        states: &'a [FlowState],
        watched: &Watched,
        migrating: &Migrating,
    ) -> Self {
        let mut carrying = BTreeSet::new();
        let mut peers = BTreeSet::new();
        for (opened, known) in watched.iter() {
            if let (Some(owner), Some(purpose)) = (known.owner, known.purpose)
                && purpose != Purpose::Other
            {
                carrying.insert(owner.pid);
                peers.insert((owner.pid, opened.flow.remote.ip()));
            }
        }
        // A destination says `setup` when it begins to listen, which may be long before anybody comes.
        let is_busy =
            |(pid, status): (&u32, &String)| (status != "setup" || carrying.contains(pid)).then_some(*pid);
        Self { now, states, busy: migrating.iter().filter_map(is_busy).collect(), peers }
    }

    const fn since(&self, at: MonotonicNs) -> Duration {
        Duration::from_nanos(self.now.0.saturating_sub(at.0))
    }

    /// What is to be done with a connection.
    fn verdict(&self, state: &FlowState, known: &Known, is_crowded: bool) -> Verdict {
        let owner = known.owner.map(|owner| owner.pid);
        let (age, quiet) = (self.since(state.opened_ns), self.since(state.last_ns));
        let is_silent = !state.has_payload() && state.from_start;
        if let Some(pid) = owner.filter(|pid| self.busy.contains(pid)) {
            // Whoever knocks at the port of a QEMU that is being migrated to is let in by it.
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
        Self { comfortable: capacity as usize / 2, retired: Grace::default() }
    }

    /// Notes that a flow counts no more.
    pub(super) fn retired(&mut self, flow: Opened) {
        self.retired.begin(flow);
    }

    /// The flows whose places are free.
    pub(super) fn take_ripe(&mut self) -> Vec<Opened> {
        self.retired.take_over()
    }

    /// Whether flows wait for their places to be free.
    pub(super) fn is_pending(&self) -> bool {
        self.retired.iter().next().is_some()
    }

    /// The flows that are over, and the buckets of fragments that belong to no flow.
    pub(super) fn over(&self, sight: &Sight<'_>, watched: &mut Watched) -> Result<Vec<Opened>, TracerError> {
        let is_crowded = sight.states.len() > self.comfortable;
        let mut over = Vec::new();
        let mut ends = BTreeSet::new();
        for state in sight.states.iter().filter(|state| !state.is_fragments()) {
            let Some(known) = watched.get_mut(state.opened()) else { continue };
            let is_over = match sight.verdict(state, known, is_crowded) {
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
                over.push(state.opened());
            } else {
                ends.insert((state.flow.local.ip(), state.flow.remote.ip()));
            }
        }
        let orphans = sight.states.iter().filter(|state| {
            state.is_fragments() && !ends.contains(&(state.flow.local.ip(), state.flow.remote.ip()))
        });
        over.extend(orphans.map(FlowState::opened));
        Ok(over)
    }
}
