//! Asks `sock_diag` and `/proc` for the owners that the kernel programs did not find.

use std::time::Duration;

use super::known_flows::KnownFlows;
use crate::host::sockets;
use crate::tracer::base::Base;
use crate::tracer::error::TracerError;
use crate::tracer::queue::now;
use crate::tracer::this_host::qemus::Qemus;

/// How long the kernel programs have to find a flow's owner before `sock_diag` is asked.
const PATIENCE: Duration = Duration::from_millis(50);
/// How often a flow without an owner is looked up before it is taken for another process's.
pub(super) const TRIES: u32 = 20;

/// Looks up the flows that have waited long enough for their owner.
pub(super) fn find_owners(base: &mut Base, qemus: &Qemus, flows: &mut KnownFlows) -> Result<(), TracerError> {
    let patience = if base.kernel.ties_sockets() { PATIENCE } else { Duration::ZERO };
    let wanted = flows.ownerless(patience, TRIES);
    if !wanted.is_empty() {
        match sockets::holders_of(&wanted, &qemus.pids()) {
            Ok(holders) => {
                for (flow, holder) in holders {
                    base.kernel.own(flow, holder.pid)?;
                }
            }
            Err(error) => base.events.not_measured(now()?, "owners of flows", format!("sock_diag: {error}")),
        }
    }
    for id in flows.given_up(TRIES) {
        base.kernel.settle(id)?;
    }
    Ok(())
}
