//! What was seen of the guest first, once it ran again.

use super::layout::{self, Column, clean, left, right, side};
use super::quantities::estimate;
use crate::record::{Downtime, FirstSign, Mark, MarkName, Vantage};

const COLUMNS: [Column<FirstSign>; 3] = [
    left("Sign", |sign| clean(sign.name.as_str())),
    left("Side", |sign| side(sign.role).to_owned()),
    right("After", |sign| estimate(&sign.after)),
];

/// Nothing where none was seen.
pub(super) fn section(downtime: &Downtime, text: &mut String) {
    if downtime.first_signs.is_empty() {
        return;
    }
    let is_run = |mark: &Mark| mark.name == MarkName::FirstVcpuRun && mark.role == Vantage::Destination;
    let since = if downtime.marks.iter().any(is_run) { "the first vCPU ran" } else { "it was resumed" };
    let title = format!("First signs of the guest, after {since}");
    layout::section(text, &title, &layout::table(&COLUMNS, &downtime.first_signs));
}
