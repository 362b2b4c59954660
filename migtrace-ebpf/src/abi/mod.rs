//! Keys, counters and events as they cross the border between the kernel and user space: `repr(C)`, no padding, no
//! enum and no bool.
//!
//! User space reads these bytes as the kernel wrote them. So every pattern of bits must be a valid value.

mod control;
mod echo;
mod event;
mod flow;
mod kvm;
pub mod lost;
mod opening;
mod process;
mod qmp;
mod settings;
mod shared_values;
mod tap;

pub use control::{Command, command};
pub use echo::{
    ANY_IDENTIFIER, ECHO_SEQUENCES, ECHO_SESSIONS, EchoGap, EchoGapEvent, EchoKey, EchoSession, EchoTarget,
};
pub use event::{EventHeader, kind};
pub use flow::{
    Direction, EGRESS, FlowEntry, FlowEvent, FlowKey, FlowOwned, FlowReplaced, Handshake, HandshakeSide,
    INGRESS, Milestone, MilestonesCrossed, Retransmitted, Sum, Sums, crossed_by, flags,
};
pub use kvm::{DirtyLogRead, GuestRun, GuestRunVoid, Vcpu, Vcpus, inside};
pub use opening::{OPENINGS, Opening, OpeningOffsets, waking};
pub use process::{Claim, FLOW_CLAIMS, Process, TRACED_MAX, VCPU_CLAIMS, reach};
pub use qmp::{QMP_LINE_MAX, QmpLine, content};
pub use settings::{PORT_RANGES, RetransmitOffsets, SocketOffsets, in_range, port_range};
pub use tap::{GUEST_PORTS_MAX, GuestPort, GuestPortEvent, GuestTaps, TAPS, announcement};

/// Values in maps, which several CPUs and user space read and write at once: every access is one to a whole word.
///
/// The types of the same names in [`abi`](super::abi) are their copies: the same bytes, which nobody else reads or
/// writes.
pub mod shared {
    pub use super::echo::shared::{EchoGap, EchoSession};
    pub use super::flow::shared::{Direction, FlowEntry, Handshake, HandshakeSide, Milestone, Retransmitted};
    pub use super::kvm::shared::Vcpu;
    pub use super::process::shared::Process;
    pub use super::tap::shared::GuestPort;
}
