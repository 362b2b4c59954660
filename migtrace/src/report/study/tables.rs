//! The figures of the cells.

use super::grid::Grid;
use super::numbers::{reading, spread};
use super::words::{label, short_title, title};
use crate::report::content::{NONE, Piece, Section, UNKNOWN, said};
use crate::report::quantities::Bounded;
use crate::study::answer::{Answer, Cell, Figure, Place, Summary, TitledValue};

/// What a study is about in the first place.
pub(in crate::report) const MAIN_FIGURES: [Figure; 3] = [Figure::TotalTime, Figure::Stop, Figure::WireBytes];

/// A table for each of them that is known, in the layout of the study.
pub(in crate::report) fn in_layout(answer: &Answer) -> Vec<Section> {
    let known = MAIN_FIGURES.iter().filter(|figure| answer.knows(**figure));
    let tables = known.flat_map(|figure| {
        let of = move |table: &Place| {
            of_figure(answer, *figure, table).section(&titled(answer, title(*figure), table))
        };
        answer.tables().into_iter().filter_map(move |table| of(&table))
    });
    let tables: Vec<_> = tables.collect();
    if tables.is_empty() {
        return tables;
    }
    let how = "Each cell: the median within its bounds; the smallest and the largest; of how many runs";
    std::iter::once(Section::untitled(vec![Piece::Space, said("", how)])).chain(tables).collect()
}

/// The heading of a table that may be one of several.
pub(in crate::report) fn titled(answer: &Answer, title: &str, table: &Place) -> String {
    match &label(answer, table)[..] {
        "" => title.to_owned(),
        place => format!("{title}: {place}"),
    }
}

/// Stands for a cell without a run that counts.
pub(in crate::report) const NO_RUN: &str = "no run";

/// The most columns that have room for a median beside its bounds.
const MOST_WIDE: usize = 3;

fn of_figure(answer: &Answer, figure: Figure, table: &Place) -> Grid {
    let median = |of: &Summary| {
        let number = reading(figure.unit(), &of.median);
        if answer.columns().len() > MOST_WIDE { number.lines() } else { vec![number.to_string()] }
    };
    laid_out(answer, table, |place| match answer.cell(place) {
        None => NONE.to_owned(),
        Some(cell) if cell.runs.is_empty() => NO_RUN.to_owned(),
        Some(cell) => match cell.get(figure) {
            None => UNKNOWN.to_owned(),
            Some(of) => {
                let spread = spread(figure.unit(), of, cell.runs.len());
                median(of).into_iter().chain(spread).collect::<Vec<_>>().join("\n")
            }
        },
    })
}

/// A table in the layout of the study.
pub(super) fn laid_out(answer: &Answer, table: &Place, cell: impl Fn(&Place) -> String) -> Grid {
    let called = |value: Option<&TitledValue>| value.map_or(String::new(), |value| value.title.clone());
    let axes = [&answer.layout.rows, &answer.layout.columns].into_iter().flatten();
    let axes = axes.filter_map(|name| answer.axis(name)).map(|axis| axis.title.as_str());
    let columns = answer.columns();
    let row = |row: Option<&TitledValue>| {
        let cells = columns.iter().map(|column| cell(&answer.place(table, row, *column)));
        (called(row), cells.collect())
    };
    Grid {
        corner: axes.collect::<Vec<_>>().join(" / "),
        columns: columns.iter().map(|column| called(*column)).collect(),
        rows: answer.rows().into_iter().map(row).collect(),
    }
}

/// The other figures, one row for each cell.
pub(in crate::report) fn others(answer: &Answer) -> Vec<Section> {
    let groups: [(&str, &[Figure]); 3] = [
        (
            "Gaps, and how well the guest answered otherwise (medians)",
            &[Figure::StopShare, Figure::Network, Figure::Reachability, Figure::Tail, Figure::WorstRoundTrip],
        ),
        ("What crossed the wire (medians)", &[Figure::MemoryBytes, Figure::DiskBytes, Figure::PayloadBytes]),
        (
            "Setup, passes, and what was sent again (medians)",
            &[Figure::SetupTime, Figure::Passes, Figure::RetransmittedSegments, Figure::RetransmittedBytes],
        ),
    ];
    groups.into_iter().filter_map(|(title, figures)| of_figures(answer, figures).section(title)).collect()
}

/// A table with a row for each cell that has runs, and a column for each figure that is known.
fn of_figures(answer: &Answer, figures: &[Figure]) -> Grid {
    let known: Vec<Figure> = figures.iter().copied().filter(|figure| answer.knows(*figure)).collect();
    let columns = known.iter().map(|figure| short_title(*figure).to_owned()).collect();
    let row = |cell: &Cell| {
        let medians = known.iter().map(|figure| median(cell, *figure));
        medians.map(|median| one_of(known.len(), median)).collect()
    };
    by_cell(answer, with_runs(answer), columns, row)
}

/// A table with a row for each of these cells.
pub(super) fn by_cell<'a>(
    answer: &Answer,
    cells: impl Iterator<Item = &'a Cell>,
    columns: Vec<String>,
    row: impl Fn(&Cell) -> Vec<String>,
) -> Grid {
    Grid {
        corner: "Cell".to_owned(),
        columns,
        rows: cells.map(|cell| (label(answer, &cell.at), row(cell))).collect(),
    }
}

/// The median of a figure within its bounds.
pub(super) fn median(cell: &Cell, figure: Figure) -> Bounded {
    cell.get(figure).map_or_else(|| Bounded::alone(UNKNOWN), |of| reading(figure.unit(), &of.median))
}

/// The most columns, beside the names of the cells, that have room for bounds beside their numbers.
const MOST_BESIDE: usize = 4;

/// A number in one of so many columns.
pub(super) fn one_of(columns: usize, number: Bounded) -> String {
    if columns > MOST_BESIDE { number.lines().join("\n") } else { number.to_string() }
}

pub(super) fn with_runs(answer: &Answer) -> impl Iterator<Item = &Cell> {
    answer.cells.iter().filter(|cell| !cell.runs.is_empty())
}
