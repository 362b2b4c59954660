//! By how much the wall clocks of the source and the destination differ: that is part of every figure that somebody has taken
//! from one to the other.

use super::quantities::duration;
use crate::record::{Observer, Record, Vantage};

/// What that means for libvirt's downtime.
pub(super) fn difference(record: &Record) -> String {
    let Some((ahead_ns, error_ns)) = ahead(record) else {
        return "by as much as the wall clocks of the two hosts differ, it is wrong".to_owned();
    };
    let error = duration(error_ns);
    if ahead_ns.unsigned_abs() <= error_ns {
        return format!("the wall clocks of the two hosts, which it relies on, agreed to within {error}");
    }
    let (how, which) = if ahead_ns > 0 { ("too long", "ahead") } else { ("too short", "behind") };
    let by = duration(ahead_ns.unsigned_abs());
    format!("it is {how} by {by} ± {error}, since the destination's wall clock is {which}")
}

/// By how much the destination's wall clock is ahead of the source's, and by how much that may be off; none unless both hosts
/// and their clocks are known.
fn ahead(record: &Record) -> Option<(i64, u64)> {
    let of = |role| record.observers.iter().find(|observer| observer.role == role);
    let (source, destination) = (wall(of(Vantage::Source)?)?, wall(of(Vantage::Destination)?)?);
    let ahead_ns = i64::try_from(destination.0.checked_sub(source.0)?).ok()?;
    Some((ahead_ns, source.1.checked_add(destination.1)?))
}

/// What the wall clock of a host shows when the record's monotonic clock shows 0, and by how much that may be off.
fn wall(observer: &Observer) -> Option<(i128, u64)> {
    let clock = observer.clock?;
    let (offset_ns, error_ns) = match &observer.alignment {
        None => (0, 0),
        Some(alignment) => {
            let offset_ns = alignment.offset_ns?;
            let error_ns = alignment.low_ns?.abs_diff(offset_ns).max(alignment.high_ns?.abs_diff(offset_ns));
            (offset_ns, error_ns)
        }
    };
    Some((i128::from(clock.offset_ns) + i128::from(offset_ns), error_ns.checked_add(clock.error_ns)?))
}
