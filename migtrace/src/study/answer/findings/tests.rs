//! Each finding, against what its definition says, worked out in another way.

use proptest::prelude::*;

use super::*;
use crate::study::answer::cells::CellFigure;
use crate::study::answer::summary::Summary;
use crate::study::order;

const PLAN: &str = r#"
title = "x"
[[axis]]
name = "load"
values = ["none", "some", "much"]
[[axis]]
name = "size"
values = ["t", "s"]
[driver]
migrate = "true"
"#;

fn plan() -> Plan {
    toml::from_str(PLAN).unwrap()
}

/// The readings of two figures in the runs of a cell.
type OfCell = Vec<[Reading; 2]>;

fn reading() -> impl Strategy<Value = Reading> {
    (1_i64..12, 0_i64..3, 0_i64..3, any::<bool>()).prop_map(|(value, below, above, is_bounded)| Reading {
        value,
        low: Some((value - below).max(0)),
        high: is_bounded.then_some(value + above),
    })
}

/// The cells of the plan, each with up to three runs.
fn cells() -> impl Strategy<Value = Vec<Cell>> {
    let of_cell = prop::collection::vec([reading(), reading()], 0..4);
    prop::collection::vec(of_cell, 6).prop_map(|all: Vec<OfCell>| {
        order::cells(&plan()).into_iter().zip(all).map(|(at, readings)| cell(at, &readings)).collect()
    })
}

fn cell(at: Place, runs: &OfCell) -> Cell {
    let figures = [Figure::TotalTime, Figure::Stop].into_iter().enumerate().filter_map(|(which, figure)| {
        let readings: Vec<_> = runs.iter().map(|both| both[which]).collect();
        Some(CellFigure { figure, summary: Summary::of(&readings)? })
    });
    let figures = figures.collect();
    Cell { at, planned: 3, runs: vec![], left_out: vec![], figures, phases: vec![], parts: vec![] }
}

fn findings(cells: &[Cell]) -> Findings {
    let layout = TableLayout { rows: Some("load".to_owned()), columns: Some("size".to_owned()) };
    of(&plan(), &layout, cells)
}

fn at<'a>(cells: &'a [Cell], load: &str, size: &str) -> &'a Cell {
    cells.iter().find(|cell| cell.at["load"] == load && cell.at["size"] == size).unwrap()
}

fn median(cell: &Cell, figure: Figure) -> Option<i64> {
    cell.get(figure).map(|summary| summary.median.value)
}

