//! Connections whose opening was not seen: they are older than the tracing, or were missed in a flood of packets.

use std::time::Duration;

use tokio::time::Instant;

use super::Flows;
use super::answers::is_not_migration;
use crate::host::sockets::{self, OpenConnection};
use crate::ports::PortRanges;
use crate::tracer::base::Base;
use crate::tracer::error::TracerError;
use crate::tracer::queue::now;
use crate::tracer::this_host::qemus::Qemus;
use crate::tracer::this_host::scans;

/// The ports that most systems give to clients begin here. Below, somebody listens.
const FIRST_CLIENT_PORT: u16 = 32768;
/// The longest wait between two searches.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// When to search for connections whose opening was not seen.
#[derive(Debug, Default)]
pub(super) struct Adoption {
    /// How many packets had belonged to no flow at the last search.
    strays: u64,
    /// Not before this.
    next: Option<Instant>,
    /// How long the last wait was. Each search that finds nothing makes the next wait longer.
    waited: Duration,
}

impl Adoption {
    /// Allows the next search at once.
    pub(super) fn end_wait(&mut self) {
        self.next = None;
    }
}

impl Flows {
    /// Counts the connections to watched ports that are open already, and gives them to the QEMUs that hold them.
    pub(in crate::tracer) fn adopt_connections(
        &mut self,
        base: &mut Base,
        qemus: &Qemus,
    ) -> Result<(), TracerError> {
        let Self { ports, known, adoption, .. } = self;
        adoption.strays = base.kernel.strays()?;
        let open = match sockets::connections(&qemus.pids(), |port| ports.contains(port)) {
            Ok(open) => open,
            Err(error) => {
                let what = "connections that are older than the tracing";
                base.events.not_measured(now()?, what, format!("sock_diag: {error}"));
                return Ok(());
            }
        };
        let mut has_found = false;
        for connection in open {
            if !may_be_migration(&connection, qemus, ports) || known.has(&connection.flow) {
                continue;
            }
            has_found = true;
            let OpenConnection { flow, pid, .. } = connection;
            if let (true, Some(pid)) = (base.kernel.adopt(flow)?, pid) {
                base.kernel.own(flow, pid)?;
            }
        }
        let longer = (adoption.waited * 2).clamp(scans::SOON, LONGEST_WAIT);
        adoption.waited = if has_found { Duration::ZERO } else { longer };
        adoption.next = Some(Instant::now() + adoption.waited);
        Ok(())
    }

    /// Does so if there are packets that belong to no flow, and the last search was long enough ago.
    pub(in crate::tracer) fn adopt_strays(
        &mut self,
        base: &mut Base,
        qemus: &Qemus,
    ) -> Result<(), TracerError> {
        let is_time = self.adoption.next.is_none_or(|next| Instant::now() >= next);
        if is_time && base.kernel.strays()? != self.adoption.strays {
            self.adopt_connections(base, qemus)?;
        }
        Ok(())
    }
}

/// Whether a connection may be a migration's. A migration goes to a watched port, whichever end that is.
fn may_be_migration(connection: &OpenConnection, qemus: &Qemus, ports: &PortRanges) -> bool {
    let OpenConnection { flow, pid, is_to_listener, payload_bytes } = *connection;
    // A QEMU that has been connected to does not listen any more.
    let is_incoming = pid.is_some_and(|pid| qemus.is_incoming(pid));
    let is_to_us = is_to_listener || (is_incoming && flow.remote.port() >= FIRST_CLIENT_PORT);
    let goes_to_watched =
        ports.contains(flow.remote.port()) || (ports.contains(flow.local.port()) && is_to_us);
    goes_to_watched && !is_not_migration(ports, flow, payload_bytes)
}
