//! The time of day.

use std::time::SystemTime;

/// The wall clock now, in nanoseconds since the Unix epoch. For a name, or for what another program is told: what a record says
/// is derived from the clocks that its events carry.
#[must_use]
pub fn realtime_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
