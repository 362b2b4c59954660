//! What a time or an amount was made of: the phases of the migration, and the parts of the stop, one after the other.

use maud::{Markup, html};

use super::super::chart::{Axis, Cell as TableCell, Chart, Lane, Legend, Rows, chart, words};
use super::super::scale::Scale;
use super::super::shapes::{Form, Item, Stripes, paint};
use super::grouped::{groups, name, none, quantity, unknown};
use super::{data, headings, numbers, place};
use crate::report::study::numbers::{short_reading, summary_line};
use crate::report::study::tables::titled;
use crate::report::study::words::{label, step_names};
use crate::study::answer::{Answer, Cell, Figure, Place, StepSummary, Summary, Unit, each_once};

/// What is stacked.
struct Stack {
    title: &'static str,
    /// What its parts are parts of.
    whole: Figure,
    unit: Unit,
    /// Its field in a cell, and that of its numbers in a step.
    fields: [&'static str; 2],
    steps: fn(&Cell) -> &Vec<StepSummary>,
    of: fn(&StepSummary) -> Option<&Summary>,
}

const STACKS: [Stack; 3] = [
    Stack {
        title: "The stop, part by part",
        whole: Figure::Stop,
        unit: Unit::Ns,
        fields: ["parts", "time_ns"],
        steps: |cell| &cell.parts,
        of: |step| Some(&step.time_ns),
    },
    Stack {
        title: "Time in each phase",
        whole: Figure::TotalTime,
        unit: Unit::Ns,
        fields: ["phases", "time_ns"],
        steps: |cell| &cell.phases,
        of: |step| Some(&step.time_ns),
    },
    Stack {
        title: "Sent in each phase",
        whole: Figure::WireBytes,
        unit: Unit::Bytes,
        fields: ["phases", "wire_bytes"],
        steps: |cell| &cell.phases,
        of: |step| step.wire_bytes.as_ref(),
    },
];

pub(super) fn charts(answer: &Answer) -> Markup {
    html! {
        @for stack in &STACKS {
            @if answer.cells.iter().any(|cell| !(stack.steps)(cell).is_empty()) {
                @for table in answer.tables() { (one(answer, stack, &table)) }
            }
        }
    }
}

fn one(answer: &Answer, stack: &Stack, table: &Place) -> Markup {
    let total = |cell: &Cell| {
        (stack.steps)(cell).iter().filter_map(stack.of).map(|of| place(of.median.value)).sum::<f64>()
    };
    let scale = Scale::from_zero(quantity(stack.unit), answer.cells.iter().map(total).fold(0.0, f64::max));
    let all = all_names(answer);
    let lanes = groups(answer, table, |index, row| {
        let cell = &answer.cells[index];
        let place_of = label(answer, &cell.at);
        let items = items(stack, index, cell, &all, &place_of);
        let items = if items.is_empty() { vec![unknown(&scale, &place_of, none(cell))] } else { items };
        let value = cell
            .get(stack.whole)
            .map_or_else(|| none(cell).to_owned(), |of| short_reading(stack.unit, &of.median));
        vec![Lane { name: name(answer, index, row), value, height: 24, items, ..Lane::default() }]
    });
    chart(&Chart {
        title: titled(answer, stack.title, table),
        about: "The median of each, one after the other. Beside each bar: the median of the whole, which over several runs \
                need not be their sum."
            .to_owned(),
        axis: Axis { scale, origin: 0.0, name: String::new() },
        lanes,
        legend: legend(answer, stack, &all),
        table: values(answer, stack, table),
    })
}

/// The names of all phases and parts. Their order gives each its colour, so that it has the same in every chart.
fn all_names(answer: &Answer) -> Vec<String> {
    each_once([step_names(answer, |cell| &cell.phases), step_names(answer, |cell| &cell.parts)].concat())
}

/// The steps of a chart in the order in which they follow each other.
fn legend(answer: &Answer, stack: &Stack, names: &[String]) -> Vec<Legend> {
    let mut shown = step_names(answer, stack.steps);
    shown.retain(|name| {
        let mut steps = answer.cells.iter().flat_map(stack.steps);
        steps.any(|step| step.name == *name && (stack.of)(step).is_some())
    });
    shown
        .into_iter()
        .map(|name| {
            let paint = paint_of(&name, names);
            Legend::Part(name, paint)
        })
        .collect()
}

fn paint_of(name: &str, names: &[String]) -> (&'static str, Stripes) {
    paint(names.iter().position(|other| other == name).unwrap_or_default())
}

/// The steps of a cell, each from where the one before ends.
fn items(stack: &Stack, index: usize, cell: &Cell, names: &[String], place_of: &str) -> Vec<Item> {
    let mut from = 0.0;
    let mut items = Vec::new();
    for (at, step) in (stack.steps)(cell).iter().enumerate() {
        let Some(of) = (stack.of)(step) else { continue };
        let to = from + place(of.median.value);
        let (tone, stripes) = paint_of(&step.name, names);
        let [steps, field] = stack.fields;
        items.push(Item {
            from,
            to,
            form: Form::Part(stripes),
            tone,
            tip: format!("{place_of}, {}: {}", step.name, summary_line(stack.unit, of, cell.runs.len())),
            data: data(format!("/cells/{index}/{steps}/{at}/{field}"), &of.median),
            label: step.name.clone(),
        });
        from = to;
    }
    items
}

fn values(answer: &Answer, stack: &Stack, table: &Place) -> Rows {
    let mut rows = Vec::new();
    let is_of = |cell: &&Cell| table.iter().all(|(axis, value)| cell.at.get(axis) == Some(value));
    for (index, cell) in answer.cells.iter().enumerate().filter(|(_, cell)| is_of(cell)) {
        for (at, step) in (stack.steps)(cell).iter().enumerate() {
            let Some(of) = (stack.of)(step) else { continue };
            let [steps, field] = stack.fields;
            let mut row: Vec<TableCell> = vec![words(label(answer, &cell.at)), words(step.name.clone())];
            row.extend(numbers(&format!("/cells/{index}/{steps}/{at}/{field}"), stack.unit, of));
            rows.push(row);
        }
    }
    Rows { headings: headings(["Cell", "Step"], stack.unit), rows }
}
