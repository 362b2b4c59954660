//! Traced processes, and what belongs to each of them.

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::shared_values::shared_values;
use crate::word::Word;

/// How many processes can be traced.
pub const TRACED_MAX: usize = 1024;

/// How many flows of one process can be added up: multifd has 255 channels at most.
pub const FLOW_CLAIMS: u32 = 384;

/// How many vCPUs of one process can be looked at.
pub const VCPU_CLAIMS: u32 = 512;

/// Something that belongs to a process: flows and vCPUs have claims of their own.
///
/// The claims of a process are numbered from 0, so that its flows can be found without a walk through those of other
/// processes. Numbers in between may be free again.
#[derive(Clone, Copy, Debug, Eq, FromBytes, Hash, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct Claim {
    /// The process.
    pub tgid: u32,
    /// Which one of its claims.
    pub number: u32,
}

/// Takes note of a claim `number`: `claims` is above the number of every claim.
#[inline(always)]
pub fn reach(claims: &Word<u32>, number: u32) {
    // Another CPU may do the same at the same time. Then the limit is a little too high, which costs some futile
    // lookups.
    let below = claims.get();
    if number >= below {
        claims.add(number + 1 - below);
    }
}

shared_values! {
    /// The state of a traced process.
    pub struct Process {
        /// The budget for the QMP lines that it writes: see [`LINES`](crate::budget::LINES).
        pub lines: U64,
        /// How many lines were dropped because there was no budget for them.
        pub dropped_lines: U64,
        /// The descriptor, plus one, to which it has written lines of an event but not yet the last; 0: none.
        pub inside_event: U32,
        /// The memory slot with which its latest round of reading KVM's log of dirtied pages began.
        pub round_slot: U32,
        /// When that round began; 0: there was none.
        pub round_ns: U64,
        /// All its claims to flows have numbers below this.
        pub flow_claims: U32,
        /// All its claims to vCPUs have numbers below this.
        pub vcpu_claims: U32,
    }
}
