//! What QEMU was doing.

use super::notes::{known, note, traffic};
use super::{Content, Slice, Track};
use crate::record::{Phase, PhaseName, Record};
use crate::terminal::clean;
use crate::units::Directions;

/// The phases; the passes lie within the phase that has them.
pub(super) fn track(record: &Record, end_ns: i64) -> Option<Track> {
    let shown: Vec<_> = record.phases.iter().filter(|phase| is_shown(phase, end_ns)).collect();
    let slices: Vec<_> =
        shown.chunk_by(|a, b| a.name == b.name && a.pass.is_some() && b.pass.is_some()).map(slice).collect();
    (!slices.is_empty()).then(|| Track { name: "phases".to_owned(), content: Content::Slices(slices) })
}

/// A destination may have listened for hours: that would leave no room for the migration.
fn is_shown(phase: &Phase, end_ns: i64) -> bool {
    phase.name != PhaseName::Listening || phase.start_ns.saturating_neg() <= end_ns
}

/// For how long a destination listened, if that is not shown.
pub(super) fn listened_ns(record: &Record, end_ns: i64) -> Option<i64> {
    let hidden = record.phases.iter().find(|phase| !is_shown(phase, end_ns))?;
    Some(hidden.end_ns.saturating_sub(hidden.start_ns))
}

fn slice(passes: &[&Phase]) -> Slice {
    let (first, last) = (passes[0], passes[passes.len() - 1]);
    let name = clean(first.name.as_str()).into_owned();
    if first.pass.is_none() {
        return Slice::new(
            name,
            first.start_ns,
            first.end_ns,
            first.traffic.iter().flat_map(traffic).collect(),
        );
    }
    // What crossed in all of them is known if it is known of each.
    let crossed = passes.iter().map(|pass| pass.traffic).try_fold(Directions::default(), |mut sum, each| {
        sum += each?;
        Some(sum)
    });
    let mut notes = vec![note("passes", passes.len() as u64)];
    notes.extend(crossed.iter().flat_map(traffic));
    let mut slice = Slice::new(name, first.start_ns, last.end_ns, notes);
    slice.inner = passes.iter().map(|phase| pass(phase)).collect();
    slice
}

fn pass(phase: &Phase) -> Slice {
    let name = phase.pass.map(|pass| format!("pass {pass}")).unwrap_or_default();
    let mut notes: Vec<_> = known("pass", phase.pass).into_iter().collect();
    notes.extend(phase.traffic.iter().flat_map(traffic));
    Slice::new(name, phase.start_ns, phase.end_ns, notes)
}
