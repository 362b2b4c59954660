//! What works on this kernel, found out by loading and attaching for real.

use std::io;

use nix::sched::{CloneFlags, unshare};

use super::{Kernel, KernelError, Settings};
use crate::errors::with_causes;
use crate::event::{AttachMode, Probe, ProbeStatus};

/// The name of the probe without which nothing is measured.
pub const WIRE: &str = "wire";

/// The probe table as this kernel fills it. Nothing stays attached.
#[must_use]
pub fn examine() -> Vec<Probe> {
    // A network namespace of its own has a loopback interface that carries nobody's packets.
    let examined = std::thread::spawn(|| {
        let own_namespace = unshare(CloneFlags::CLONE_NEWNET);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async { examine_here(own_namespace.is_ok()) }).map_err(io::Error::other)
    })
    .join();
    match examined {
        Ok(Ok(probes)) => probes,
        Ok(Err(error)) => vec![wire(Err(with_causes(&error)))],
        Err(_) => vec![wire(Err("the examination panicked".into()))],
    }
}

fn examine_here(may_attach: bool) -> Result<Vec<Probe>, KernelError> {
    let mut kernel = Kernel::load(&Settings::default())?;
    let attached = if may_attach {
        kernel.attach("lo", 1, false, 0).map(Some).map_err(|error| with_causes(&error))
    } else {
        Ok(None)
    };
    let mut probes = vec![wire(attached)];
    probes.extend_from_slice(kernel.probes());
    Ok(probes)
}

fn wire(attached: Result<Option<AttachMode>, String>) -> Probe {
    let mut probe = Probe {
        name: WIRE.into(),
        observes: "every packet of the migration's flows, as it is on the wire".into(),
        status: ProbeStatus::Ok,
        hook: Some("tcx".into()),
        lost: None,
        note: None,
        why: None,
    };
    match attached {
        Ok(Some(AttachMode::Tcx)) => {}
        Ok(Some(AttachMode::Clsact)) => {
            probe.status = ProbeStatus::Fallback;
            probe.hook = Some("clsact".into());
            probe.note = Some("`migtrace cleanup` removes the filters that a killed migtrace leaves".into());
            probe.why = Some("TCX links came with Linux 6.6".into());
        }
        Ok(None) => {
            probe.hook = None;
            probe.note =
                Some("loaded, but not attached: no network namespace could be made to try it in".into());
        }
        Err(why) => {
            probe.status = ProbeStatus::Missing;
            probe.hook = None;
            probe.lost = Some("everything: no packet can be counted".into());
            probe.why = Some(why);
        }
    }
    probe
}
