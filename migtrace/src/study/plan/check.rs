//! Whether a plan makes sense.

use std::collections::{BTreeMap, BTreeSet};

use super::error::PlanError;
use super::{Action, Axis, Cell, Plan, references};
use crate::study::environment::{self, RESERVED_PREFIX};
use crate::study::order;

/// A plan of more runs is a slip.
const MOST_RUNS: u64 = 100_000;

pub(super) fn check(plan: &Plan) -> Result<(), PlanError> {
    variables("[variables]", plan.variables.keys())?;
    axes(&plan.axes)?;
    for (index, exception) in plan.exceptions.iter().enumerate() {
        on_axes(plan, &format!("[[except]], the {}", ordinal(index)), exception)?;
    }
    numbers(plan)?;
    convergence(plan)?;
    record(plan)?;
    for (place, axis) in [("report.rows", &plan.report.rows), ("report.columns", &plan.report.columns)] {
        if let Some(axis) = axis {
            find_axis(plan, place, axis)?;
        }
    }
    if plan.report.rows.is_some() && plan.report.rows == plan.report.columns {
        return wrong("[report]", "rows and columns are the same axis; name two");
    }
    let published = plan.published.iter().flat_map(|published| &published.cells);
    for (index, cell) in published.enumerate() {
        on_axes(plan, &format!("published.cells, the {}", ordinal(index)), &cell.at)?;
    }
    Ok(())
}

fn wrong<T>(place: impl Into<String>, why: impl Into<String>) -> Result<T, PlanError> {
    Err(PlanError::sense(place, why))
}

/// `1st`, `2nd`.
fn ordinal(index: usize) -> String {
    let number = index + 1;
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

fn variables<'n>(place: &str, names: impl Iterator<Item = &'n String>) -> Result<(), PlanError> {
    for name in names {
        if !environment::is_name(name) {
            return wrong(
                place,
                format!("`{name}` is not the name of an environment variable; write for example MEMORY_MIB"),
            );
        }
        if name.starts_with(RESERVED_PREFIX) {
            return wrong(
                place,
                format!(
                    "`{name}` begins with {RESERVED_PREFIX}, as only migtrace's own variables do; rename it"
                ),
            );
        }
    }
    Ok(())
}

fn axes(axes: &[Axis]) -> Result<(), PlanError> {
    if axes.is_empty() {
        return wrong("[[axis]]", "there is none; a study varies at least one condition");
    }
    let mut of_variables = BTreeMap::new();
    let mut setters: BTreeMap<&str, &str> = BTreeMap::new();
    for Axis { name, values, .. } in axes {
        let place = format!("axis `{name}`");
        if !is_identifier(name) {
            return wrong(place, "its name must begin with a small letter and have only a-z, 0-9, _ and -");
        }
        let variable = environment::of_axis(name);
        if environment::OWN.contains(&variable.as_str()) {
            return wrong(
                place,
                format!("its variable would be {variable}, which has another meaning; rename it"),
            );
        }
        if let Some(other) = of_variables.insert(variable.clone(), name) {
            let why = if other == name {
                "it is there twice; remove or rename one".to_owned()
            } else {
                format!("it and axis `{other}` both give the variable {variable}; rename one")
            };
            return wrong(place, why);
        }
        if values.is_empty() {
            return wrong(place, "it has no values; give it at least one, such as values = [\"small\"]");
        }
        let mut names = BTreeSet::new();
        for value in values {
            let of_value = format!("{place}, value `{}`", value.name);
            if value.name.trim().is_empty() {
                return wrong(place, "a value has an empty name");
            }
            if !names.insert(&value.name) {
                return wrong(of_value, "it is there twice; remove or rename one");
            }
            variables(&of_value, value.set.keys())?;
            for set in value.set.keys() {
                if let Some(other) = setters.insert(set, name).filter(|other| other != name) {
                    return wrong(
                        of_value,
                        format!("it sets {set}, as axis `{other}` does; only one axis can"),
                    );
                }
            }
        }
    }
    Ok(())
}

fn is_identifier(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_lowercase())
        && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-')
}

fn find_axis<'p>(plan: &'p Plan, place: &str, name: &str) -> Result<&'p Axis, PlanError> {
    let found = plan.axes.iter().find(|axis| axis.name == name);
    found.ok_or_else(|| {
        let known: Vec<_> = plan.axes.iter().map(|axis| axis.name.as_str()).collect();
        PlanError::sense(place, format!("there is no axis `{name}`; the axes are {}", known.join(", ")))
    })
}

