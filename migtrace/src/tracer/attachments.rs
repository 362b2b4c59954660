//! Whether the TC programs stay where they were attached, and before those of others.

use super::{Tracer, TracerError, host};
use crate::event::{Fact, TcProgram, TcRemoved};
use crate::host::clock;
use crate::kernel::{Change, ChangeNews};
use crate::vocabulary::{AttachMode, NotMeasured};

impl Tracer {
    /// Tells what somebody else has done to the programs; those that were removed are attached again.
    pub(super) fn look_after_attachments(&mut self) -> Result<(), TracerError> {
        let looked = self.kernel.look_after_attachments();
        let now = clock::now().map_err(host("read the clock"))?;
        let changes = match looked {
            Ok(changes) => changes,
            Err(error) => {
                let NotMeasured { what, why } = cannot_look(&error);
                self.tell_not_measured(now, &what, why);
                return Ok(());
            }
        };
        for change in changes {
            let tap = self.taps.get(&change.interface).filter(|_| change.what == TcProgram::Guest);
            let interface =
                tap.map_or_else(|| self.interface_name(change.interface), |tap| tap.interface.clone());
            match change.fact(interface) {
                Fact::NotMeasured(NotMeasured { what, why }) => self.tell_not_measured(now, &what, why),
                fact => self.tell(now, fact),
            }
        }
        Ok(())
    }
}

/// What it means when the kernel does not say what is attached.
pub(crate) fn cannot_look(error: &std::io::Error) -> NotMeasured {
    NotMeasured {
        what: "whether somebody removes migtrace's TC programs".into(),
        why: format!("the kernel does not say what is attached: {error}"),
    }
}

impl Change {
    /// The change as a fact; `interface` is the name of the interface.
    pub(crate) fn fact(self, interface: String) -> Fact {
        match self.news {
            ChangeNews::Removed { last_seen_ns, again } => {
                let (attached_again_ns, why) = match again {
                    Ok(at_ns) => (Some(at_ns), None),
                    Err(why) => (None, Some(why)),
                };
                let program = self.what;
                Fact::TcRemoved(TcRemoved { interface, program, last_seen_ns, attached_again_ns, why })
            }
            ChangeNews::Behind => Fact::NotMeasured(match self.mode {
                AttachMode::Tcx => NotMeasured {
                    what: format!("packets that other TCX programs at {interface} drop or accept"),
                    why: format!(
                        "somebody has attached one before migtrace's; see `bpftool net show dev {interface}`"
                    ),
                },
                AttachMode::Clsact => NotMeasured {
                    what: format!("packets that other filters at {interface} drop or accept"),
                    why: format!(
                        "a filter of somebody else runs before migtrace's; see `tc filter show dev {interface} \
                         ingress` and `egress`; TCX (Linux 6.6 and later) is before all filters"
                    ),
                },
            }),
        }
    }
}
