//! Published figures beside the measured, each as how many times that of one cell it is: their shapes can be compared.

use maud::{Markup, html};

use super::super::chart::{Axis, Chart, LOW, Lane, Legend, Rows, chart};
use super::super::scale::{Quantity, Scale};
use super::super::shapes::{Data, Form, Item};
use super::grouped::{groups, name, tone, unknown};
use crate::report::content::UNKNOWN;
use crate::report::study::numbers::{ratio, times};
use crate::report::study::tables::titled;
use crate::report::study::words::{label, title};
use crate::study::answer::{Answer, Comparison, Place, PublishedNumber, Ratio};

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
    let lanes = groups(answer, table, |index, row| {
        let cell = &answer.cells[index];
        let Some(number) = comparison.cells.iter().position(|number| number.at == cell.at) else {
            return Vec::new();
        };
        let pointer = format!("/published/comparisons/{at}/cells/{number}");
        let number = &comparison.cells[number];
        let place_of = label(answer, &cell.at);
        let name = name(answer, index, row);
        let measured = number.measured_times.map_or_else(
            || unknown(&scale, &format!("{place_of}, measured"), UNKNOWN),
            |ratio| measured(&place_of, &ratio, pointer.clone(), tone(row.0)),
        );
        let published = published(&place_of, number, pointer);
        vec![
            Lane {
                name: name.clone(),
                value: format!(
                    "measured: {}",
                    number.measured_times.as_ref().map_or(UNKNOWN.to_owned(), ratio)
                ),
                height: LOW,
                items: vec![measured],
                ..Lane::default()
            },
            Lane {
                name,
                value: format!("published: {}", number.times.map_or(UNKNOWN.to_owned(), times)),
                height: LOW,
                items: vec![published],
                ..Lane::default()
            },
        ]
    });
    chart(&Chart {
        title: titled(answer, title(comparison.figure), table),
        about: format!(
            "How many times that of ({}) each is, measured here and as published. The table below has the numbers.",
            label(answer, base)
        ),
        axis: Axis { scale, origin: 0.0, name: "times".to_owned() },
        lanes,
        legend: vec![Legend::Certain, Legend::Possible, Legend::Value],
        table: Rows::default(),
    })
}

fn measured(place_of: &str, of: &Ratio, pointer: String, tone: &'static str) -> Item {
    Item {
        from: 0.0,
        to: of.value,
        form: Form::Bounded { low: of.low, high: of.high },
        tone,
        tip: format!("{place_of}, measured: {} times", ratio(of)),
        data: Data::new(format!("{pointer}/measured_times"), Vec::new()),
        label: String::new(),
    }
}

fn published(place_of: &str, number: &PublishedNumber, pointer: String) -> Item {
    let value = number.times.unwrap_or_default();
    Item {
        from: 0.0,
        to: value,
        form: Form::Span,
        tone: "t-plain",
        tip: format!("{place_of}, published: {} times", times(value)),
        data: Data::new(format!("{pointer}/times"), Vec::new()),
        label: String::new(),
    }
}
