//! What was not measured, and what was lost.

use std::fmt::Write as _;

use super::layout::{clean, wrap};
use super::quantities::grouped;
use crate::vocabulary::{Lost, NotMeasured};

/// Nothing when everything was measured.
pub(super) fn not_measured(entries: &[NotMeasured], text: &mut String) {
    if entries.is_empty() {
        return;
    }
    text.push_str("\nNot measured:\n");
    for entry in entries {
        wrap(text, "  - ", &format!("{}: {}", clean(&entry.what), clean(&entry.why)));
    }
}

/// Nothing when nothing was lost.
pub(super) fn lost(lost: Lost, text: &mut String) {
    if lost == Lost::default() {
        return;
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
    text.push('\n');
    wrap(text, "Lost: ", &what);
}
