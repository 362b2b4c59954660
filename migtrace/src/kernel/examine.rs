//! What works on this kernel: tried by loading and attaching everything.

use std::io;

use nix::sched::{CloneFlags, unshare};

use super::{Kernel, KernelError, Settings};
use crate::errors::with_causes;
use crate::event::{Instrument, InstrumentStatus};
use crate::vocabulary::AttachMode;

/// The name of the instrument without which nothing can be measured.
pub const WIRE: &str = "wire";

/// Every instrument, with its status on this kernel. Nothing stays attached.
#[must_use]
pub fn examine() -> Vec<Instrument> {
    // A network namespace of its own has a loopback interface that carries nobody's packets.
    let examined = std::thread::spawn(|| {
        let own_namespace = unshare(CloneFlags::CLONE_NEWNET);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        runtime.block_on(async { examine_here(own_namespace.is_ok()) }).map_err(io::Error::other)
    })
    .join();
    match examined {
        Ok(Ok(instruments)) => instruments,
        Ok(Err(error)) => vec![wire(Err(with_causes(&error)))],
        Err(_) => vec![wire(Err("the examination panicked".into()))],
    }
}

fn examine_here(may_attach: bool) -> Result<Vec<Instrument>, KernelError> {
    let mut kernel = Kernel::load(&Settings::default())?;
    let attached = if may_attach {
        kernel.attach("lo", 1, false, 0).map(Some).map_err(|error| with_causes(&error))
    } else {
        Ok(None)
    };
    let mut instruments = vec![wire(attached)];
    instruments.extend_from_slice(kernel.instruments());
    Ok(instruments)
}

fn wire(attached: Result<Option<AttachMode>, String>) -> Instrument {
    let mut instrument = Instrument {
        name: WIRE.into(),
        observes: "every packet of the migration's flows, as it is on the wire".into(),
        status: InstrumentStatus::Ok,
        hook: Some("tcx".into()),
        lost: None,
        note: None,
        why: None,
    };
    match attached {
        Ok(Some(AttachMode::Tcx)) => {}
        Ok(Some(AttachMode::Clsact)) => {
            instrument.status = InstrumentStatus::Fallback;
            instrument.hook = Some("clsact".into());
            instrument.note =
                Some("`migtrace cleanup` removes the filters that a killed migtrace leaves behind".into());
            instrument.why = Some("TCX links need Linux 6.6 or later".into());
        }
        Ok(None) => {
            instrument.hook = None;
            instrument.note = Some(
                "the programs load; attaching was not tried, for lack of a network namespace of its own"
                    .into(),
            );
        }
        Err(why) => {
            instrument.status = InstrumentStatus::Missing;
            instrument.hook = None;
            instrument.lost = Some("everything: no packet can be counted".into());
            instrument.why = Some(why);
        }
    }
    instrument
}
