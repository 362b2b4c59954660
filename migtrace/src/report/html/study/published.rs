//! Published figures beside the measured, each as how many times that of one cell it is: their shapes can be compared.

use maud::{Markup, html};

use super::super::chart::{Axis, Chart, Lane, Legend, Rows, chart, signs};
use super::super::scale::{Quantity, Scale};
use super::super::shapes::{Data, Form, Item};
use super::grouped::{Shown, groups};
use crate::report::content::UNKNOWN;
use crate::report::quantities::Bounded;
use crate::report::study::numbers::{ratio, times};
use crate::report::study::tables::titled;
use crate::report::study::words::{label, title};
use crate::study::answer::{Answer, Comparison, Place, PublishedNumber};

/// The colour of what was published, in all rows.
const PUBLISHED: &str = "t-plain";

pub(super) fn charts(answer: &Answer) -> Markup {
    let comparisons = answer.published.iter().flat_map(|published| &published.comparisons).enumerate();
    html! {
        @for (at, comparison) in comparisons {
            @if let Some(base) = &comparison.base {
                @for table in answer.tables() { (one(answer, at, comparison, base, &table)) }
            }
        }
    }
}

fn one(answer: &Answer, at: usize, comparison: &Comparison, base: &Place, table: &Place) -> Markup {
    let most = |number: &PublishedNumber| {
        let measured = number.measured_times.map(|ratio| ratio.high.unwrap_or(ratio.value));
        [number.times, measured].into_iter().flatten().fold(0.0, f64::max)
    };
    let scale = Scale::from_zero(Quantity::Number, comparison.cells.iter().map(most).fold(0.0, f64::max));
    let lanes = groups(answer, table, |shown| {
        let Some(number) = comparison.cells.iter().position(|number| number.at == shown.cell.at) else {
            return Vec::new();
        };
        let pointer = format!("/published/comparisons/{at}/cells/{number}");
        lanes_of(shown, &comparison.cells[number], &pointer, &scale).into()
    });
    chart(&Chart {
        title: titled(answer, &format!("{}, measured and published", title(comparison.figure)), table),
        about: format!(
            "Each divided by that of ({}), as measured here and as published. The table below has the numbers.",
            label(answer, base)
        ),
        axis: Axis { scale, origin: 0.0, name: "times".to_owned() },
        legend: [vec![Legend::Bar("published", PUBLISHED)], signs(&lanes, Legend::Value)].concat(),
        lanes,
        table: Rows::default(),
    })
}

/// What was measured, and what was published.
fn lanes_of(shown: &Shown<'_>, number: &PublishedNumber, pointer: &str, scale: &Scale) -> [Lane; 2] {
    let label = &shown.label;
    let unknown = |what: &str| {
        let item = Item::unknown(scale, format!("{label}, {what}: {UNKNOWN}"), UNKNOWN);
        shown.lane(format!("{what}: {UNKNOWN}").into(), vec![item])
    };
    let measured = number.measured_times.as_ref().map(|of| {
        let said = ratio(of);
        let item = Item {
            to: of.value,
            form: Form::Bounded { low: of.low, high: of.high },
            tone: shown.tone,
            tip: format!("{label}, measured: {said} times"),
            data: Data::new(format!("{pointer}/measured_times"), Vec::new()),
            ..Item::default()
        };
        let value = format!("measured: {}", said.value);
        shown.lane(Bounded { value, bounds: said.bounds }, vec![item])
    });
    let published = number.times.map(|value| {
        let said = times(value);
        let item = Item {
            to: value,
            tone: PUBLISHED,
            tip: format!("{label}, published: {said} times"),
            data: Data::new(format!("{pointer}/times"), Vec::new()),
            ..Item::default()
        };
        shown.lane(format!("published: {said}").into(), vec![item])
    });
    // Its name stands above it.
    let published = Lane { name: String::new(), ..published.unwrap_or_else(|| unknown("published")) };
    [measured.unwrap_or_else(|| unknown("measured")), published]
}
