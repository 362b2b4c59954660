//! What the figures say, as numbers from which sentences are made.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Place;
use super::cells::{Cell, is_known, pairs};
use super::layout::TableLayout;
use super::reading::{Figure, Reading};
use super::summary::Ratio;
use crate::study::plan::Plan;

/// The figures that the findings are about.
const FIGURES: [Figure; 3] = [Figure::TotalTime, Figure::Stop, Figure::WireBytes];

/// What the figures say.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Findings {
    /// How many times that of the first row the last row's figures are. Empty with fewer than two rows.
    pub ratios: Vec<Ratios>,
    /// The share of the stop in the total time, in the cells where it is known, the smallest first.
    pub shares: Vec<ShareOf>,
    /// How the stop goes with the total time; null with fewer than two cells that have both.
    pub correlation: Option<Correlation>,
    /// Which cells differ by more than their spread.
    pub differences: Vec<Differences>,
}

/// How many times that of the first row the last row's figure is.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Ratios {
    /// Which figure: its medians are compared.
    pub figure: Figure,
    /// The axis that is the rows.
    pub axis: String,
    /// Its first value.
    pub first: String,
    /// Its last value.
    pub last: String,
    /// The ratios, one for each combination of the other axes' values where both are known.
    pub of: Vec<RatioOf>,
}

/// A ratio, and where it holds.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct RatioOf {
    /// The values of the other axes.
    pub at: Place,
    /// The last row's median by the first row's.
    pub ratio: Ratio,
}

/// The share of the stop in the total time.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct ShareOf {
    /// Of which cell.
    pub at: Place,
    /// The median of its runs' shares, in millionths.
    pub share_ppm: Reading,
}

/// Spearman's rank correlation of two figures' medians.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Correlation {
    /// How many cells have both.
    pub cells: u64,
    /// The coefficient: 1 where the order of the cells is the same, -1 where it is reversed. Null where all cells have the
    /// same median of one.
    pub coefficient: Option<f64>,
    /// Whether there are enough cells to mean anything: by mere chance, so many would be in the same or the reversed order
    /// less often than once in 20 times.
    pub is_enough: bool,
}

/// Which cells differ in a figure by more than their spread: no true number of one can be that of the other.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Differences {
    /// Which figure.
    pub figure: Figure,
    /// Pairs of cells that differ in the value of one axis, and by more than their spread.
    pub apart: Vec<Pair>,
    /// Those that do not differ by more.
    pub not_apart: Vec<Pair>,
    /// Those of which one has fewer than two runs that know it, and so no spread.
    pub not_known: Vec<Pair>,
}

/// Two cells.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Pair {
    /// One.
    pub one: Place,
    /// The other.
    pub other: Place,
}

pub(super) fn of(plan: &Plan, layout: &TableLayout, cells: &[Cell]) -> Findings {
    let figures = || FIGURES.into_iter().filter(|figure| is_known(cells, *figure));
    Findings {
        ratios: figures().filter_map(|figure| ratios(plan, layout, cells, figure)).collect(),
        shares: shares(cells),
        correlation: correlation(cells),
        differences: figures().map(|figure| differences(cells, figure)).collect(),
    }
}

/// None where there are no two rows, or no two figures.
fn ratios(plan: &Plan, layout: &TableLayout, cells: &[Cell], figure: Figure) -> Option<Ratios> {
    let axis = plan.axes.iter().find(|axis| Some(&axis.name) == layout.rows.as_ref())?;
    let [first, last] = axis.ends()?;
    let ratio = |[of_first, of_last]: [&Cell; 2]| {
        let mut at = of_first.at.clone();
        at.remove(&axis.name);
        Some(RatioOf { at, ratio: Ratio::of(of_last.get(figure)?, of_first.get(figure)?)? })
    };
    let of: Vec<_> = pairs(cells, &axis.name, [&first.name, &last.name]).filter_map(ratio).collect();
    (!of.is_empty()).then(|| Ratios {
        figure,
        axis: axis.name.clone(),
        first: first.name.clone(),
        last: last.name.clone(),
        of,
    })
}

fn shares(cells: &[Cell]) -> Vec<ShareOf> {
    let share = |cell: &Cell| {
        let share_ppm = cell.get(Figure::StopShare)?.median;
        Some(ShareOf { at: cell.at.clone(), share_ppm })
    };
    let mut shares: Vec<_> = cells.iter().filter_map(share).collect();
    shares.sort_by_key(|share| share.share_ppm.value);
    shares
}

fn correlation(cells: &[Cell]) -> Option<Correlation> {
    let median = |cell: &Cell, figure| Some(cell.get(figure)?.median.value);
    let both: Vec<(i64, i64)> = cells
        .iter()
        .filter_map(|cell| Some((median(cell, Figure::Stop)?, median(cell, Figure::TotalTime)?)))
        .collect();
    (both.len() > 1).then(|| Correlation {
        cells: both.len() as u64,
        coefficient: spearman(&both),
        is_enough: both.len() >= FEWEST_CELLS,
    })
}

/// By chance, n cells are in the same or the reversed order 2 times of n!: with 4 cells once in 12, with 5 once in 60.
const FEWEST_CELLS: usize = 5;

/// Pearson's correlation of the ranks; equal values have the mean of their ranks. None where all of one are equal.
pub(super) fn spearman(pairs: &[(i64, i64)]) -> Option<f64> {
    let of_first = doubled_ranks(&pairs.iter().map(|pair| pair.0).collect::<Vec<_>>());
    let of_second = doubled_ranks(&pairs.iter().map(|pair| pair.1).collect::<Vec<_>>());
    // Twice the mean of the ranks from 1.
    let mean = i64::try_from(pairs.len()).ok()? + 1;
    let apart = |ranks: &[i64]| ranks.iter().map(|rank| rank - mean).collect::<Vec<_>>();
    let (first, second) = (apart(&of_first), apart(&of_second));
    let products = |a: &[i64], b: &[i64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<i64>();
    let squares = products(&first, &first).checked_mul(products(&second, &second))?;
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    (squares > 0).then(|| (products(&first, &second) as f64 / (squares as f64).sqrt()).clamp(-1.0, 1.0))
}

/// Twice the rank of each, from 1: so the mean of two ranks is a whole number.
fn doubled_ranks(values: &[i64]) -> Vec<i64> {
    let rank = |value: &i64| {
        let less = values.iter().filter(|other| *other < value).count();
        let equal = values.iter().filter(|other| *other == value).count();
        i64::try_from(2 * less + equal + 1).unwrap_or(i64::MAX)
    };
    values.iter().map(rank).collect()
}

fn differences(cells: &[Cell], figure: Figure) -> Differences {
    let mut found = Differences { figure, apart: Vec::new(), not_apart: Vec::new(), not_known: Vec::new() };
    for (at, one) in cells.iter().enumerate() {
        for other in cells[at + 1..].iter().filter(|other| differ_in_one(&one.at, &other.at)) {
            let spread = |cell: &Cell| cell.get(figure).copied().filter(|summary| summary.count > 1);
            let list = match spread(one).zip(spread(other)) {
                None => &mut found.not_known,
                Some((a, b)) if a.is_apart_from(&b) => &mut found.apart,
                Some(_) => &mut found.not_apart,
            };
            list.push(Pair { one: one.at.clone(), other: other.at.clone() });
        }
    }
    found
}

fn differ_in_one(one: &Place, other: &Place) -> bool {
    one.iter().filter(|(axis, value)| other.get(*axis) != Some(value)).count() == 1
}

#[cfg(test)]
mod tests;
