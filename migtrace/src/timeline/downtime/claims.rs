//! Figures that cannot be true together.

use serde_json::Value;

use super::{NS_PER_MS, spoken};
use crate::record::{Downtime, Estimate, Outcome, Role};
use crate::timeline::facts::Facts;
use crate::timeline::migration::{End, Migration};
use crate::vocabulary::Purpose;

/// QEMU counts some bytes that it does not send; that was never seen to be more than one in some thousand.
const TOLERANCE: u64 = 100;

/// Figures that cannot both be true. `held_back_ns`: for how long frames may have come from a guest that had stopped.
pub(super) fn contradictions(
    downtime: &Downtime,
    total_time: Option<&Estimate>,
    held_back_ns: u64,
) -> Vec<String> {
    let mut found = Vec::new();
    if let (Some(stop), Some(reachability)) = (&downtime.stop, &downtime.reachability)
        && let Some(high_ns) = reachability.high_ns.filter(|high| *high < stop.low_ns)
    {
        found.push(format!(
            "the guest did not run for {} at least, and yet it answered echo requests again after {} at most: \
             somebody else answers for it, or the gap is another one",
            spoken(stop.low_ns),
            spoken(high_ns)
        ));
    }
    if let (Some(stop), Some(network)) = (&downtime.stop, &downtime.network)
        && let Some(high_ns) = network.high_ns
        && high_ns.saturating_add(held_back_ns) < stop.low_ns
    {
        found.push(format!(
            "the guest did not run for {} at least, and yet its tap was silent for {} only: something else sends \
             there",
            spoken(stop.low_ns),
            spoken(high_ns)
        ));
    }
    if let (Some(reported_ns), Some(high_ns)) =
        (downtime.qemu_reported_ns, total_time.and_then(|t| t.high_ns))
        && reported_ns > high_ns.saturating_add(NS_PER_MS)
    {
        found.push(format!(
            "QEMU reports a downtime of {}, more than the whole migration took ({} at most)",
            spoken(reported_ns),
            spoken(high_ns)
        ));
    }
    found
}

/// Where QEMU's own figures cannot be true together with what was seen.
pub(super) fn against(facts: &Facts, migration: &Migration<'_>) -> Vec<String> {
    let mut found = Vec::new();
    if let (End::Declared(_, said), Some(replied)) = (migration.end, migration.replied_outcome())
        && said != replied
    {
        found.push(format!(
            "QEMU's event says that the migration {}, and its reply to query-migrate that it {}",
            ended_how(said),
            ended_how(replied)
        ));
    }
    let transferred = migration.reply().and_then(|r| r.pointer("/ram/transferred")).and_then(Value::as_u64);
    let carried = stream_payload_bytes(migration);
    if let (Some(transferred), Some(carried)) = (transferred, carried)
        && migration.outcome(facts.end) == Outcome::Completed
        && transferred.saturating_sub(carried) > carried / TOLERANCE
    {
        found.push(format!(
            "QEMU says that it transferred {transferred} B of memory, and its connections carried {carried} B: one of \
             them was not seen, and the bytes are a lower bound"
        ));
    }
    found
}

/// What the connections of the memory stream carried from the source; none when there is none, or one of them was not
/// counted.
fn stream_payload_bytes(migration: &Migration<'_>) -> Option<u64> {
    let streams = || migration.flows.iter().filter(|f| f.purpose != Purpose::Nbd);
    streams().next()?;
    streams().try_fold(0u64, |sum, flow| {
        let payload = flow.last.as_ref()?.counters.map(|c| c.payload_bytes);
        Some(sum.saturating_add(if migration.role == Role::Source { payload.tx } else { payload.rx }))
    })
}

const fn ended_how(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "completed",
        Outcome::Failed => "failed",
        Outcome::Cancelled => "was cancelled",
        Outcome::Interrupted | Outcome::Unknown => "ended",
    }
}
