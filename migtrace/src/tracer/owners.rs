//! Which QEMU owns a flow: what the kernel programs see, or else what `sock_diag` and `/proc` know.

use std::time::Duration;

use super::{Tracer, TracerError, host};
use crate::event::{Crossed, Fact, OwnerMethod};
use crate::host::{clock, sockets};
use crate::units::{Flow, MonotonicNs};

/// How long the kernel programs have to find a flow's owner before `sock_diag` is asked.
const OWNER_PATIENCE: Duration = Duration::from_millis(50);
/// How often an ownerless flow is looked up before it is taken for somebody else's.
pub(super) const OWNER_TRIES: u32 = 20;

impl Tracer {
    /// Notes what a kernel program has told of a flow's owner.
    pub(super) fn own_by_socket(&mut self, at_ns: MonotonicNs, flow: Flow, pid: u32, crossed: Crossed) {
        if self.flows.own(flow, pid) {
            let (method, crossed) = (OwnerMethod::Socket, Some(crossed));
            self.tell(at_ns, Fact::FlowOwner { flow, pid, method, crossed });
        }
    }

    /// Notes an owner that was found here.
    pub(super) fn own(&mut self, at_ns: MonotonicNs, flow: Flow, pid: u32, method: OwnerMethod) {
        if self.flows.own(flow, pid) {
            self.tell(at_ns, Fact::FlowOwner { flow, pid, method, crossed: None });
        }
    }

    /// Connections that are older than the tracing: a migration already in progress.
    pub(super) fn adopt_connections(&mut self, now: MonotonicNs) -> Result<(), TracerError> {
        let pids: Vec<u32> = self.qemus.keys().copied().collect();
        let ports = self.ports.clone();
        match sockets::connections(&pids, |port| ports.contains(port)) {
            Ok(connections) => {
                for (flow, pid) in connections {
                    self.kernel.own(flow, pid)?;
                    self.flows.expect(flow);
                }
            }
            Err(error) => self.tell_not_measured(
                now,
                "owners of connections that are older than the tracing",
                format!("sock_diag: {error}"),
            ),
        }
        Ok(())
    }

    /// Asks `sock_diag` and `/proc` for the owners that the kernel programs did not find.
    pub(super) fn find_owners(&mut self) -> Result<(), TracerError> {
        let patience = if self.kernel.ties_sockets() { OWNER_PATIENCE } else { Duration::ZERO };
        let wanted = self.flows.ownerless(patience, OWNER_TRIES);
        if !wanted.is_empty() {
            let pids: Vec<u32> = self.qemus.keys().copied().collect();
            let now = clock::now().map_err(host("read the clock"))?;
            match sockets::owners_of(&wanted, &pids) {
                Ok(owners) => {
                    for (flow, owner) in owners {
                        self.kernel.own(flow, owner.pid)?;
                        // From now on, and not from the question, the programs surely count the flow as this QEMU's.
                        let tied = clock::now().map_err(host("read the clock"))?;
                        self.own(tied, flow, owner.pid, OwnerMethod::SockDiag);
                    }
                }
                Err(error) => {
                    self.tell_not_measured(now, "owners of flows", format!("sock_diag: {error}"));
                }
            }
        }
        if self.flows.all_settled(OWNER_TRIES) {
            self.kernel.settle()?;
        }
        Ok(())
    }
}
