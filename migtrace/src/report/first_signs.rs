//! What was seen of the guest first, once it ran again.

use super::content::{Column, Piece, Section, clean, left, right, side, table};
use super::quantities::estimate;
use crate::record::{Downtime, FirstSign, Mark, MarkName, Vantage};

const COLUMNS: [Column<FirstSign>; 3] = [
    left("Sign", |sign| clean(sign.name.as_str())),
    left("Side", |sign| side(sign.role).to_owned()),
    right("After", |sign| estimate(&sign.after)),
];

/// None where none was seen.
pub(super) fn section(downtime: &Downtime) -> Option<Section> {
    let is_run = |mark: &Mark| mark.name == MarkName::FirstVcpuRun && mark.role == Vantage::Destination;
    let since = if downtime.marks.iter().any(is_run) { "the first vCPU ran" } else { "it was resumed" };
    let title = format!("First signs of the guest, after {since}");
    let signs = &downtime.first_signs;
    (!signs.is_empty()).then(|| Section::titled(title, vec![Piece::Table(table(&COLUMNS, signs))]))
}
