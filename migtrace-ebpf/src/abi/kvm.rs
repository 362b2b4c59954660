//! What is seen of VMs at KVM: their vCPUs, and the reading of the log of dirtied pages.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::shared_values::shared_values;
use super::{EventHeader, Sums};

/// The vCPUs of one VM at an instant.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct Vcpus {
    /// Those that were seen to enter or leave KVM.
    pub known: u32,
    /// Of these, those that are in KVM.
    pub inside: u32,
    /// Of those in KVM, those whose first run after a stop has just begun.
    pub starting: u32,
    /// Of the known ones, those that wait for an interrupt in user space.
    pub halted: u32,
    /// When the first of the others left KVM; 0: there are no others.
    pub first_left_ns: u64,
    /// When the last of the others left KVM; 0: there are no others.
    pub last_left_ns: u64,
}

/// A vCPU enters KVM after none of its VM was in it for a while. Emitted for each vCPU that does, because the first
/// one may leave without having run.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct GuestRun {
    /// When, and in which process.
    pub header: EventHeader,
    /// The VM's vCPUs just before.
    pub vcpus: Vcpus,
}

/// Retracts a [`GuestRun`]: the run has ended, and the guest did not run in it.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct GuestRunVoid {
    /// When the run ended, and in which process.
    pub header: EventHeader,
    /// When the run began.
    pub entered_ns: u64,
    /// 1 when it is certain; 0 when the run only looks like that, by its short length and the way it ended.
    pub certain: u64,
}

/// A process begins to read KVM's log of dirtied pages: one pass ends and the next begins.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct DirtyLogRead {
    /// When, and which process.
    pub header: EventHeader,
    /// The sum over this process' flows.
    pub sums: Sums,
}

/// Values of [`Vcpu::inside`].
pub mod inside {
    /// It is in user space.
    pub const NO: u64 = 0;
    /// It is in KVM.
    pub const YES: u64 = 1;
    /// It is in KVM, and this run was reported to user space.
    pub const REPORTED: u64 = 2;
}

shared_values! {
    /// The state of one vCPU. All times are `CLOCK_MONOTONIC`.
    pub struct Vcpu {
        /// When it last entered KVM; 0: not seen.
        pub entered_ns: U64,
        /// When it last left KVM after it had certainly run the guest; 0: not seen.
        pub left_ns: U64,
        /// When it last left KVM; 0: not seen.
        pub exited_ns: U64,
        /// Whether it is in KVM, and whether this run was reported: one of [`inside`]. One word says both, since others read
        /// it while it changes.
        pub inside: U64,
        /// Its process.
        pub tgid: U32,
        /// 1 when it left because the guest halted it, and so waits for an interrupt in user space.
        pub halted: U32,
        /// 1 from its first run after a stop until it has certainly run the guest: `left_ns` is from before the stop.
        pub resuming: U32,
        /// The number of its process' [`Claim`](crate::abi::Claim) to it.
        pub claim: U32,
    }
}
