//! Which runs a study has, and in which order.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::plan::{Cell, Plan, has_all};

/// A run, before it is tried.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct PlannedRun {
    /// Its number in the order of the study, from 1.
    pub number: u32,
    /// Its cell: the name of each axis with that of its value.
    pub cell: Cell,
    /// Which of the cell's repetitions it is, from 1; null for a warm-up.
    pub repetition: Option<u32>,
}

impl PlannedRun {
    /// The name of its folder: `007-t-unloaded-2`, and `007-t-unloaded-2-attempt2` for its second attempt.
    #[must_use]
    pub fn folder(&self, plan: &Plan, attempt: u32) -> String {
        let mut parts = vec![format!("{:03}", self.number)];
        parts.extend(plan.names_of(&self.cell).map(slug));
        parts.push(self.repetition.map_or_else(|| "w".to_owned(), |number| number.to_string()));
        if attempt > 1 {
            parts.push(format!("attempt{attempt}"));
        }
        parts.join("-")
    }

    /// What it is, for people: `t, unloaded, repetition 2`.
    #[must_use]
    pub fn title(&self, plan: &Plan) -> String {
        let names: Vec<_> = plan.names_of(&self.cell).collect();
        let repetition =
            self.repetition.map_or_else(|| "warm-up".to_owned(), |number| format!("repetition {number}"));
        format!("{}, {repetition}", names.join(", "))
    }
}

/// A name as a part of a file's name. Numbers keep runs apart whose names become the same.
fn slug(name: &str) -> String {
    /// A file's name has at most 255 bytes.
    const LONGEST: usize = 24;
    let plain = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    let words = plain.collect::<String>();
    let words: Vec<_> = words.split('-').filter(|word| !word.is_empty()).collect();
    let mut slug = words.join("-");
    slug.truncate(LONGEST);
    if slug.is_empty() { "x".to_owned() } else { slug }
}

/// The cells of a study: every combination of values that is not left out, the last axis varied first.
#[must_use]
pub fn cells(plan: &Plan) -> Vec<Cell> {
    let axes = plan.axes.iter().map(|axis| (&*axis.name, axis.values.iter().map(|value| &*value.name)));
    let mut cells = combinations(axes);
    cells.retain(|cell| !plan.exceptions.iter().any(|values| has_all(cell, values)));
    cells
}

/// Every combination of the values of some axes, the last axis varied first. A single empty one if there are no axes.
pub(super) fn combinations<'a, V: Iterator<Item = &'a str> + Clone>(
    axes: impl Iterator<Item = (&'a str, V)>,
) -> Vec<Cell> {
    axes.fold(vec![Cell::new()], |cells, (axis, values)| {
        let with = |cell: &Cell, value: &str| {
            let mut cell = cell.clone();
            cell.insert(axis.to_owned(), value.to_owned());
            cell
        };
        cells.iter().flat_map(|cell| values.clone().map(move |value| with(cell, value))).collect()
    })
}

/// All runs. Each cell is run once in each warm-up, and then once in each repetition.
#[must_use]
pub fn runs(plan: &Plan) -> Vec<PlannedRun> {
    let mut random = fastrand::Rng::with_seed(plan.runs.seed);
    let warm_ups = (0..plan.runs.warm_up).map(|_| None);
    let repetitions = (1..=plan.runs.repetitions).map(Some);
    let cells = cells(plan);
    let mut runs = Vec::new();
    for repetition in warm_ups.chain(repetitions) {
        let mut block = cells.clone();
        if plan.runs.shuffle {
            random.shuffle(&mut block);
        }
        for cell in block {
            let number = u32::try_from(runs.len() + 1).unwrap_or(u32::MAX);
            runs.push(PlannedRun { number, cell, repetition });
        }
    }
    runs
}
