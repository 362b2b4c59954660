//! Figures that contradict each other.

use serde_json::Value;

use crate::record::{Downtime, Estimate, Outcome, Role};
use crate::timeline::facts::Facts;
use crate::timeline::migration::{Ending, MigrationFacts};
use crate::timeline::wording::spoken;
use crate::vocabulary::Purpose;

/// QEMU reports its times in whole milliseconds.
const REPORTED_STEP_NS: u64 = 1_000_000;

/// QEMU counts some bytes that it does not send: at most one in some thousand, as far as was ever seen. This allows one in so many.
const ALLOWED_ONE_IN: u64 = 100;

/// Figures that cannot both be true. `held_back_ns`: for how long frames may have come from a guest that had stopped.
pub(super) fn between_figures(
    downtime: &Downtime,
    total_time: Option<&Estimate>,
    held_back_ns: u64,
) -> Vec<String> {
    let mut found = Vec::new();
    if let (Some(stop), Some(reachability)) = (&downtime.stop, &downtime.reachability)
        && let Some(high_ns) = reachability.high_ns.filter(|high| *high < stop.low_ns)
    {
        found.push(format!(
            "the guest did not run for at least {}, yet echo requests were answered again after at most {}: \
             something else answers for the guest, or the gap has another cause",
            spoken(stop.low_ns),
            spoken(high_ns)
        ));
    }
    if let (Some(stop), Some(network)) = (&downtime.stop, &downtime.network)
        && let Some(high_ns) = network.high_ns
        && high_ns.saturating_add(held_back_ns) < stop.low_ns
    {
        found.push(format!(
            "the guest did not run for at least {}, yet its tap was silent for only {}: something else sends \
             there",
            spoken(stop.low_ns),
            spoken(high_ns)
        ));
    }
    if let (Some(reported_ns), Some(high_ns)) =
        (downtime.qemu_reported_ns, total_time.and_then(|t| t.high_ns))
        && reported_ns > high_ns.saturating_add(REPORTED_STEP_NS)
    {
        found.push(format!(
            "QEMU reports a downtime of {}, but the whole migration took at most {}",
            spoken(reported_ns),
            spoken(high_ns)
        ));
    }
    found
}

/// Where QEMU's own figures contradict what was seen.
pub(super) fn against_qemu(facts: &Facts, migration: &MigrationFacts<'_>) -> Vec<String> {
    let mut found = Vec::new();
    if let (Ending::Declared(_, said), Some(replied)) = (migration.end, migration.replied_outcome())
        && said != replied
    {
        found.push(format!(
            "QEMU's event says that the migration {}, but its reply to query-migrate says that it {}",
            ended_how(said),
            ended_how(replied)
        ));
    }
    let transferred = migration.reply().and_then(|r| r.pointer("/ram/transferred")).and_then(Value::as_u64);
    let carried = stream_payload_bytes(migration);
    if let (Some(transferred), Some(carried)) = (transferred, carried)
        && migration.outcome(facts.end) == Outcome::Completed
        && transferred.saturating_sub(carried) > carried / ALLOWED_ONE_IN
    {
        found.push(format!(
            "QEMU reports {transferred} B of transferred memory, but its connections carried {carried} B: a connection \
             was not seen, and the bytes are a lower bound"
        ));
    }
    found
}

/// What the connections of the memory stream carried from the source; none when there is no connection, or one was not
/// counted.
fn stream_payload_bytes(migration: &MigrationFacts<'_>) -> Option<u64> {
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
