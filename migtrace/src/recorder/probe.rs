//! The address that is probed while recording, and which VM has it.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::error::RecorderError;
use super::probed_vm::{ProbedVm, Surroundings, Untied};
use crate::event::Fact;
use crate::host::mac::Mac;
use crate::host::neighbours::Neighbours;
use crate::probe::{ProbeError, ProbeStep, Prober};
use crate::selection::Selection;
use crate::tracer::Tracer;

/// How often to look which VM has the probed address.
const VM_EVERY: Duration = Duration::from_secs(1);
/// How long the network has to show it before a person has to name the VM. The MAC of an address that answers is known
/// sooner.
const VM_PATIENCE: Duration = Duration::from_secs(1);
/// How often to look meanwhile.
const VM_SOON: Duration = Duration::from_millis(50);

/// An address that is probed.
pub(super) struct Probe {
    pub(super) prober: Prober,
    pub(super) vm: ProbedVm,
    neighbours: Neighbours,
    /// The MAC to which the first requests went.
    pub(super) mac: Option<Mac>,
    /// When to look again which VM has the address.
    pub(super) next_look: Instant,
}

impl Probe {
    /// Finds out which VM has the address, and returns what is known of that.
    pub(super) async fn begin(
        prober: Prober,
        selection: Selection,
        tracer: &Tracer,
    ) -> Result<(Self, Vec<Fact>), RecorderError> {
        let cannot = |source| ProbeError::Host { what: "find the MAC of the address", source };
        let mut neighbours = Neighbours::at(prober.interface()).map_err(cannot)?;
        let target = prober.target();
        let mut vm = ProbedVm::new(target, selection);
        let deadline = Instant::now() + VM_PATIENCE;
        let (news, mac) = loop {
            let now = look_around(tracer, &vm, &mut neighbours).map_err(cannot)?;
            let news = vm.update(&now);
            let Some(why) = vm.doubt(&now) else { break (news, now.mac) };
            // Once there is a MAC, the bridge has heard it, too: waiting longer helps only without one.
            if why != Untied::NoMac || Instant::now() >= deadline {
                let present = tracer.qemus().cloned().collect();
                return Err(RecorderError::WhoseAddress { target, why, present });
            }
            tokio::time::sleep(VM_SOON).await;
        };
        Ok((Self { prober, vm, neighbours, mac, next_look: Instant::now() + VM_EVERY }, news))
    }

    /// Looks which VM has the address, and returns what is new.
    pub(super) fn look(&mut self, tracer: &Tracer) -> Vec<Fact> {
        self.next_look = Instant::now() + VM_EVERY;
        // If this fails now, it may succeed a second later.
        match look_around(tracer, &self.vm, &mut self.neighbours) {
            Ok(now) => self.vm.update(&now),
            Err(_) => Vec::new(),
        }
    }
}

/// What this host and its network show of the probed address now.
fn look_around<'a>(
    tracer: &'a Tracer,
    vm: &ProbedVm,
    neighbours: &mut Neighbours,
) -> io::Result<Surroundings<'a>> {
    let mac = neighbours.mac_of(vm.target())?;
    let mut now = Surroundings { qemus: tracer.qemus().collect(), mac, port: None };
    if let Some(mac) = vm.mac_without_vm(&now) {
        now.port = neighbours.port_of(mac)?;
    }
    Ok(now)
}

/// The next step of a probe; waits for ever without one.
pub(super) async fn next_step(probe: Option<&mut Probe>) -> Result<ProbeStep, ProbeError> {
    match probe {
        Some(probe) => probe.prober.next().await,
        None => std::future::pending().await,
    }
}
