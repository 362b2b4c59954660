//! Migrations that QEMU does not report: only flows, STOP and RESUME show them.

use crate::record::Role;
use crate::timeline::facts::{Facts, FlowFacts, Process};
use crate::timeline::migration::{Ending, LATE_RESUME_NS, MigrationFacts, Opening, role};
use crate::timeline::transition::{Transition, TransitionKind};
use crate::vocabulary::Purpose;

/// A process's end is known at the latest this long after its connections have closed: where the kernel does not report it,
/// or its report was lost, /proc is read once a second.
pub(super) const DEATH_NOTICED_NS: u64 = 2_000_000_000;

/// The migration of some flows; none without flows.
pub(super) fn migration<'a>(
    facts: &'a Facts,
    process: Option<&'a Process>,
    flows: &[&'a FlowFacts],
    transitions: &[&'a Transition],
    flows_owned: bool,
) -> Option<MigrationFacts<'a>> {
    let start = flows.iter().map(|f| f.first()).min()?;
    let last = flows.iter().map(|f| f.last()).max()?;
    let from = transitions.partition_point(|m| m.at < start);
    let to = transitions.partition_point(|m| m.at <= last).max(from);
    let is_of_guest = |transition: &&Transition| transition.is_of_guest();
    let next =
        transitions[to..].iter().copied().find(is_of_guest).filter(|m| m.kind == TransitionKind::Resume);
    let mut transitions: Vec<_> = transitions[from..to].iter().copied().filter(is_of_guest).collect();
    if !transitions.iter().any(|m| m.kind == TransitionKind::Resume) {
        transitions.extend(next.filter(|m| m.at.0 <= last.0.saturating_add(LATE_RESUME_NS)));
    }
    if let Some(process) = process {
        transitions.extend(process.dirty_logs.between(start, last).map(|(_, transition)| transition));
    }
    transitions.sort_by_key(|m| m.at);
    let role = role(&transitions, flows, process, false);
    let streams = || flows.iter().filter(|f| f.purpose != Purpose::Nbd);
    let handed_over = match role {
        Role::Source => transitions.iter().any(|m| m.kind == TransitionKind::Stop),
        Role::Destination => transitions.iter().any(|m| m.kind == TransitionKind::Resume),
    };
    let end = match process.and_then(|p| p.gone) {
        // The death of the process closed the streams; the migration had not ended.
        Some(gone)
            if facts.hears_qemu()
                && !handed_over
                && gone >= start
                && gone.0 <= last.0.saturating_add(DEATH_NOTICED_NS) =>
        {
            Ending::Died(gone.max(last))
        }
        _ if streams().next().is_some() && streams().all(|f| f.closed()) => Ending::Closed(last),
        Some(gone) if gone >= start => Ending::Died(gone.max(last)),
        _ => Ending::Open(facts.latest.max(last)),
    };
    Some(MigrationFacts {
        flows_owned,
        opening: Opening::Transfer,
        start,
        start_seen: flows.iter().all(|f| f.is_whole()),
        end,
        ..MigrationFacts::new(process, role, transitions, flows.to_vec())
    })
}
