//! What others have published, beside the measured.

use super::numbers::{ratio, times};
use super::tables::{laid_out, titled};
use super::words::{label, title};
use crate::report::content::{NONE, Section, UNKNOWN, clean, said};
use crate::report::quantities::Bounded;
use crate::study::answer::{Answer, Comparison, Figure, Place, PublishedNumber};

const HOW_TO_READ: &str = "It is from other hardware: compare the shape, not the numbers. Each cell: the published \
    number; that divided by the base's; and the measured number divided by the measured base's.";

/// Who published figures, and how to read them; none if nobody did.
pub(in crate::report) fn heading(answer: &Answer) -> Option<Section> {
    let published = answer.published.as_ref()?;
    let is_none = published.comparisons.is_empty();
    let how = if is_none { "It has figures of none of the cells." } else { HOW_TO_READ };
    let heading = format!("Published beside it: {}", clean(&published.source));
    Some(Section::titled(heading, vec![said("  ", how)]))
}

pub(in crate::report) fn tables(answer: &Answer) -> Vec<Section> {
    let comparisons = answer.published.iter().flat_map(|published| &published.comparisons);
    comparisons.flat_map(|comparison| of(answer, comparison)).collect()
}

fn of(answer: &Answer, comparison: &Comparison) -> Vec<Section> {
    let base = comparison.base.as_ref().map(|base| format!(" (base: {})", label(answer, base)));
    let title = format!("{}, published{}", title(comparison.figure), base.unwrap_or_default());
    let table = |table: &Place| {
        laid_out(answer, table, |place| cell(comparison, place)).section(&titled(answer, &title, table))
    };
    answer.tables().iter().filter_map(table).collect()
}

fn cell(comparison: &Comparison, place: &Place) -> String {
    let number = comparison.cells.iter().find(|number| number.at == *place);
    number.map_or(NONE.to_owned(), |number| lines(comparison.figure, number))
}

/// The number itself, and how many times the base it is; beneath, how many times the base the measured one is, and its bounds.
fn lines(figure: Figure, number: &PublishedNumber) -> String {
    let unit = if figure == Figure::WireBytes { "MB" } else { "s" };
    let published = number.times.map_or(UNKNOWN.to_owned(), times);
    let measured = number.measured_times.as_ref().map_or_else(|| Bounded::alone(UNKNOWN), ratio);
    format!("{} {unit}\n{published} times\nmeasured {}", number.number, measured.lines().join("\n"))
}
