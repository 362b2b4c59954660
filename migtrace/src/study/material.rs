//! Reads what is there of a study.

use std::fs;
use std::path::Path;

use super::answer::{Ended, Material};
use super::directory::{RECORD_FILE, StudyDirectory};
use crate::errors::with_causes;
use crate::record::{self, Outcome, Record};

/// What is in the folder of a study so far. What cannot be read is named in it.
#[must_use]
pub fn read(study: &StudyDirectory) -> Material {
    let mut material = Material::default();
    for folder in study.runs() {
        match folder {
            Ok(folder) if folder.needs_clean_up() => material.under_way += 1,
            Ok(folder) => match folder.run {
                Some(run) => {
                    let record = the_record(&folder.path.join(RECORD_FILE));
                    material.runs.push(Ended { run, record });
                }
                None => material.cut_off += 1,
            },
            Err(error) => material.problems.push(with_causes(&error)),
        }
    }
    material
}

/// The record of a run, or why there is none. Of several, the one of the migration that has completed.
fn the_record(path: &Path) -> Result<Record, String> {
    let json = fs::read(path).map_err(|error| format!("{RECORD_FILE}: {error}"))?;
    let read: Result<Vec<Record>, _> = record::read(&json).collect();
    let mut records = read.map_err(|error| format!("{RECORD_FILE}: {error}"))?;
    if records.len() > 1 {
        records.retain(|record| record.migration.outcome == Outcome::Completed);
    }
    match (records.pop(), records.len()) {
        (Some(record), 0) => Ok(record),
        (Some(_), others) => Err(format!("{RECORD_FILE} has {} completed migrations", others + 1)),
        (None, _) => Err(format!("{RECORD_FILE} has no migration that could be used")),
    }
}
