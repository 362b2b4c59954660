//! The answer of a study: what its runs say together. It is a fold of the plan, the runs and their records, without any I/O.

mod cells;
mod checks;
mod course;
mod findings;
mod layout;
mod link_rate;
mod published;
mod reading;
mod summary;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) use cells::each_once;
pub use cells::{Cell, CellFigure, LeftOut, StepSummary};
pub use checks::{Check, CheckName, Misfit};
pub use course::Course;
pub use findings::{Correlation, Differences, Findings, Pair, RatioOf, Ratios, ShareOf};
pub use layout::{TableLayout, UnknownAxis};
pub use published::{Comparison, PublishedFigures, PublishedNumber};
pub use reading::{Figure, Measured, Reading, Step, Unit};
pub use summary::{Ratio, Summary};

use super::order;
use super::plan::{self, Plan};
use super::run::{Run, RunOutcome};
use crate::record::Record;

/// The schema name that every answer carries.
pub const SCHEMA: &str = "migtrace.answer/1";

/// Where a cell is: the name of each axis with that of its value.
pub type Place = plan::Cell;

/// What the runs of a study say together.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Answer {
    /// [`SCHEMA`].
    pub schema: String,
    /// What the study is about.
    pub title: String,
    /// The same in more words.
    pub description: String,
    /// What was varied.
    pub axes: Vec<Titled>,
    /// Which axes are the rows and the columns of tables.
    pub layout: TableLayout,
    /// How far the study is.
    pub progress: Progress,
    /// The combinations of values, in the order of the plan.
    pub cells: Vec<Cell>,
    /// Figures that others have published, beside the measured; null if the plan has none.
    pub published: Option<PublishedFigures>,
    /// What the figures say.
    pub findings: Findings,
    /// Whether the figures make sense.
    pub checks: Vec<Check>,
    /// The course of one run; null without a run that counts.
    pub course: Option<Course>,
    /// The runs, in order, with their figures.
    pub runs: Vec<RunFigures>,
    /// What of the study's folder could not be used, and why.
    pub problems: Vec<String>,
}

/// An axis.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Titled {
    /// Its name.
    pub name: String,
    /// What it is called in a report.
    pub title: String,
    /// Its values, each with what it is called.
    pub values: Vec<TitledValue>,
}

/// A value of an axis.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct TitledValue {
    /// Its name.
    pub name: String,
    /// What it is called in a report.
    pub title: String,
}

/// How far a study is.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Progress {
    /// How many runs the plan has, warm-ups included.
    pub planned: u64,
    /// How many of them have ended.
    pub ended: u64,
    /// How many of those have not completed in any attempt.
    pub failed: u64,
    /// Attempts that have begun and not ended.
    pub under_way: u64,
    /// Attempts that were cut off, by Ctrl-C or a crash.
    pub cut_off: u64,
}

/// A run and its figures.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct RunFigures {
    /// Its number in the order of the study.
    pub number: u32,
    /// Where it belongs.
    pub cell: Place,
    /// Which of the cell's repetitions it is; null for a warm-up.
    pub repetition: Option<u32>,
    /// Which attempt it is.
    pub attempt: u32,
    /// Why it does not count; null if it does.
    pub left_out: Option<String>,
    /// What is known of it.
    pub figures: Vec<Measured>,
    /// The phases of the migration.
    pub phases: Vec<Step>,
    /// The parts of the stop.
    pub parts: Vec<Step>,
}

impl RunFigures {
    /// A figure; none where it is not known.
    #[must_use]
    pub fn get(&self, figure: Figure) -> Option<Reading> {
        self.figures.iter().find(|measured| measured.figure == figure).map(|measured| measured.reading)
    }
}

impl Answer {
    /// The cell at a place.
    #[must_use]
    pub fn cell(&self, at: &Place) -> Option<&Cell> {
        self.cells.iter().find(|cell| cell.at == *at)
    }

    /// Whether a figure is known of any cell.
    #[must_use]
    pub fn knows(&self, figure: Figure) -> bool {
        cells::is_known(&self.cells, figure)
    }

    /// An axis.
    #[must_use]
    pub fn axis(&self, name: &str) -> Option<&Titled> {
        self.axes.iter().find(|axis| axis.name == name)
    }
}

/// What is there of a study.
#[derive(Debug, Default)]
pub struct Material {
    /// The attempts that have ended.
    pub runs: Vec<Ended>,
    /// How many have begun and not ended.
    pub under_way: u64,
    /// How many were cut off, by Ctrl-C or a crash.
    pub cut_off: u64,
    /// What could not be read, and why.
    pub problems: Vec<String>,
}

/// An attempt that has ended.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub run: Run,
    /// Its record, or why there is none.
    pub record: Result<Record, String>,
}

/// What a reader wants to see.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// The axis that is the rows; none for the plan's.
    pub rows: Option<String>,
    /// The axis that is the columns; none for the plan's.
    pub columns: Option<String>,
    /// The run whose course is shown; none for one in the middle of the last cell.
    pub run: Option<u32>,
}

/// Why a reader's choice has no answer.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    /// There is no such axis, or it cannot be both rows and columns.
    #[error(transparent)]
    Axis(#[from] UnknownAxis),
    /// There is no such run, or it has no record.
    #[error("run {0} has no record that could be shown")]
    Run(u32),
}

/// The answer that runs give.
///
/// # Errors
/// The choice names something that the study does not have.
pub fn answer(plan: &Plan, material: &Material, choice: &Choice) -> Result<Answer, ChoiceError> {
    let layout = TableLayout::resolve(plan, choice)?;
    let places = order::cells(plan);
    let runs: Vec<RunFigures> = cells::runs(&places, &material.runs);
    let cells = cells::cells(plan, places, &runs);
    let counted = counted(material, &runs);
    Ok(Answer {
        schema: SCHEMA.to_owned(),
        title: plan.title.clone(),
        description: plan.description.clone(),
        axes: layout::axes(plan),
        progress: progress(plan, cells.len(), material),
        published: plan.published.as_ref().map(|published| published::beside(published, &cells)),
        findings: findings::of(plan, &layout, &cells),
        checks: checks::all(plan, &cells, &counted),
        course: course::of(&cells, &runs, &material.runs, choice.run)?,
        layout,
        cells,
        runs,
        problems: material.problems.clone(),
    })
}

/// The runs that count, with their records.
fn counted<'a>(material: &'a Material, runs: &'a [RunFigures]) -> Vec<(&'a RunFigures, &'a Record)> {
    let both = runs.iter().filter(|run| run.left_out.is_none());
    let record = |run: &RunFigures| {
        let is_it = |ended: &&Ended| ended.run.number == run.number && ended.run.attempt == run.attempt;
        material.runs.iter().find(is_it)?.record.as_ref().ok()
    };
    both.filter_map(|run| Some((run, record(run)?))).collect()
}

fn progress(plan: &Plan, cells: usize, material: &Material) -> Progress {
    // Whether any attempt of a run has completed, by the run's number.
    let mut ended: BTreeMap<u32, bool> = BTreeMap::new();
    for Ended { run, .. } in &material.runs {
        *ended.entry(run.number).or_default() |= run.outcome == RunOutcome::Completed;
    }
    let of_each = u64::from(plan.runs.repetitions) + u64::from(plan.runs.warm_up);
    Progress {
        planned: (cells as u64).saturating_mul(of_each),
        ended: ended.len() as u64,
        failed: ended.values().filter(|completed| !**completed).count() as u64,
        under_way: material.under_way,
        cut_off: material.cut_off,
    }
}
