//! Index of each loss counter in the map `LOST`.

/// Events that found the ring buffer full.
pub const RING_BUFFER: u32 = 0;
/// Flows that found the flow table full.
pub const FLOWS: u32 = 1;
/// Events at a hook whose data could not be read.
pub const UNREADABLE: u32 = 2;
/// Packets of echo sessions beyond the number that can be followed at once.
pub const ECHO_SESSIONS: u32 = 3;
/// Flows beyond the number that can belong to one process, or to all.
pub const CLAIMS: u32 = 4;
/// QMP lines for which their process had no budget left.
pub const LINES: u32 = 5;
/// Runs of vCPUs beyond the number that can belong to one process, or to all.
pub const VCPUS: u32 = 6;
/// How many counters there are.
pub const COUNT: usize = 7;
