//! One run from its beginning to its end.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cells::Cell;
use super::reading::Figure;
use super::{ChoiceError, Ended, Place, RunFigures};
use crate::record::Record;

/// The course of one run.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Course {
    /// The run's number.
    pub run: u32,
    /// Which attempt.
    pub attempt: u32,
    /// Where it belongs.
    pub cell: Place,
    /// Its record.
    pub record: Box<Record>,
}

/// The course of the run with a number or, without a number, of the one in the middle of the last cell that has any.
pub(super) fn of(
    cells: &[Cell],
    runs: &[RunFigures],
    ended: &[Ended],
    number: Option<u32>,
) -> Result<Option<Course>, ChoiceError> {
    let Some(chosen) = number.or_else(|| in_the_middle(cells, runs)) else { return Ok(None) };
    let of_run = || ended.iter().filter(|ended| ended.run.number == chosen);
    let counts = |ended: &&Ended| {
        let is_it = |run: &&RunFigures| run.number == chosen && run.attempt == ended.run.attempt;
        runs.iter().find(is_it).is_some_and(|run| run.left_out.is_none())
    };
    let shown = of_run().find(counts).or_else(|| of_run().rfind(|ended| ended.record.is_ok()));
    let Some((Ended { run, .. }, record)) =
        shown.and_then(|ended| Some((ended, ended.record.as_ref().ok()?)))
    else {
        return number.map_or(Ok(None), |number| Err(ChoiceError::Run(number)));
    };
    Ok(Some(Course {
        run: run.number,
        attempt: run.attempt,
        cell: run.cell.clone(),
        record: Box::new(record.clone()),
    }))
}

/// The run whose time is the median of the last cell that has one.
fn in_the_middle(cells: &[Cell], runs: &[RunFigures]) -> Option<u32> {
    let times_of = |cell: &Cell| {
        let of_cell = runs.iter().filter(|run| run.left_out.is_none() && run.cell == cell.at);
        let mut times: Vec<(i64, u32)> =
            of_cell.filter_map(|run| Some((run.get(Figure::TotalTime)?.value, run.number))).collect();
        times.sort_unstable();
        times.get(times.len().checked_sub(1)? / 2).map(|(_, number)| *number)
    };
    cells.iter().rev().find_map(times_of)
}
