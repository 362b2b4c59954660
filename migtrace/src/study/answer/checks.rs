//! Whether the figures make sense. What does not is named, never left out.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cells::{Cell, pairs};
use super::reading::{self, Figure, Unit, signed};
use super::{Place, RunFigures, link_rate};
use crate::record::{PhaseName, Record};
use crate::study::environment;
use crate::study::plan::Plan;

/// What must hold.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckName {
    /// The bytes of the phases add up to those of the migration.
    PhasesAddUp,
    /// The bytes did not cross faster than the link allows (`LINK_RATE`).
    WithinLinkRate,
    /// While disks and memory were copied, at least half of the link's rate was used.
    LinkIsUsed,
    /// The stop was not longer than the reachability gap.
    StopWithinReachability,
    /// A loaded guest needed more passes than an unloaded one: the last value of the axis `load` than its first.
    LoadGrowsPasses,
    /// The record's own figures do not contradict each other.
    NoContradictions,
}

/// A check, and what does not fit.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Check {
    /// What must hold.
    pub name: CheckName,
    /// How many runs, or pairs of cells, it was checked in.
    pub checked: u64,
    /// How many of them could not be checked.
    pub not_checked: u64,
    /// Where it does not hold.
    pub misfits: Vec<Misfit>,
}

impl Check {
    const fn new(name: CheckName) -> Self {
        Self { name, checked: 0, not_checked: 0, misfits: Vec::new() }
    }
}

/// Something that does not fit.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Misfit {
    /// Where.
    pub cell: Place,
    /// In which runs.
    pub runs: Vec<u32>,
    /// What was measured, at best.
    pub measured: i64,
    /// What it should be, at least or at most.
    pub limit: i64,
    /// In what both are given; bytes are for each second in the checks of the link.
    pub unit: Unit,
    /// More about it.
    pub says: String,
}

/// What a check finds in one run.
enum Verdict {
    Fits,
    /// What was measured, and what it should be at most or at least.
    Misfit(i64, i64, Unit),
    Contradictions(Vec<String>),
}

impl Verdict {
    fn that(fits: bool, measured: i64, limit: i64, unit: Unit) -> Self {
        if fits { Self::Fits } else { Self::Misfit(measured, limit, unit) }
    }

    fn misfit(self, run: &RunFigures) -> Option<Misfit> {
        let (measured, limit, unit, says) = match self {
            Self::Fits => return None,
            Self::Misfit(measured, limit, unit) => (measured, limit, unit, String::new()),
            Self::Contradictions(found) => {
                (i64::try_from(found.len()).unwrap_or(i64::MAX), 0, Unit::Count, found.join("; "))
            }
        };
        Some(Misfit { cell: run.cell.clone(), runs: vec![run.number], measured, limit, unit, says })
    }
}

pub(super) fn all(plan: &Plan, cells: &[Cell], runs: &[(&RunFigures, &Record)]) -> Vec<Check> {
    let rate = |run: &RunFigures| {
        let bits = link_rate::parse(environment::of_cell(plan, &run.cell).get("LINK_RATE")?)?;
        i64::try_from(bits / 8).ok()
    };
    let mut checks = vec![
        each(runs, CheckName::PhasesAddUp, |_, record| phases_add_up(record)),
        each(runs, CheckName::WithinLinkRate, |run, _| within_rate(run, rate(run)?)),
        each(runs, CheckName::LinkIsUsed, |run, record| is_used(record, rate(run)?)),
        each(runs, CheckName::StopWithinReachability, |run, _| stop_within(run)),
        each(runs, CheckName::NoContradictions, |_, record| Some(no_contradictions(record))),
    ];
    checks.extend(load_grows_passes(plan, cells));
    checks
}

fn each(
    runs: &[(&RunFigures, &Record)],
    name: CheckName,
    check: impl Fn(&RunFigures, &Record) -> Option<Verdict>,
) -> Check {
    let mut found = Check::new(name);
    for (run, record) in runs {
        match check(run, record) {
            None => found.not_checked += 1,
            Some(verdict) => {
                found.checked += 1;
                found.misfits.extend(verdict.misfit(run));
            }
        }
    }
    found
}

fn phases_add_up(record: &Record) -> Option<Verdict> {
    let total = signed(record.traffic.total?.tx.wire_bytes);
    let mut sum = 0_i64;
    for phase in &record.phases {
        sum = sum.saturating_add(signed(phase.traffic?.tx.wire_bytes));
    }
    Some(Verdict::that(sum == total, sum, total, Unit::Bytes))
}

/// How much faster than its rate a link may be for some time: what a token bucket has saved.
const BURST_PERCENT: i64 = 5;

/// Bytes for each second of the whole migration, at least, against the link's.
fn within_rate(run: &RunFigures, rate: i64) -> Option<Verdict> {
    let bytes = run.get(Figure::WireBytes)?.low?;
    let longest = run.get(Figure::TotalTime)?.high?;
    let measured = per_second(bytes, longest)?;
    let limit = rate.saturating_add(rate / 100 * BURST_PERCENT);
    Some(Verdict::that(measured <= limit, measured, rate, Unit::Bytes))
}

/// Bytes for each second in which disks and memory were copied, against half of the link's.
fn is_used(record: &Record, rate: i64) -> Option<Verdict> {
    let is_copying = |name: &PhaseName| matches!(name, PhaseName::DiskSync | PhaseName::Active);
    let (mut bytes, mut time) = (0_i64, 0_i64);
    for phase in record.phases.iter().filter(|phase| is_copying(&phase.name)) {
        bytes = bytes.saturating_add(signed(phase.traffic?.tx.wire_bytes));
        time = time.saturating_add(reading::length_ns(phase));
    }
    let (measured, limit) = (per_second(bytes, time)?, rate / 2);
    Some(Verdict::that(measured >= limit, measured, limit, Unit::Bytes))
}

fn per_second(bytes: i64, ns: i64) -> Option<i64> {
    let each = i128::from(bytes) * 1_000_000_000 / i128::from((ns > 0).then_some(ns)?);
    i64::try_from(each).ok()
}

fn stop_within(run: &RunFigures) -> Option<Verdict> {
    let stop = run.get(Figure::Stop)?;
    let gap = run.get(Figure::Reachability)?;
    let (shortest, longest) = (stop.low?, gap.high?);
    Some(Verdict::that(shortest <= longest, shortest, longest, Unit::Ns))
}

fn no_contradictions(record: &Record) -> Verdict {
    match &record.downtime.contradictions[..] {
        [] => Verdict::Fits,
        found => Verdict::Contradictions(found.to_vec()),
    }
}

/// None where no axis is called `load`, or it has only one value.
fn load_grows_passes(plan: &Plan, cells: &[Cell]) -> Option<Check> {
    let axis = plan.axes.iter().find(|axis| axis.name == "load")?;
    let [first, last] = axis.ends()?;
    let passes = |cell: &Cell| Some(cell.get(Figure::Passes)?.median.value);
    let mut check = Check::new(CheckName::LoadGrowsPasses);
    for [unloaded, loaded] in pairs(cells, &axis.name, [&first.name, &last.name]) {
        let Some((more, fewer)) = passes(loaded).zip(passes(unloaded)) else {
            check.not_checked += 1;
            continue;
        };
        check.checked += 1;
        if more <= fewer {
            check.misfits.push(Misfit {
                cell: loaded.at.clone(),
                runs: loaded.runs.iter().chain(&unloaded.runs).copied().collect(),
                measured: more,
                limit: fewer,
                unit: Unit::Count,
                says: String::new(),
            });
        }
    }
    Some(check)
}
