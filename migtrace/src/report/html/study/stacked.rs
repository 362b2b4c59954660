//! What a time or an amount was made of: the phases of the migration, and the parts of the stop, one after the other.

use maud::{Markup, html};

use super::super::chart::{Axis, Cell as TableCell, Chart, Lane, Rows, chart, words};
use super::super::scale::Scale;
use super::super::shapes::{Form, Item};
use super::grouped::{groups, name, none, quantity, unknown};
use super::{NUMBERS, data, numbers, place};
use crate::report::study::numbers::summary_line;
use crate::report::study::tables::titled;
use crate::report::study::words::{label, step_names};
use crate::study::answer::{Answer, Cell, Place, StepSummary, Summary, Unit};

/// What is stacked.
struct Stack {
    title: &'static str,
    unit: Unit,
    /// Its field in a cell, and that of its numbers in a step.
    fields: [&'static str; 2],
    steps: fn(&Cell) -> &Vec<StepSummary>,
    of: fn(&StepSummary) -> Option<&Summary>,
}

const STACKS: [Stack; 3] = [
    Stack {
        title: "The stop, part by part",
        unit: Unit::Ns,
        fields: ["parts", "time_ns"],
        steps: |cell| &cell.parts,
        of: |step| Some(&step.time_ns),
    },
    Stack {
        title: "Time in each phase",
        unit: Unit::Ns,
        fields: ["phases", "time_ns"],
        steps: |cell| &cell.phases,
        of: |step| Some(&step.time_ns),
    },
    Stack {
        title: "Sent in each phase",
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
    let names = step_names(answer, stack.steps);
    let lanes = groups(answer, table, |index, row| {
        let cell = &answer.cells[index];
        let place_of = label(answer, &cell.at);
        let items = items(stack, index, cell, &names, &place_of);
        let items = if items.is_empty() { vec![unknown(&scale, &place_of, none(cell))] } else { items };
        vec![Lane { name: name(answer, index, row), height: 24, items, ..Lane::default() }]
    });
    chart(&Chart {
        title: titled(answer, stack.title, table),
        about: format!(
            "The median of each, one after the other: {}. The table has all numbers, in {}.",
            names.join(", "),
            stack.unit.as_str()
        ),
        axis: Axis { scale, origin: 0.0, name: String::new() },
        lanes,
        legend: Vec::new(),
        table: values(answer, stack, table),
    })
}

/// The steps of a cell, each from where the one before ends.
fn items(stack: &Stack, index: usize, cell: &Cell, names: &[String], place_of: &str) -> Vec<Item> {
    let mut from = 0.0;
    let mut items = Vec::new();
    for (at, step) in (stack.steps)(cell).iter().enumerate() {
        let Some(of) = (stack.of)(step) else { continue };
        let to = from + place(of.median.value);
        let is_even = names.iter().position(|name| *name == step.name).is_some_and(|at| at % 2 == 0);
        let [steps, field] = stack.fields;
        items.push(Item {
            from,
            to,
            form: Form::Span,
            tone: if is_even { "t-even" } else { "t-odd" },
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
            row.extend(numbers(&format!("/cells/{index}/{steps}/{at}/{field}"), of));
            rows.push(row);
        }
    }
    Rows { headings: ["Cell", "Step"].into_iter().chain(NUMBERS).map(str::to_owned).collect(), rows }
}
