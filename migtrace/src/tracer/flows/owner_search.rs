//! Which QEMU owns a flow: what the kernel programs see, or else what `sock_diag` and `/proc` know.

use std::time::Duration;

use tokio::time::Instant;

use crate::host::clock;
use crate::host::sockets::{self, Open};
use crate::tracer::messages::qmp_line::Line;
use crate::tracer::{Tracer, TracerError, host};

/// How long the kernel programs have to find a flow's owner before `sock_diag` is asked.
const OWNER_PATIENCE: Duration = Duration::from_millis(50);
/// How often an ownerless flow is looked up before it is taken for somebody else's.
pub(in crate::tracer) const OWNER_TRIES: u32 = 20;

/// The ports that clients are given by most systems begin here: below, somebody listens.
const FIRST_CLIENT_PORT: u16 = 32768;

/// How long after connections were looked for in vain they are looked for again, at most.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// When it is looked for connections whose opening was missed.
#[derive(Debug, Default)]
pub(in crate::tracer) struct Adoption {
    /// How many packets had belonged to no flow when it was looked last.
    strays: u64,
    /// Not before.
    next: Option<Instant>,
    /// How long the last wait was: each search in vain makes the next one longer.
    waited: Duration,
}

impl Tracer {
    /// Counts the connections to watched ports that are open already, and gives them to the QEMUs that hold them.
    pub(in crate::tracer) fn adopt_connections(&mut self) -> Result<(), TracerError> {
        self.adoption.strays = self.kernel.strays()?;
        let pids: Vec<u32> = self.qemus.keys().copied().collect();
        let ports = self.ports.clone();
        let found = match sockets::connections(&pids, |port| ports.contains(port)) {
            Ok(found) => found,
            Err(error) => {
                let now = clock::now().map_err(host("read the clock"))?;
                self.tell_not_measured(
                    now,
                    "connections that are older than the tracing",
                    format!("sock_diag: {error}"),
                );
                return Ok(());
            }
        };
        let mut is_news = false;
        for Open { flow, pid, is_to_listener, payload_bytes } in found {
            // A migration goes to a watched port. A QEMU that has been connected to listens no more.
            let waits = |pid| self.qemus.get(&pid).is_some_and(|qemu| qemu.incoming);
            let is_to_us =
                is_to_listener || (pid.is_some_and(waits) && flow.remote.port() >= FIRST_CLIENT_PORT);
            let is_migration =
                ports.contains(flow.remote.port()) || (ports.contains(flow.local.port()) && is_to_us);
            if !is_migration || self.carries_other(flow, payload_bytes) || self.flows.has(&flow) {
                continue;
            }
            is_news = true;
            if let (true, Some(pid)) = (self.kernel.adopt(flow)?, pid) {
                self.kernel.own(flow, pid)?;
            }
        }
        let waited = self.adoption.waited;
        self.adoption.waited = if is_news {
            Duration::ZERO
        } else {
            (waited * 2).clamp(crate::tracer::this_host::scans::SOON, LONGEST_WAIT)
        };
        self.adoption.next = Some(Instant::now() + self.adoption.waited);
        Ok(())
    }

    /// Looks for connections whose opening was missed, if there are packets that belong to none.
    pub(in crate::tracer) fn adopt_strays(&mut self) -> Result<(), TracerError> {
        let is_time = self.adoption.next.is_none_or(|next| Instant::now() >= next);
        if is_time && self.kernel.strays()? != self.adoption.strays {
            self.adopt_connections()?;
        }
        Ok(())
    }

    /// Notes whether a QEMU migrates.
    pub(in crate::tracer) fn note_migration(&mut self, pid: u32, line: &Line) -> Result<(), TracerError> {
        let status = line.data.get("status").and_then(serde_json::Value::as_str);
        let Some(status) = status.filter(|_| line.name == "MIGRATION") else { return Ok(()) };
        if matches!(status, "none" | "completed" | "failed" | "cancelled") {
            self.migrating.remove(&pid);
            return Ok(());
        }
        self.migrating.insert(pid, status.into());
        // Its connections may have been missed in a flood of packets that belong to none.
        self.adoption.next = None;
        self.adopt_strays()
    }

    /// Asks `sock_diag` and `/proc` for the owners that the kernel programs did not find.
    pub(in crate::tracer) fn find_owners(&mut self) -> Result<(), TracerError> {
        let patience = if self.kernel.ties_sockets() { OWNER_PATIENCE } else { Duration::ZERO };
        let wanted = self.flows.ownerless(patience, OWNER_TRIES);
        if !wanted.is_empty() {
            let pids: Vec<u32> = self.qemus.keys().copied().collect();
            match sockets::owners_of(&wanted, &pids) {
                Ok(owners) => {
                    for (flow, owner) in owners {
                        self.kernel.own(flow, owner.pid)?;
                    }
                }
                Err(error) => {
                    let now = clock::now().map_err(host("read the clock"))?;
                    self.tell_not_measured(now, "owners of flows", format!("sock_diag: {error}"));
                }
            }
        }
        for opened in self.flows.given_up(OWNER_TRIES) {
            self.kernel.settle(opened)?;
        }
        Ok(())
    }
}