/// Names of axes with names of their values.
fn on_axes(plan: &Plan, place: &str, names: &Cell) -> Result<(), PlanError> {
    if names.is_empty() {
        return wrong(place, "it names no axis; write for example flavour = \"t\"");
    }
    for (axis, name) in names {
        let axis = find_axis(plan, place, axis)?;
        if axis.values.iter().all(|value| value.name != *name) {
            let known: Vec<_> = axis.values.iter().map(|value| value.name.as_str()).collect();
            let why =
                format!("axis `{}` has no value `{name}`; its values are {}", axis.name, known.join(", "));
            return wrong(place, why);
        }
    }
    Ok(())
}

fn numbers(plan: &Plan) -> Result<(), PlanError> {
    if plan.runs.repetitions == 0 {
        return wrong("runs.repetitions", "it is 0; each cell is run at least once");
    }
    if plan.runs.attempts == 0 {
        return wrong("runs.attempts", "it is 0; each run is tried at least once");
    }
    let limits = [
        ("limits.prepare", plan.limits.prepare),
        ("limits.migrate", plan.limits.migrate),
        ("limits.clean_up", plan.limits.clean_up),
    ];
    if let Some((place, _)) = limits.iter().find(|(_, limit)| limit.is_zero()) {
        return wrong(*place, "it is zero; nothing ends in no time");
    }
    let values = plan.axes.iter().map(|axis| axis.values.len() as u64);
    let cells = values.fold(1, u64::saturating_mul);
    let blocks = u64::from(plan.runs.repetitions) + u64::from(plan.runs.warm_up);
    if cells.saturating_mul(blocks) > MOST_RUNS {
        let why = format!("{cells} cells {blocks} times are more than {MOST_RUNS} runs");
        return wrong("[runs]", why);
    }
    if order::cells(plan).is_empty() {
        return wrong("[[except]]", "nothing is left to run; remove an exception");
    }
    Ok(())
}

fn convergence(plan: &Plan) -> Result<(), PlanError> {
    let Some(convergence) = &plan.convergence else {
        return match plan.driver.converge {
            Some(_) => wrong("driver.converge", "there is no [convergence] that says when to run it; add it"),
            None => Ok(()),
        };
    };
    let action = convergence.action.name();
    if convergence.action == Action::AutoConverge {
        return match convergence.after {
            Some(_) => wrong(
                "convergence.after",
                "with auto-converge the driver slows the guest down from the beginning; remove it",
            ),
            None => Ok(()),
        };
    }
    match convergence.after {
        None => {
            return wrong(
                "[convergence]",
                format!("{action} after which time? write for example after = \"2m\""),
            );
        }
        Some(after) if after.is_zero() => {
            return wrong("convergence.after", "it is zero; write for example \"2m\"");
        }
        Some(after) if after >= plan.limits.migrate => {
            return wrong(
                "convergence.after",
                "limits.migrate ends the migration before that; raise the limit or lower this",
            );
        }
        Some(_) => {}
    }
    if plan.driver.converge.is_none() {
        return wrong(
            "driver.converge",
            format!("there is none, so nothing could {action}; add the command"),
        );
    }
    Ok(())
}

fn record(plan: &Plan) -> Result<(), PlanError> {
    let record = &plan.record;
    if record.probe.is_none() && (record.probe_from.is_some() || record.probe_interval.is_some()) {
        return wrong(
            "record.probe",
            "it says whom to ping, and there is none beside the other probe options",
        );
    }
    for (place, command) in [("record.command", &record.command), ("record.rsh", &record.rsh)] {
        let words = command.as_deref().map(shell_words::split);
        if words.is_some_and(|words| words.map_or(true, |words| words.is_empty())) {
            return wrong(place, "it is not a command line; look for a missing quote");
        }
    }
    // Their files and formats are the study's own.
    for option in &record.options {
        let name = option.split('=').next().unwrap_or_default();
        if ["--output", "--format", "--events"].contains(&name) {
            return wrong("record.options", format!("{name} is set by the study; remove it"));
        }
    }
    if plan.driver.prepare.is_some() {
        // It may set any variable.
        return Ok(());
    }
    for cell in order::cells(plan) {
        let known = environment::of_cell(plan, &cell);
        for (place, text) in references::texts(plan) {
            let is_set = |name: &str| {
                known.contains_key(name)
                    || name.starts_with(RESERVED_PREFIX)
                    || std::env::var_os(name).is_some()
            };
            if let Some(name) = references::needed(text).into_iter().find(|name| !is_set(name)) {
                let names: Vec<_> = plan.names_of(&cell).collect();
                let why = format!(
                    "nothing sets `${name}` for {}; set it on an axis or in [variables]",
                    names.join(", ")
                );
                return wrong(place, why);
            }
        }
    }
    Ok(())
}
