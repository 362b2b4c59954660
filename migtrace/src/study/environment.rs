//! The environment variables by which the commands of a plan know their run.

use std::path::{Path, PathBuf};

use super::order::PlannedRun;
use super::plan::{Cell, Convergence, Plan, Variables};

/// What the names of migtrace's own variables begin with.
pub(super) const RESERVED_PREFIX: &str = "STUDY_";

/// The folder of the run.
pub const DIRECTORY: &str = "STUDY_DIRECTORY";
/// The file of [`variables_file`].
const VARIABLES: &str = "STUDY_VARIABLES";
const RUN: &str = "STUDY_RUN";
const REPETITION: &str = "STUDY_REPETITION";
const ATTEMPT: &str = "STUDY_ATTEMPT";
const CONVERGENCE: &str = "STUDY_CONVERGENCE";
const CONVERGENCE_AFTER_S: &str = "STUDY_CONVERGENCE_AFTER_S";

/// Those that no axis can have.
pub(super) const OWN: [&str; 7] =
    [VARIABLES, DIRECTORY, RUN, REPETITION, ATTEMPT, CONVERGENCE, CONVERGENCE_AFTER_S];

/// Whether a shell takes this as the name of a variable.
pub(super) fn is_name(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The variable with the name of an axis' value.
pub(super) fn of_axis(name: &str) -> String {
    format!("{RESERVED_PREFIX}{}", name.to_ascii_uppercase().replace('-', "_"))
}

/// What a cell sets: the variables of the plan, those of the cell's values, and the names of the values.
#[must_use]
pub fn of_cell(plan: &Plan, cell: &Cell) -> Variables {
    let mut all = plan.variables.clone();
    for axis in &plan.axes {
        let value = axis.values.iter().find(|value| cell.get(&axis.name) == Some(&value.name));
        if let Some(value) = value {
            all.extend(value.set.clone());
            all.insert(of_axis(&axis.name), value.name.clone());
        }
    }
    all
}

/// What the commands of a run have before `driver.prepare` has set more.
#[must_use]
pub fn of_run(plan: &Plan, run: &PlannedRun, attempt: u32, folder: &Path) -> Variables {
    let mut all = of_cell(plan, &run.cell);
    let (action, after_s) = match &plan.convergence {
        Some(Convergence { action, after }) => (action.name(), after.map(|after| after.as_secs_f64())),
        None => ("", None),
    };
    all.extend(
        [
            (RUN, run.number.to_string()),
            (REPETITION, run.repetition.map_or_else(|| "w".to_owned(), |number| number.to_string())),
            (ATTEMPT, attempt.to_string()),
            (DIRECTORY, folder.display().to_string()),
            (VARIABLES, variables_file(folder).display().to_string()),
            (CONVERGENCE, action.to_owned()),
            (CONVERGENCE_AFTER_S, after_s.map(|after_s| after_s.to_string()).unwrap_or_default()),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    all
}

/// The file in the folder of a run into which `driver.prepare` writes `NAME=VALUE` lines.
#[must_use]
pub fn variables_file(folder: &Path) -> PathBuf {
    folder.join("variables")
}

/// Reads what `driver.prepare` has written: `NAME=VALUE` lines. Empty lines and those that begin with `#` say nothing.
///
/// # Errors
/// A line that is none, with what is wrong with it.
pub fn parse_variables(text: &str) -> Result<Variables, String> {
    let mut all = Variables::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let number = index + 1;
        let Some((name, value)) = line.split_once('=') else {
            return Err(format!("line {number}, `{line}`, is not NAME=VALUE"));
        };
        if !is_name(name) {
            return Err(format!("line {number}: `{name}` is not the name of a variable"));
        }
        if name.starts_with(RESERVED_PREFIX) {
            return Err(format!("line {number}: {name} is migtrace's own"));
        }
        if value.contains('\0') {
            return Err(format!("line {number}: the value of {name} has a NUL"));
        }
        all.insert(name.to_owned(), value.to_owned());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_variables_are_read_strictly() {
        let read = parse_variables("# the guest\nGUEST_ADDRESS=10.0.0.5\n\nNOTE=a = b\nEMPTY=\n").unwrap();
        let read: Vec<_> = read.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(read, [("EMPTY", ""), ("GUEST_ADDRESS", "10.0.0.5"), ("NOTE", "a = b")]);
        for (text, words) in [
            ("GUEST", "line 1, `GUEST`, is not NAME=VALUE"),
            ("A=1\nB C=2", "line 2: `B C` is not the name"),
            ("export A=1", "`export A` is not the name"),
            ("STUDY_RUN=9", "STUDY_RUN is migtrace's own"),
            ("=1", "`` is not the name"),
        ] {
            let error = parse_variables(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
