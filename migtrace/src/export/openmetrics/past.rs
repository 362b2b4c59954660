//! Past migrations, with their times.

use super::gauges;
use super::text::{Dialect, written};
use crate::record::Record;

/// A record does not know when its migration was.
#[derive(Debug, thiserror::Error)]
#[error("the record of {vm} has no wall time, so there is no place for it in a database of times")]
pub struct NoWallTime {
    vm: String,
}

/// The gauges of past migrations at the times at which they ended, as OpenMetrics: what
/// `promtool tsdb create-blocks-from openmetrics` takes.
///
/// # Errors
/// When a record does not know its wall time.
pub fn past(records: &[Record]) -> Result<String, NoWallTime> {
    let with_time = records.iter().map(|record| {
        let ended_ns = ended_ns(record).ok_or_else(|| NoWallTime { vm: record.vm.shown_name() })?;
        Ok((gauges::of(record, ended_ns), ended_ns))
    });
    let migrations = with_time.collect::<Result<Vec<_>, _>>()?;
    let migrations = migrations.iter().map(|(gauges, ended_ns)| (gauges.as_slice(), Some(*ended_ns)));
    Ok(written(&gauges::families(migrations), Dialect::OpenMetrics))
}

/// The wall time of the end, or of the last phase that was seen.
pub(super) fn ended_ns(record: &Record) -> Option<i64> {
    let start_ns = record.start.realtime_ns?;
    let total = record.total_time.as_ref().map(|total| i64::try_from(total.value_ns).unwrap_or(i64::MAX));
    let last = record.phases.last().map(|phase| phase.end_ns);
    Some(start_ns.saturating_add(total.or(last).unwrap_or(0)))
}
