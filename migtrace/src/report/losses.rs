//! What was not measured, and what was lost.

use std::fmt::Write as _;

use super::content::{Piece, Section, alarm, clean};
use super::quantities::grouped;
use crate::vocabulary::{Lost, NotMeasured};

/// None when everything was measured.
pub(super) fn not_measured(entries: &[NotMeasured]) -> Option<Section> {
    let item = |entry: &NotMeasured| Piece::Item(format!("{}: {}", clean(&entry.what), clean(&entry.why)));
    (!entries.is_empty()).then(|| Section::titled("Not measured:", entries.iter().map(item).collect()))
}

/// None when nothing was lost.
pub(super) fn lost(lost: Lost) -> Option<Section> {
    if lost == Lost::default() {
        return None;
    }
    let mut what = format!(
        "{} events (ring buffer full), {} packets (flow table full), {} hook calls",
        grouped(lost.ring_buffer),
        grouped(lost.flows),
        grouped(lost.hook_calls)
    );
    for (count, of) in [(lost.qmp_lines, "QMP lines"), (lost.vcpus, "vCPU runs (vCPU table full)")] {
        if count > 0 {
            let _ = write!(what, ", {} {of}", grouped(count));
        }
    }
    what.push_str("; every figure above is a lower bound");
    Some(Section::untitled(vec![Piece::Space, alarm("Lost: ", what)]))
}
