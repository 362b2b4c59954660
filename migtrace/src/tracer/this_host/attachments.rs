//! Whether the TC programs stay where they were attached, and run before those of others.

use super::interfaces::Interfaces;
use super::taps::Taps;
use crate::event::{Fact, TcProgram};
use crate::kernel::Change;
use crate::tc_changes::cannot_look;
use crate::tracer::base::Base;
use crate::tracer::error::TracerError;
use crate::tracer::queue::now;
use crate::vocabulary::NotMeasured;

/// Reports what somebody else has done to the programs. Those that were removed are attached again.
pub(in crate::tracer) fn look(
    base: &mut Base,
    interfaces: &Interfaces,
    taps: &Taps,
) -> Result<(), TracerError> {
    let looked = base.kernel.look_after_attachments();
    let now = now()?;
    let changes = match looked {
        Ok(changes) => changes,
        Err(error) => {
            let NotMeasured { what, why } = cannot_look(&error);
            base.events.not_measured(now, &what, why);
            return Ok(());
        }
    };
    for change in changes {
        let name = name(&change, interfaces, taps);
        match change.fact(name) {
            Fact::NotMeasured(NotMeasured { what, why }) => base.events.not_measured(now, &what, why),
            fact => base.events.add(now, fact),
        }
    }
    Ok(())
}

fn name(change: &Change, interfaces: &Interfaces, taps: &Taps) -> String {
    let tap = if change.what == TcProgram::Guest { taps.name(change.interface) } else { None };
    tap.map_or_else(|| interfaces.name(change.interface), ToOwned::to_owned)
}
