//! Bars in groups: for each column of the study's tables, its rows beside each other.

use maud::{Markup, html};

use super::super::chart::{Axis, Cell as TableCell, Chart, LOW, Lane, Legend, Rows, chart, signs, words};
use super::super::place;
use super::super::scale::{Quantity, Scale};
use super::super::shapes::{Form, Item};
use super::{cells_of, data, headings, numbers};
use crate::report::content::UNKNOWN;
use crate::report::quantities::Bounded;
use crate::report::study::numbers::{short_reading, summary_line};
use crate::report::study::tables::{NO_RUN, titled};
use crate::report::study::words::{label, title};
use crate::study::answer::{Answer, Cell, Figure, Place, Summary, TitledValue, Unit};

/// The colours of the rows, which are also told apart by their names.
const TONES: [&str; 6] = ["t-sent", "t-received", "t-disk", "t-network", "t-part", "t-reach"];

/// A chart of a figure for each table of the study; none where no run knows it.
pub(super) fn charts(answer: &Answer, figure: Figure) -> Markup {
    html! { @if answer.knows(figure) { @for table in answer.tables() { (one(answer, figure, &table)) } } }
}

fn one(answer: &Answer, figure: Figure, table: &Place) -> Markup {
    let unit = figure.unit();
    let most = |cell: &Cell| {
        cell.get(figure).map(|of| place(of.median.high.unwrap_or(of.median.value).max(of.largest)))
    };
    let scale = Scale::from_zero(quantity(unit), answer.cells.iter().filter_map(most).fold(0.0, f64::max));
    let lanes = groups(answer, table, |shown| {
        let lane = shown.figure(figure).map(|(pointer, of)| {
            let said = format!("{}: {}", shown.label, summary_line(unit, of, shown.cell.runs.len()));
            let bar = bar(of, said, pointer, shown.tone);
            shown.lane(short_reading(unit, &of.median), std::iter::once(bar).chain(range(of)).collect())
        });
        vec![lane.unwrap_or_else(|| shown.unknown(&scale))]
    });
    chart(&Chart {
        title: titled(answer, title(figure), table),
        about: "Medians. The table has all numbers.".to_owned(),
        axis: Axis { scale, origin: 0.0, name: String::new() },
        legend: signs(&lanes, Legend::Median),
        lanes,
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

/// A cell of the study where a chart shows it.
pub(super) struct Shown<'a> {
    pub(super) index: usize,
    pub(super) cell: &'a Cell,
    /// Which it is.
    pub(super) label: String,
    /// What its lane is called: as the row of the study's tables, or as the cell if there are no rows.
    name: String,
    /// The colour of its row.
    pub(super) tone: &'static str,
}

impl Shown<'_> {
    pub(super) fn figure(&self, figure: Figure) -> Option<(String, &Summary)> {
        figure_of((self.index, self.cell), figure)
    }

    pub(super) fn lane(&self, value: Bounded, items: Vec<Item>) -> Lane {
        Lane { name: self.name.clone(), value, height: LOW, items, ..Lane::default() }
    }

    /// The lane where there is no number.
    pub(super) fn unknown(&self, scale: &Scale) -> Lane {
        let why = none(self.cell);
        self.lane(Bounded::alone(why), vec![Item::unknown(scale, format!("{}: {why}", self.label), why)])
    }
}

/// The lanes of a table's cells: the name of each column, and its rows beneath.
pub(super) fn groups(
    answer: &Answer,
    table: &Place,
    lanes_of: impl Fn(&Shown<'_>) -> Vec<Lane>,
) -> Vec<Lane> {
    let mut lanes = Vec::new();
    for column in answer.columns() {
        let shown = |(number, row): (usize, Option<&TitledValue>)| {
            let at = answer.place(table, row, column);
            let index = answer.cells.iter().position(|cell| cell.at == at)?;
            let label = label(answer, &at);
            let name = row.map_or_else(|| label.clone(), |row| row.title.clone());
            Some(Shown { index, cell: &answer.cells[index], label, name, tone: TONES[number % TONES.len()] })
        };
        let cells = answer.rows().into_iter().enumerate().filter_map(shown);
        let of_column: Vec<Lane> = cells.flat_map(|shown| lanes_of(&shown)).collect();
        if let Some(column) = column.filter(|_| !of_column.is_empty()) {
            lanes.push(Lane::group(&titled_value(answer, column)));
        }
        lanes.extend(of_column);
    }
    lanes
}

/// `Flavour: t`
fn titled_value(answer: &Answer, column: &TitledValue) -> String {
    let axis = answer.layout.columns.as_ref().and_then(|name| answer.axis(name));
    axis.map_or_else(|| column.title.clone(), |axis| format!("{}: {}", axis.title, column.title))
}

/// What the runs of a cell say of a figure, and where that stands in the answer.
fn figure_of((index, cell): (usize, &Cell), figure: Figure) -> Option<(String, &Summary)> {
    let at = cell.figures.iter().position(|of| of.figure == figure)?;
    Some((format!("/cells/{index}/figures/{at}"), &cell.figures[at].summary))
}

/// Why there is no number.
const fn none(cell: &Cell) -> &'static str {
    if cell.runs.is_empty() { NO_RUN } else { UNKNOWN }
}

/// From 0 to the median.
fn bar(of: &Summary, tip: String, pointer: String, tone: &'static str) -> Item {
    let median = of.median;
    Item {
        from: 0.0,
        to: place(median.value),
        form: Form::Bounded { low: place(median.low.unwrap_or(0)), high: median.high.map(place) },
        tone,
        tip,
        data: data(pointer, &median),
        ..Item::default()
    }
}

/// From the smallest of the runs to the largest, over a bar; none where that is a point.
pub(super) fn range(of: &Summary) -> Option<Item> {
    let (from, to) = (place(of.smallest), place(of.largest));
    (from < to).then(|| Item { from, to, form: Form::Range, ..Item::default() })
}

/// All numbers of a figure.
pub(super) fn values(answer: &Answer, figure: Figure, table: &Place) -> Rows {
    let row = |(index, cell): (usize, &Cell)| {
        let rest: Vec<TableCell> = figure_of((index, cell), figure).map_or_else(
            || vec![TableCell::Amount(none(cell).to_owned())],
            |(of, summary)| numbers(&of, figure.unit(), summary),
        );
        std::iter::once(words(label(answer, &cell.at))).chain(rest).collect()
    };
    let rows = cells_of(answer, table).map(row).collect();
    Rows { headings: headings(["Cell"], figure.unit()), rows }
}
