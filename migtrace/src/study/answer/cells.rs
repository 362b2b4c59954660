//! Which runs count, and what those of each cell have in common.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reading::{self, Figure, Reading, Step};
use super::summary::Summary;
use super::{Ended, Place, RunFigures};
use crate::record::{Outcome, Record};
use crate::study::plan::Plan;
use crate::study::run::{Run, RunOutcome};
use crate::vocabulary::Lost;

/// A combination of values, one of each axis.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Cell {
    /// Which.
    pub at: Place,
    /// How often it is to be run.
    pub planned: u32,
    /// The numbers of the runs that count.
    pub runs: Vec<u32>,
    /// Those that do not, and why.
    pub left_out: Vec<LeftOut>,
    /// What is known of it.
    pub figures: Vec<CellFigure>,
    /// The phases of the migration.
    pub phases: Vec<StepSummary>,
    /// The parts of the stop.
    pub parts: Vec<StepSummary>,
}

/// An attempt that does not count.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct LeftOut {
    /// The run's number.
    pub number: u32,
    /// Which attempt.
    pub attempt: u32,
    /// Why.
    pub why: String,
}

/// A figure of a cell.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct CellFigure {
    /// Which.
    pub figure: Figure,
    /// What its runs say.
    #[serde(flatten)]
    pub summary: Summary,
}

/// A phase of the migration or a part of the stop, over the runs of a cell that have it.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct StepSummary {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub time_ns: Summary,
    /// What the source sent in it; null when that is not known in any run.
    pub wire_bytes: Option<Summary>,
}

impl Cell {
    /// A figure; none where no run has it.
    #[must_use]
    pub fn get(&self, figure: Figure) -> Option<&Summary> {
        self.figures.iter().find(|of| of.figure == figure).map(|of| &of.summary)
    }
}

/// Whether a figure is known of any cell.
pub(super) fn is_known(cells: &[Cell], figure: Figure) -> bool {
    cells.iter().any(|cell| cell.get(figure).is_some())
}

/// Each cell with one value of an axis, and with it the cell that differs from it only in having the other value there.
pub(super) fn pairs<'c>(
    cells: &'c [Cell],
    axis: &str,
    [one, other]: [&str; 2],
) -> impl Iterator<Item = [&'c Cell; 2]> {
    let with_one = cells.iter().filter(move |cell| cell.at.get(axis).is_some_and(|value| value == one));
    with_one.filter_map(move |cell| {
        let mut at = cell.at.clone();
        at.insert(axis.to_owned(), other.to_owned());
        Some([cell, cells.iter().find(|cell| cell.at == at)?])
    })
}

/// The figures of every attempt, in the order of the study.
pub(super) fn runs(places: &[Place], ended: &[Ended]) -> Vec<RunFigures> {
    let mut runs: Vec<RunFigures> = ended.iter().map(|ended| figures(places, ended)).collect();
    runs.sort_by_key(|run| (run.number, run.attempt));
    leave_out_repeated(&mut runs);
    runs
}

fn figures(places: &[Place], Ended { run, record }: &Ended) -> RunFigures {
    let record = record.as_ref();
    let left_out = why_not(places, run, record);
    let record = record.ok();
    RunFigures {
        number: run.number,
        cell: run.cell.clone(),
        repetition: run.repetition,
        attempt: run.attempt,
        left_out,
        figures: reading::figures(run, record),
        phases: record.map(reading::phases).unwrap_or_default(),
        parts: record.map(reading::parts).unwrap_or_default(),
    }
}

/// Why a run does not count; none if it does.
fn why_not(places: &[Place], run: &Run, record: Result<&Record, &String>) -> Option<String> {
    if !places.contains(&run.cell) {
        return Some("the plan has no such cell".to_owned());
    }
    if let RunOutcome::Failed { why } = &run.outcome {
        return Some(format!("failed: {why}"));
    }
    if run.repetition.is_none() {
        return Some("a warm-up".to_owned());
    }
    let record = match record {
        Ok(record) => record,
        Err(why) => return Some(format!("no record: {why}")),
    };
    let incomplete = |why: &str| Some(format!("incomplete: {why}"));
    match record.migration.outcome {
        Outcome::Completed | Outcome::Unknown => {}
        Outcome::Failed => return incomplete("its record says that the migration failed"),
        Outcome::Cancelled => return incomplete("its record says that the migration was cancelled"),
        Outcome::Interrupted => return incomplete("the recording ended before the migration"),
    }
    if record.lost != Lost::default() {
        return incomplete("events were lost, so its figures are only lower bounds");
    }
    if !record.start.seen {
        return incomplete("the migration began before the recording");
    }
    None
}

/// A run counts once, however often it was tried: the last attempt that may count does.
fn leave_out_repeated(runs: &mut [RunFigures]) {
    for at in 0..runs.len() {
        let (number, counts) = (runs[at].number, runs[at].left_out.is_none());
        let is_repeated = |later: &&RunFigures| later.number == number && later.left_out.is_none();
        if let Some(later) = runs[at + 1..].iter().find(is_repeated).filter(|_| counts) {
            runs[at].left_out = Some(format!("repeated: attempt {} counts", later.attempt));
        }
    }
}

/// What the runs say of each cell.
pub(super) fn cells(plan: &Plan, places: Vec<Place>, runs: &[RunFigures]) -> Vec<Cell> {
    places.into_iter().map(|at| cell(plan, at, runs)).collect()
}

fn cell(plan: &Plan, at: Place, runs: &[RunFigures]) -> Cell {
    let (counted, others): (Vec<_>, Vec<_>) =
        runs.iter().filter(|run| run.cell == at).partition(|run| run.left_out.is_none());
    let left_out = others.into_iter().filter_map(|run| {
        let (number, attempt, why) = (run.number, run.attempt, run.left_out.clone()?);
        Some(LeftOut { number, attempt, why })
    });
    let summary = |figure| {
        let readings: Vec<Reading> = counted.iter().filter_map(|run| run.get(figure)).collect();
        Some(CellFigure { figure, summary: Summary::of(&readings)? })
    };
    Cell {
        planned: plan.runs.repetitions,
        runs: counted.iter().map(|run| run.number).collect(),
        left_out: left_out.collect(),
        figures: Figure::ALL.into_iter().filter_map(summary).collect(),
        phases: steps(&counted, |run| &run.phases),
        parts: steps(&counted, |run| &run.parts),
        at,
    }
}

/// The steps of all runs by their names, in the order in which they are first found.
fn steps(runs: &[&RunFigures], of: fn(&RunFigures) -> &Vec<Step>) -> Vec<StepSummary> {
    let all = || runs.iter().flat_map(|run| of(run));
    let names = each_once(all().map(|step| &*step.name));
    let summary = |name: &str| {
        let named = || all().filter(|step| step.name == name);
        Some(StepSummary {
            name: name.to_owned(),
            time_ns: Summary::of(&named().map(|step| step.time_ns).collect::<Vec<_>>())?,
            wire_bytes: Summary::of(&named().filter_map(|step| step.wire_bytes).collect::<Vec<_>>()),
        })
    };
    names.into_iter().filter_map(summary).collect()
}

/// Each once, in the order in which they are first found.
pub(crate) fn each_once<T: PartialEq>(all: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut once = Vec::new();
    for one in all {
        if !once.contains(&one) {
            once.push(one);
        }
    }
    once
}
