//! How each event in a ring buffer begins.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// The start of every event in a ring buffer.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct EventHeader {
    /// When it happened: `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// One of [`kind`].
    pub kind: u32,
    /// Thread group of the process in whose context it happened; 0 in packet context.
    pub tgid: u32,
}

/// Values of [`EventHeader::kind`].
pub mod kind {
    /// [`FlowEvent`](crate::abi::FlowEvent): a flow is open.
    pub const FLOW_SEEN: u32 = 1;
    /// [`FlowOwned`](crate::abi::FlowOwned): `tgid` sends on the flow's socket or has accepted it, or user space
    /// found that.
    pub const FLOW_OWNED: u32 = 2;
    /// [`FlowEvent`](crate::abi::FlowEvent): the first payload of a flow in one direction.
    pub const FLOW_PAYLOAD: u32 = 3;
    /// [`QmpLine`](crate::abi::QmpLine): a QEMU writes an event, or a part of one, to its monitor.
    pub const QMP_LINE: u32 = 4;
    /// Only an [`EventHeader`](super::EventHeader): `tgid` has executed a program. Its name looks like QEMU's, or it
    /// was traced.
    pub const PROCESS_EXEC: u32 = 5;
    /// Only an [`EventHeader`](super::EventHeader): the main thread of `tgid`, a traced process, has ended.
    pub const PROCESS_EXIT: u32 = 6;
    /// [`EchoGapEvent`](crate::abi::EchoGapEvent): a target did not answer echo requests for a while.
    pub const ECHO_GAP: u32 = 7;
    /// [`GuestRun`](crate::abi::GuestRun): a vCPU enters KVM after none of its VM was in it.
    pub const GUEST_RUN: u32 = 8;
    /// [`GuestRunVoid`](crate::abi::GuestRunVoid): retracts a [`GuestRun`](crate::abi::GuestRun).
    pub const GUEST_RUN_VOID: u32 = 9;
    /// [`DirtyLogRead`](crate::abi::DirtyLogRead): a traced process begins to read the log of dirtied pages.
    pub const DIRTY_LOG: u32 = 10;
    /// [`GuestPortEvent`](crate::abi::GuestPortEvent): the first frame since the tap is watched, or since its QEMU
    /// last emitted a QMP event.
    pub const GUEST_FRAME: u32 = 11;
    /// [`GuestPortEvent`](crate::abi::GuestPortEvent): an announcement.
    pub const ANNOUNCEMENT: u32 = 12;
    /// [`FlowReplaced`](crate::abi::FlowReplaced): a new connection between the same ends takes a flow's place.
    pub const FLOW_REPLACED: u32 = 13;
    /// Only an [`EventHeader`](super::EventHeader): `tgid` is a new process. Its parent is traced, or looks like
    /// QEMU.
    pub const PROCESS_FORK: u32 = 14;
    /// [`MilestonesCrossed`](crate::abi::MilestonesCrossed): in a ring buffer of its own.
    pub const MILESTONES_CROSSED: u32 = 15;
    /// Only an [`EventHeader`](super::EventHeader): a connection to a watched port opens, or somebody begins to listen on
    /// one. Reported once each time that user space asks for it.
    pub const CONNECTION_OPENS: u32 = 16;
}
