//! What a time or an amount was made of: the phases of the migration, and the parts of the stop, one after the other.

use maud::{Markup, html};

use super::super::chart::{Axis, Cell as TableCell, Chart, Lane, Legend, Rows, chart, signs, words};
use super::super::place;
use super::super::scale::Scale;
use super::super::shapes::{Form, Item, Stripes, paint};
use super::grouped::{Shown, groups, quantity};
use super::{cells_of, data, headings, numbers};
use crate::report::study::numbers::{short_reading, summary_line};
use crate::report::study::tables::titled;
use crate::report::study::words::{label, step_names};
use crate::study::answer::{Answer, Cell, Figure, Place, StepSummary, Summary};

/// What is stacked.
struct Stack {
    title: &'static str,
    /// What its parts are parts of, in the same unit.
    whole: Figure,
    /// Its field in a cell, and that of its numbers in a step.
    fields: [&'static str; 2],
    steps: fn(&Cell) -> &Vec<StepSummary>,
    of: fn(&StepSummary) -> Option<&Summary>,
}

impl Stack {
    /// Where the numbers of a cell's step stand in the answer.
    fn pointer(&self, cell: usize, step: usize) -> String {
        let [steps, field] = self.fields;
        format!("/cells/{cell}/{steps}/{step}/{field}")
    }
}

const STACKS: [Stack; 3] = [
    Stack {
        title: "The stop, part by part",
        whole: Figure::Stop,
        fields: ["parts", "time_ns"],
        steps: |cell| &cell.parts,
        of: |step| Some(&step.time_ns),
    },
    Stack {
        title: "Time in each phase",
        whole: Figure::TotalTime,
        fields: ["phases", "time_ns"],
        steps: |cell| &cell.phases,
        of: |step| Some(&step.time_ns),
    },
    Stack {
        title: "Sent in each phase",
        whole: Figure::WireBytes,
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
    let unit = stack.whole.unit();
    let total = |cell: &Cell| {
        (stack.steps)(cell).iter().filter_map(stack.of).map(|of| place(of.median.value)).sum::<f64>()
    };
    let scale = Scale::from_zero(quantity(unit), answer.cells.iter().map(total).fold(0.0, f64::max));
    let all = all_names(answer);
    let lanes = groups(answer, table, |shown| {
        let whole = shown.figure(stack.whole).map(|(_, of)| short_reading(unit, &of.median));
        let unknown = shown.unknown(&scale);
        let mut items = items(stack, shown, &all);
        if items.is_empty() {
            items = unknown.items;
        }
        vec![Lane { height: 24, ..shown.lane(whole.unwrap_or(unknown.value), items) }]
    });
    chart(&Chart {
        title: titled(answer, stack.title, table),
        about: "The median of each, one after the other. Beside each bar: the median of the whole, which over several runs \
                need not be their sum."
            .to_owned(),
        axis: Axis { scale, origin: 0.0, name: String::new() },
        legend: [legend(answer, stack, table, &all), signs(&lanes, Legend::Median)].concat(),
        lanes,
        table: values(answer, stack, table),
    })
}

/// The names of all phases and parts. Their order gives each its colour, so that it has the same in every chart: the largest
/// first, since stripes disturb least where they are small.
fn all_names(answer: &Answer) -> Vec<String> {
    let mut names: Vec<(String, f64)> = Vec::new();
    for steps in answer.cells.iter().flat_map(|cell| [&cell.phases, &cell.parts]) {
        let time = |step: &StepSummary| place(step.time_ns.median.value);
        let whole = steps.iter().map(time).sum::<f64>().max(1.0);
        for step in steps {
            let share = time(step) / whole;
            match names.iter_mut().find(|(name, _)| *name == step.name) {
                Some((_, most)) => *most = most.max(share),
                None => names.push((step.name.clone(), share)),
            }
        }
    }
    names.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    names.into_iter().map(|(name, _)| name).collect()
}

/// The steps of a chart in the order in which they follow each other.
fn legend(answer: &Answer, stack: &Stack, table: &Place, names: &[String]) -> Vec<Legend> {
    let mut shown = step_names(answer, stack.steps);
    shown.retain(|name| {
        let mut steps = cells_of(answer, table).flat_map(|(_, cell)| (stack.steps)(cell));
        steps.any(|step| step.name == *name && (stack.of)(step).is_some())
    });
    shown
        .into_iter()
        .map(|name| {
            let paint = paint_of(&name, names);
            Legend::Stacked(name, paint)
        })
        .collect()
}

fn paint_of(name: &str, names: &[String]) -> (&'static str, Stripes) {
    paint(names.iter().position(|other| other == name).unwrap_or_default())
}

/// The steps of a cell, each from where the one before ends.
fn items(stack: &Stack, shown: &Shown<'_>, names: &[String]) -> Vec<Item> {
    let mut from = 0.0;
    let mut items = Vec::new();
    for (at, step) in (stack.steps)(shown.cell).iter().enumerate() {
        let Some(of) = (stack.of)(step) else { continue };
        let to = from + place(of.median.value);
        let (tone, stripes) = paint_of(&step.name, names);
        let said = summary_line(stack.whole.unit(), of, shown.cell.runs.len());
        items.push(Item {
            from,
            to,
            form: Form::Stacked(stripes),
            tone,
            tip: format!("{}, {}: {said}", shown.label, step.name),
            data: data(stack.pointer(shown.index, at), &of.median),
            label: step.name.clone(),
        });
        from = to;
    }
    items
}

fn values(answer: &Answer, stack: &Stack, table: &Place) -> Rows {
    let unit = stack.whole.unit();
    let mut rows = Vec::new();
    for (index, cell) in cells_of(answer, table) {
        for (at, step) in (stack.steps)(cell).iter().enumerate() {
            let Some(of) = (stack.of)(step) else { continue };
            let mut row: Vec<TableCell> = vec![words(label(answer, &cell.at)), words(step.name.clone())];
            row.extend(numbers(&stack.pointer(index, at), unit, of));
            rows.push(row);
        }
    }
    Rows { headings: headings(["Cell", "Step"], unit), rows }
}
