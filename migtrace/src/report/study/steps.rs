//! The phases of the migration, and the parts of the stop.

use super::grid::Grid;
use super::numbers::reading;
use super::tables::{by_cell, one_of, with_runs};
use super::words::step_names;
use crate::report::content::{NONE, Section};
use crate::study::answer::{Answer, Cell, Reading, StepSummary, Unit};

pub(in crate::report) fn sections(answer: &Answer) -> Vec<Section> {
    let time = |step: &StepSummary| Some(step.time_ns.median);
    let sent = |step: &StepSummary| step.wire_bytes.map(|sent| sent.median);
    let parts = grid(answer, |cell| &cell.parts, Unit::Ns, time);
    let times = grid(answer, |cell| &cell.phases, Unit::Ns, time);
    let bytes = grid(answer, |cell| &cell.phases, Unit::Bytes, sent);
    let sections = [
        parts.section("The stop, part by part (medians)"),
        times.section("Time in each phase (medians, from one event of QEMU to the next)"),
        bytes.section("Sent in each phase (wire bytes, medians)"),
    ];
    sections.into_iter().flatten().collect()
}

fn grid(
    answer: &Answer,
    steps: fn(&Cell) -> &Vec<StepSummary>,
    unit: Unit,
    number: impl Fn(&StepSummary) -> Option<Reading>,
) -> Grid {
    let names = step_names(answer, steps);
    let shown = |cell: &Cell, name: &str| {
        let step = steps(cell).iter().find(|step| step.name == name);
        step.and_then(&number).map_or(NONE.to_owned(), |median| one_of(names.len(), reading(unit, &median)))
    };
    let with_steps = with_runs(answer).filter(|cell| !steps(cell).is_empty());
    by_cell(answer, with_steps, names.clone(), |cell| names.iter().map(|name| shown(cell, name)).collect())
}
