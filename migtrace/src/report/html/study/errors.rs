//! By how much the old method is off: bars to the left of 0 where it says too little, to the right where it says too much.

use maud::{Markup, html};

use super::super::chart::{Axis, Chart, Legend, chart, signs};
use super::super::place;
use super::super::scale::Scale;
use super::super::shapes::{Form, Item};
use super::data;
use super::grouped::{Shown, groups, quantity, range, values};
use crate::report::study::numbers::{difference, short_difference};
use crate::report::study::tables::titled;
use crate::study::answer::{Answer, Figure, Place, Summary};

const ERRORS: [(&str, Figure); 4] = [
    ("Lost pings times their interval, less the reachability gap", Figure::PingLessReachability),
    ("Lost pings times their interval, less the stop", Figure::PingLessStop),
    ("The byte meter, less the bytes on the wire", Figure::MeterLessWire),
    ("The driver's own time, less the migration time", Figure::DriverLessTotal),
];

pub(super) fn charts(answer: &Answer) -> Markup {
    html! {
        @for (title, figure) in ERRORS {
            @if answer.knows(figure) {
                @for table in answer.tables() { (one(answer, title, figure, &table)) }
            }
        }
    }
}

fn one(answer: &Answer, heading: &str, figure: Figure, table: &Place) -> Markup {
    let unit = figure.unit();
    let ends = |of: &Summary| {
        let median = of.median;
        [Some(of.smallest), Some(of.largest), median.low, median.high].into_iter().flatten().map(place)
    };
    let all: Vec<f64> = answer.cells.iter().filter_map(|cell| cell.get(figure)).flat_map(ends).collect();
    let (least, most) = (all.iter().copied().fold(0.0, f64::min), all.iter().copied().fold(0.0, f64::max));
    let scale = Scale::around_zero(quantity(unit), least, most);
    let lanes = groups(answer, table, |shown| {
        let lane = shown.figure(figure).map(|(pointer, of)| {
            let said = format!("{}: off by {}", shown.label, difference(unit, &of.median));
            shown.lane(short_difference(unit, &of.median), items(shown, of, said, pointer, &scale))
        });
        vec![lane.unwrap_or_else(|| shown.unknown(&scale))]
    });
    chart(&Chart {
        title: titled(answer, heading, table),
        about: "Medians. Left of 0 the old method says too little, right of it too much. The table has all numbers."
            .to_owned(),
        axis: Axis { scale, origin: 0.0, name: "off by".to_owned() },
        legend: signs(&lanes, Legend::Median),
        lanes,
        table: values(answer, figure, table),
    })
}

/// A bar from 0 to the median, where it may lie if nothing bounds it, and the range of the runs.
fn items(shown: &Shown<'_>, of: &Summary, tip: String, pointer: String, scale: &Scale) -> Vec<Item> {
    let median = of.median;
    let (value, tone) = (place(median.value), shown.tone);
    let bar = Item {
        from: value.min(0.0),
        to: value.max(0.0),
        tone,
        tip,
        data: data(pointer, &median),
        ..Item::default()
    };
    let ends = [median.low.map_or(scale.from(), place), median.high.map_or(scale.to(), place)];
    let is_open = median.low.is_none() || median.high.is_none();
    let open =
        is_open.then(|| Item { from: ends[0], to: ends[1], form: Form::Hatched, tone, ..Item::default() });
    std::iter::once(bar).chain(open).chain(range(of)).collect()
}
