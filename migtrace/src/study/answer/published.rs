//! Figures that others have published, beside the measured. They are from other hardware: only their shape is compared.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Place;
use super::cells::{Cell, is_known};
use super::reading::Figure;
use super::summary::Ratio;
use crate::study::plan::{Published, PublishedCell, has_all};

/// Figures of others.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct PublishedFigures {
    /// Who published them.
    pub source: String,
    /// The figures, each beside the measured one.
    pub comparisons: Vec<Comparison>,
}

/// One published figure beside a measured one.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Comparison {
    /// The measured figure.
    pub figure: Figure,
    /// The cell whose numbers all others are divided by: the first that has both. Null if there is none.
    pub base: Option<Place>,
    /// The published numbers.
    pub cells: Vec<PublishedNumber>,
}

/// A published number.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct PublishedNumber {
    /// Of which cell.
    pub at: Place,
    /// The number, in seconds, or in MB (10^6 bytes).
    pub number: f64,
    /// How many times that of the base it is; null without a base.
    pub times: Option<f64>,
    /// How many times that of the base the measured figure is; null where it is not known.
    pub measured_times: Option<Ratio>,
}

/// One of a published cell's numbers.
type NumberOf = fn(&PublishedCell) -> Option<f64>;

/// Published numbers beside the measured figures.
pub(super) fn beside(published: &Published, cells: &[Cell]) -> PublishedFigures {
    // What was published as downtime is how long echo requests were not answered.
    let downtime = if is_known(cells, Figure::Reachability) { Figure::Reachability } else { Figure::Stop };
    let figures: [(Figure, NumberOf); 3] = [
        (Figure::TotalTime, |cell| cell.time_s),
        (downtime, |cell| cell.downtime_s),
        (Figure::WireBytes, |cell| cell.data_mb),
    ];
    let comparisons =
        figures.into_iter().map(|(figure, number)| comparison(published, cells, figure, number));
    PublishedFigures {
        source: published.source.clone(),
        comparisons: comparisons.filter(|comparison| !comparison.cells.is_empty()).collect(),
    }
}

fn comparison(published: &Published, cells: &[Cell], figure: Figure, number: NumberOf) -> Comparison {
    let number_of = |cell: &Cell| {
        let mut of_it = published.cells.iter().filter(|published| has_all(&cell.at, &published.at));
        of_it.find_map(number)
    };
    let numbers: Vec<(&Cell, f64)> = cells.iter().filter_map(|cell| Some((cell, number_of(cell)?))).collect();
    let is_base = |(cell, number): &&(&Cell, f64)| {
        *number > 0.0 && cell.get(figure).is_some_and(|summary| summary.median.value > 0)
    };
    let base = numbers.iter().find(is_base);
    let beside = |(cell, number): &(&Cell, f64)| PublishedNumber {
        at: cell.at.clone(),
        number: *number,
        times: base.map(|(_, of_base)| number / of_base),
        measured_times: base.and_then(|(base, _)| measured_times(cell, base, figure)),
    };
    Comparison {
        figure,
        base: base.map(|(cell, _)| cell.at.clone()),
        cells: numbers.iter().map(beside).collect(),
    }
}

/// How many times that of the base a figure is. The base itself is exactly once.
fn measured_times(cell: &Cell, base: &Cell, figure: Figure) -> Option<Ratio> {
    if cell.at == base.at {
        return Some(Ratio { value: 1.0, low: 1.0, high: Some(1.0) });
    }
    Ratio::of(cell.get(figure)?, base.get(figure)?)
}
