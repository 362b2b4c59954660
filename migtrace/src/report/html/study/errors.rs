//! By how much the old method is off: bars to the left of 0 where it says too little, to the right where it says too much.

use maud::{Markup, html};

use super::super::chart::{Axis, Cell as TableCell, Chart, LOW, Lane, Legend, Rows, chart, words};
use super::super::scale::Scale;
use super::super::shapes::{Data, Form, Item};
use super::grouped::{groups, name, none, quantity, tone, unknown};
use super::{data, headings, numbers, place};
use crate::report::study::numbers::{difference, short_difference};
use crate::report::study::tables::titled;
use crate::report::study::words::label;
use crate::study::answer::{Answer, Cell, Figure, Place, Summary};

const ERRORS: [(&str, Figure); 4] = [
    ("Lost pings times their interval, less the reachability gap", Figure::PingLessReachability),
    ("Lost pings times their interval, less the stop", Figure::PingLessStop),
    ("The byte meter, less the bytes on the wire", Figure::MeterLessWire),
    ("The driver's own time, less the migration time", Figure::DriverLessTotal),
];

pub(super) fn charts(answer: &Answer) -> Markup {
    let known = |figure: Figure| answer.cells.iter().any(|cell| cell.get(figure).is_some());
    html! {
        @for (title, figure) in ERRORS {
            @if known(figure) { @for table in answer.tables() { (one(answer, title, figure, &table)) } }
        }
    }
}

fn one(answer: &Answer, heading: &str, figure: Figure, table: &Place) -> Markup {
    let ends = |of: &Summary| {
        let median = of.median;
        [Some(of.smallest), Some(of.largest), median.low, median.high].into_iter().flatten().map(place)
    };
    let all: Vec<f64> = answer.cells.iter().filter_map(|cell| cell.get(figure)).flat_map(ends).collect();
    let (least, most) = (all.iter().copied().fold(0.0, f64::min), all.iter().copied().fold(0.0, f64::max));
    let scale = Scale::around_zero(quantity(figure.unit()), least, most);
    let lanes = groups(answer, table, |index, row| {
        let cell = &answer.cells[index];
        let at = cell.figures.iter().position(|of| of.figure == figure);
        let place_of = label(answer, &cell.at);
        let items = at.map_or_else(
            || vec![unknown(&scale, &place_of, none(cell))],
            |at| {
                let of = &cell.figures[at].summary;
                bar(&place_of, figure, format!("/cells/{index}/figures/{at}"), of, tone(row.0), &scale)
            },
        );
        let value =
            cell.get(figure).map(|of| short_difference(figure.unit(), &of.median)).unwrap_or_default();
        vec![Lane { name: name(answer, index, row), value, height: LOW, items, ..Lane::default() }]
    });
    chart(&Chart {
        title: titled(answer, heading, table),
        about: "Medians. Left of 0 the old method says too little, right of it too much. The table has all numbers."
            .to_owned(),
        axis: Axis { scale, origin: 0.0, name: "off by".to_owned() },
        lanes,
        legend: vec![Legend::Range],
        table: values(answer, figure, table),
    })
}

fn bar(
    place_of: &str,
    figure: Figure,
    pointer: String,
    of: &Summary,
    tone: &'static str,
    scale: &Scale,
) -> Vec<Item> {
    let median = of.median;
    let value = place(median.value);
    let item =
        |from, to, form, tip: String, data| Item { from, to, form, tone, tip, data, label: String::new() };
    let said = format!("{place_of}: off by {}", difference(figure.unit(), &median));
    // Where nothing bounds it, it may be anywhere to that side.
    let ends = [median.low.map_or(scale.from(), place), median.high.map_or(scale.to(), place)];
    let is_open = median.low.is_none() || median.high.is_none();
    let mut items = vec![item(value.min(0.0), value.max(0.0), Form::Span, said, data(pointer, &median))];
    if is_open {
        items.push(item(ends[0], ends[1], Form::Hatched, String::new(), Data::default()));
    }
    if of.smallest != of.largest {
        items.push(item(place(of.smallest), place(of.largest), Form::Range, String::new(), Data::default()));
    }
    items
}

fn values(answer: &Answer, figure: Figure, table: &Place) -> Rows {
    let is_of = |cell: &Cell| table.iter().all(|(axis, value)| cell.at.get(axis) == Some(value));
    let rows = answer.cells.iter().enumerate().filter(|(_, cell)| is_of(cell)).filter_map(|(index, cell)| {
        let at = cell.figures.iter().position(|of| of.figure == figure)?;
        let mut row: Vec<TableCell> = vec![words(label(answer, &cell.at))];
        row.extend(numbers(
            &format!("/cells/{index}/figures/{at}"),
            figure.unit(),
            &cell.figures[at].summary,
        ));
        Some(row)
    });
    Rows { headings: headings(["Cell"], figure.unit()), rows: rows.collect() }
}
