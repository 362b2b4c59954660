//! What user space asks of the programs.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::FlowKey;

/// A request of user space to the program `migtrace_control`. That program is attached nowhere: user space runs it by
/// `BPF_PROG_TEST_RUN`, with an Ethernet header and these bytes as the packet. So only programs write to what
/// programs count.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct Command {
    /// One of [`command`].
    pub command: u32,
    /// A process.
    pub tgid: u32,
    /// [`FlowEntry::opened_ns`](super::FlowEntry::opened_ns) of the flow: another connection with the same key has
    /// another.
    pub opened_ns: u64,
    /// The flow.
    pub key: FlowKey,
    /// Zero.
    pub padding: u32,
    /// The sequence numbers of the connection's SYNs: `[INGRESS, EGRESS]`.
    pub initial_sequences: [u32; 2],
    /// How far its streams had got when the programs began to count it, or later: `[INGRESS, EGRESS]`.
    pub positions: [u64; 2],
}

/// Values of [`Command::command`]. The program returns 1 on success, else 0.
pub mod command {
    /// Start to count a connection that is open already. 1: it has an entry now.
    pub const ADOPT: u32 = 1;
    /// The flow belongs to `tgid`.
    pub const OWN: u32 = 2;
    /// Stop looking for the flow's owner.
    pub const SETTLE: u32 = 3;
    /// Stop counting the flow, so that its counters are final.
    pub const RETIRE: u32 = 4;
    /// Remove the entry of a flow that was retired before.
    pub const REMOVE: u32 = 5;
    /// Nothing belongs to `tgid` any more.
    pub const DISOWN: u32 = 6;
    /// Begin the milestones of a flow whose first packets were not seen, but whose opening was noted: `initial_sequences` and
    /// `positions` are known. 1: both streams have some now.
    pub const BEGIN_MILESTONES: u32 = 7;
}
