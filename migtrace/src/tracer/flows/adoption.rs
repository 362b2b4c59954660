//! Connections whose opening was not seen: they are older than the tracing, or were missed in a flood of packets.

use std::time::Duration;

use tokio::time::Instant;

use super::Flows;
use super::answers::is_not_migration;
use crate::host::sockets::{self, OpenConnection};
use crate::kernel::Opened;
use crate::ports::PortRanges;
use crate::tracer::base::Base;
use crate::tracer::error::{TracerError, host};
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
        let openings = if self.late.are_expected() { base.kernel.openings()? } else { Vec::new() };
        self.adopt_open(base, qemus, &openings)
    }

    /// The same, with the connections that have opened during the last sleep.
    fn adopt_open(&mut self, base: &mut Base, qemus: &Qemus, openings: &[Opened]) -> Result<(), TracerError> {
        let Self { ports, known, adoption, late, .. } = self;
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
            let OpenConnection { flow, pid, .. } = connection;
            let opened = openings.binary_search_by_key(&flow, |opened| opened.flow).ok();
            // One whose opening was noted is known to go to a watched port.
            let is_candidate = opened.is_some() || goes_to_watched(&connection, qemus, ports);
            if !is_candidate || is_not_migration(ports, flow, connection.payload_bytes) || known.has(&flow) {
                continue;
            }
            has_found = true;
            if !base.kernel.adopt(flow)? {
                // The programs have counted it among what is lost.
                continue;
            }
            if let Some(at) = opened {
                late.insert(openings[at]);
            }
            if let Some(pid) = pid {
                base.kernel.own(flow, pid)?;
            }
        }
        let longer = (adoption.waited * 2).clamp(scans::SOON, LONGEST_WAIT);
        adoption.waited = if has_found { Duration::ZERO } else { longer };
        adoption.next = Some(Instant::now() + adoption.waited);
        Ok(())
    }

    /// The tracer has woken up: counts the connections that have opened during its sleep, and finds out what they have carried
    /// until now.
    pub(in crate::tracer) fn take_over(&mut self, base: &mut Base, qemus: &Qemus) -> Result<(), TracerError> {
        self.late.expect();
        let openings = base.kernel.openings()?;
        self.adopt_open(base, qemus, &openings)?;
        self.find_purposes(base, &openings)?;
        self.read_late(base)
    }

    /// Everything is attached again, which may have taken long.
    pub(in crate::tracer) fn expect_late(&mut self) {
        self.late.expect();
    }

    /// Looks for connections whose first packets were not counted, since they began before the tracer was awake, and for what
    /// those have carried until then.
    pub(super) fn follow_late(&mut self, base: &mut Base, qemus: &Qemus) -> Result<(), TracerError> {
        if self.late.is_empty() {
            return Ok(());
        }
        if self.late.are_expected() {
            let openings = base.kernel.openings()?;
            self.adopt_opened(base, qemus, &openings)?;
            self.find_purposes(base, &openings)?;
            if self.late.end_expectation() {
                base.kernel.end_notes()?;
            }
        }
        self.read_late(base)
    }

    /// Finds out what connections carry whose first payload was not counted.
    fn find_purposes(&mut self, base: &mut Base, openings: &[Opened]) -> Result<(), TracerError> {
        for opened in openings {
            if let Some(first_payload) = opened.first_payload
                && self.late.has(&opened.flow)
                && let Some(state) = base.kernel.flow(opened.flow)?
            {
                self.payload(&mut base.events, now()?, state.id(), first_payload);
            }
        }
        Ok(())
    }

    fn read_late(&mut self, base: &mut Base) -> Result<(), TracerError> {
        let Self { known, late, .. } = self;
        late.read(base, |flow| known.is_reported(flow))
    }

    fn adopt_opened(
        &mut self,
        base: &mut Base,
        qemus: &Qemus,
        openings: &[Opened],
    ) -> Result<(), TracerError> {
        let mut unknown = Vec::new();
        for opened in openings {
            if self.late.knows(&opened.flow) {
                continue;
            }
            match base.kernel.flow(opened.flow)? {
                Some(state) if state.from_start => {}
                Some(_) => self.late.insert(*opened),
                None => unknown.push(opened.flow),
            }
        }
        if unknown.is_empty() {
            return Ok(());
        }
        self.adopt_open(base, qemus, openings)?;
        for flow in unknown.into_iter().filter(|flow| !self.late.knows(flow)) {
            // What is still open is no migration's.
            let is_open = || sockets::is_there(&flow).map_err(host("look up a socket"));
            if base.kernel.flow(flow)?.is_none() && !is_open()? {
                let what = format!("what {flow} carried");
                let why = "it opened and closed while migtrace woke up";
                base.events.not_measured(now()?, &what, why.to_owned());
            }
        }
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

/// Whether a connection goes to a watched port, whichever end that is, as a migration does.
fn goes_to_watched(connection: &OpenConnection, qemus: &Qemus, ports: &PortRanges) -> bool {
    let OpenConnection { flow, pid, is_to_listener, .. } = *connection;
    // A QEMU that has been connected to does not listen any more.
    let is_incoming = pid.is_some_and(|pid| qemus.is_incoming(pid));
    let is_to_us = is_to_listener || (is_incoming && flow.remote.port() >= FIRST_CLIENT_PORT);
    ports.contains(flow.remote.port()) || (ports.contains(flow.local.port()) && is_to_us)
}
