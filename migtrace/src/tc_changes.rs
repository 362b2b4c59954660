//! What a report says of TC programs that somebody else removed, or put behind others.

use std::io;

use crate::event::{Fact, TcRemoved};
use crate::kernel::{Change, ChangeNews};
use crate::vocabulary::{AttachMode, NotMeasured};

/// What is not measured when the kernel does not list the programs of an interface.
pub(crate) fn cannot_look(error: &io::Error) -> NotMeasured {
    NotMeasured {
        what: "whether somebody removes migtrace's TC programs".into(),
        why: format!("the kernel does not list what is attached: {error}"),
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
                         ingress` and `egress`; TCX (Linux 6.6 and later) runs before all filters"
                    ),
                },
            }),
        }
    }
}