proptest! {
    #[test]
    fn a_ratio_is_that_of_the_last_rows_median_to_the_first_rows(cells in cells()) {
        let found = findings(&cells);
        for (figure, size) in [(Figure::TotalTime, "t"), (Figure::TotalTime, "s"), (Figure::Stop, "t"), (Figure::Stop, "s")] {
            let [first, last] = ["none", "much"].map(|load| median(at(&cells, load, size), figure));
            let ratios = found.ratios.iter().find(|ratios| ratios.figure == figure);
            let ratio = ratios.and_then(|ratios| ratios.of.iter().find(|of| of.at["size"] == size));
            match first.zip(last).filter(|(first, _)| *first > 0) {
                Some((first, last)) => {
                    prop_assert!((ratio.unwrap().ratio.value - last as f64 / first as f64).abs() < 1e-9);
                    prop_assert_eq!(ratio.unwrap().at.len(), 1);
                }
                None => prop_assert!(ratio.is_none()),
            }
        }
    }

    #[test]
    fn every_pair_that_differs_in_one_condition_is_judged_once_and_rightly(cells in cells()) {
        for found in findings(&cells).differences {
            let mut expected = [0, 0, 0];
            for (a, one) in cells.iter().enumerate() {
                for other in &cells[..a] {
                    if (one.at["load"] == other.at["load"]) == (one.at["size"] == other.at["size"]) {
                        continue;
                    }
                    let ends = |cell: &Cell| {
                        let summary = cell.get(found.figure).filter(|summary| summary.count >= 2)?;
                        Some((summary.lowest.unwrap(), summary.highest.unwrap_or(i64::MAX)))
                    };
                    expected[match ends(one).zip(ends(other)) {
                        None => 2,
                        Some(((low, high), (other_low, other_high))) => {
                            usize::from(low.max(other_low) <= high.min(other_high))
                        }
                    }] += 1;
                }
            }
            prop_assert_eq!(expected, [found.apart.len(), found.not_apart.len(), found.not_known.len()]);
        }
    }

    #[test]
    fn the_correlation_is_spearmans(cells in cells()) {
        let both: Vec<(i64, i64)> = cells
            .iter()
            .filter_map(|cell| median(cell, Figure::Stop).zip(median(cell, Figure::TotalTime)))
            .collect();
        let found = findings(&cells).correlation;
        prop_assert_eq!(found.is_some(), both.len() >= 2);
        let Some(found) = found else { return Ok(()) };
        prop_assert_eq!(found.cells, both.len() as u64);
        prop_assert_eq!(found.is_enough, both.len() >= 5);
        let [a, b] = [by_sorting(&both, |pair| pair.0), by_sorting(&both, |pair| pair.1)];
        match (pearson(&a, &b), found.coefficient) {
            (Some(truth), Some(coefficient)) => prop_assert!((truth - coefficient).abs() < 1e-9),
            (truth, coefficient) => prop_assert_eq!(truth, coefficient),
        }
    }

    #[test]
    fn without_ties_it_is_what_the_textbook_says(order in Just((0_i64..9).collect::<Vec<_>>()).prop_shuffle()) {
        let pairs: Vec<(i64, i64)> = (0..).zip(order.iter().map(|place| place * place * 1_000_000_007)).collect();
        let squares: i64 = (0..).zip(&order).map(|(a, b): (i64, &i64)| (a - b) * (a - b)).sum();
        let n = order.len() as f64;
        let truth = 1.0 - 6.0 * squares as f64 / (n * (n * n - 1.0));
        prop_assert!((spearman(&pairs).unwrap() - truth).abs() < 1e-9);
    }
}

/// The rank of each by its place among the sorted; the mean of the places of equal ones.
fn by_sorting(pairs: &[(i64, i64)], which: fn(&(i64, i64)) -> i64) -> Vec<f64> {
    let mut sorted: Vec<i64> = pairs.iter().map(which).collect();
    sorted.sort_unstable();
    let rank = |value: i64| {
        let places: Vec<f64> =
            (0..sorted.len()).filter(|place| sorted[*place] == value).map(|place| place as f64).collect();
        places.iter().sum::<f64>() / places.len() as f64
    };
    pairs.iter().map(|pair| rank(which(pair))).collect()
}

fn pearson(a: &[f64], b: &[f64]) -> Option<f64> {
    let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let sum =
        |f: &dyn Fn(f64, f64) -> f64| a.iter().zip(b).map(|(a, b)| f(a - mean_a, b - mean_b)).sum::<f64>();
    let (aa, bb) = (sum(&|a, _| a * a), sum(&|_, b| b * b));
    (aa > 0.0 && bb > 0.0).then(|| sum(&|a, b| a * b) / (aa.sqrt() * bb.sqrt()))
}

#[test]
fn shares_come_smallest_first() {
    let mut cells: Vec<Cell> = order::cells(&plan()).into_iter().map(|at| cell(at, &vec![])).collect();
    for (cell, value) in cells.iter_mut().zip([300, 100, 200]) {
        let summary = Summary::of(&[Reading { value, low: Some(value), high: None }]).unwrap();
        cell.figures.push(CellFigure { figure: Figure::StopShare, summary });
    }
    let shares = findings(&cells).shares;
    assert_eq!(shares.iter().map(|of| of.share_ppm.value).collect::<Vec<_>>(), [100, 200, 300]);
}
