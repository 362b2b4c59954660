//! Bars in groups: for each column of the study's tables, its rows beside each other.

use maud::{Markup, html};

use super::super::chart::{Axis, Cell as TableCell, Chart, LOW, Lane, Legend, Rows, chart, words};
use super::super::scale::{Quantity, Scale};
use super::super::shapes::{Data, Form, Item};
use super::{data, headings, numbers, place};
use crate::report::content::UNKNOWN;
use crate::report::study::numbers::{short_reading, summary_line};
use crate::report::study::tables::{NO_RUN, titled};
use crate::report::study::words::{label, title};
use crate::study::answer::{Answer, Cell, Figure, Place, Summary, TitledValue, Unit};

/// The colours of the rows, which are also told apart by their names.
const TONES: [&str; 6] = ["t-sent", "t-received", "t-disk", "t-network", "t-part", "t-reach"];

pub(super) const fn tone(row: usize) -> &'static str {
    TONES[row % TONES.len()]
}

/// A chart of a figure for each table of the study; none where no run knows it.
pub(super) fn charts(answer: &Answer, figure: Figure) -> Markup {
    let is_known = answer.cells.iter().any(|cell| cell.get(figure).is_some());
    html! { @if is_known { @for table in answer.tables() { (one(answer, figure, &table)) } } }
}

fn one(answer: &Answer, figure: Figure, table: &Place) -> Markup {
    let most = |cell: &Cell| {
        cell.get(figure).map(|of| place(of.median.high.unwrap_or(of.median.value).max(of.largest)))
    };
    let scale =
        Scale::from_zero(quantity(figure.unit()), answer.cells.iter().filter_map(most).fold(0.0, f64::max));
    let lanes = groups(answer, table, |index, row| lane(answer, figure, index, row, &scale));
    chart(&Chart {
        title: titled(answer, title(figure), table),
        about: "Medians. The table has all numbers.".to_owned(),
        axis: Axis { scale, origin: 0.0, name: String::new() },
        lanes,
        legend: vec![Legend::Certain, Legend::Possible, Legend::Value, Legend::Range, Legend::Unknown],
        table: values(answer, figure, table),
    })
}

pub(super) const fn quantity(unit: Unit) -> Quantity {
    match unit {
        Unit::Ns => Quantity::Time,
        Unit::Bytes => Quantity::Bytes,
        Unit::Count | Unit::Ppm => Quantity::Number,
    }
}

/// A row of the study's tables, and its number.
pub(super) type Row<'a> = (usize, Option<&'a TitledValue>);

/// The lanes of a table's cells: the name of each column, and its rows beneath.
pub(super) fn groups(
    answer: &Answer,
    table: &Place,
    lane: impl Fn(usize, Row<'_>) -> Vec<Lane>,
) -> Vec<Lane> {
    let mut lanes = Vec::new();
    for column in answer.columns() {
        let cells = answer.rows().into_iter().enumerate().filter_map(|row| {
            let at = answer.place(table, row.1, column);
            Some((answer.cells.iter().position(|cell| cell.at == at)?, row))
        });
        let of_column: Vec<Lane> = cells.flat_map(|(index, row)| lane(index, row)).collect();
        if let Some(column) = column.filter(|_| !of_column.is_empty()) {
            lanes.push(Lane { name: column.title.clone(), height: 1, ..Lane::default() });
        }
        lanes.extend(of_column);
    }
    lanes
}

/// What the lane of a row is called: by the row, or by its cell if there are no rows.
pub(super) fn name(answer: &Answer, index: usize, row: Row<'_>) -> String {
    row.1.map_or_else(|| label(answer, &answer.cells[index].at), |row| row.title.clone())
}

fn lane(answer: &Answer, figure: Figure, index: usize, row: Row<'_>, scale: &Scale) -> Vec<Lane> {
    let cell = &answer.cells[index];
    let place_of = label(answer, &cell.at);
    let known = cell.figures.iter().position(|of| of.figure == figure);
    let items = match known {
        Some(at) => {
            let pointer = format!("/cells/{index}/figures/{at}");
            bar(&place_of, figure, pointer, &cell.figures[at].summary, cell.runs.len(), tone(row.0))
        }
        None => vec![unknown(scale, &place_of, none(cell))],
    };
    let value =
        cell.get(figure).map_or_else(|| none(cell).to_owned(), |of| short_reading(figure.unit(), &of.median));
    vec![Lane { name: name(answer, index, row), value, height: LOW, items, ..Lane::default() }]
}

/// Why there is no number.
pub(super) fn none(cell: &Cell) -> &'static str {
    if cell.runs.is_empty() { NO_RUN } else { UNKNOWN }
}

/// A bar from 0 to the median, and the range of the runs over it.
fn bar(
    place_of: &str,
    figure: Figure,
    pointer: String,
    of: &Summary,
    runs: usize,
    tone: &'static str,
) -> Vec<Item> {
    let median = of.median;
    let said = summary_line(figure.unit(), of, runs);
    let bar = Item {
        from: 0.0,
        to: place(median.value),
        form: Form::Bounded { low: place(median.low.unwrap_or(0)), high: median.high.map(place) },
        tone,
        tip: format!("{place_of}: {said}"),
        data: data(pointer, &median),
        label: String::new(),
    };
    let range = Item {
        from: place(of.smallest),
        to: place(of.largest),
        form: Form::Range,
        tone,
        tip: String::new(),
        data: Data::default(),
        label: String::new(),
    };
    if of.smallest == of.largest { vec![bar] } else { vec![bar, range] }
}

/// Nothing is known: the whole lane.
pub(super) fn unknown(scale: &Scale, place_of: &str, why: &str) -> Item {
    Item {
        from: scale.from(),
        to: scale.to(),
        form: Form::Hatched,
        tone: "t-plain",
        tip: format!("{place_of}: {why}"),
        data: Data::default(),
        label: why.to_owned(),
    }
}

/// All numbers of a figure.
fn values(answer: &Answer, figure: Figure, table: &Place) -> Rows {
    let row = |(index, cell): (usize, &Cell)| {
        let name = words(label(answer, &cell.at));
        let at = cell.figures.iter().position(|of| of.figure == figure);
        let rest: Vec<TableCell> = match at {
            Some(at) => {
                numbers(&format!("/cells/{index}/figures/{at}"), figure.unit(), &cell.figures[at].summary)
            }
            None => vec![words(none(cell))],
        };
        std::iter::once(name).chain(rest).collect()
    };
    let is_of = |cell: &&Cell| table.iter().all(|(axis, value)| cell.at.get(axis) == Some(value));
    let cells = answer.cells.iter().enumerate().filter(|(_, cell)| is_of(cell));
    Rows { headings: headings(["Cell"], figure.unit()), rows: cells.map(row).collect() }
}
