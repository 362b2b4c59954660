//! Reads what is there of a study.

use std::fs;
use std::path::Path;

use serde_json::Value;

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
    let text = fs::read(path).map_err(|error| format!("{RECORD_FILE}: {error}"))?;
    let values = serde_json::Deserializer::from_slice(&text).into_iter::<Value>();
    let read = values.map(|value| {
        let value = value.map_err(|error| error.to_string())?;
        with_schema(value)
    });
    let mut records: Vec<Record> =
        read.collect::<Result<_, _>>().map_err(|why| format!("{RECORD_FILE}: {why}"))?;
    if records.len() > 1 {
        records.retain(|record| record.migration.outcome == Outcome::Completed);
    }
    match (records.pop(), records.len()) {
        (Some(record), 0) => Ok(record),
        (Some(_), others) => Err(format!("{RECORD_FILE} has {} completed migrations", others + 1)),
        (None, _) => Err(format!("{RECORD_FILE} has no migration that could be used")),
    }
}

fn with_schema(value: Value) -> Result<Record, String> {
    match value.get("schema").and_then(Value::as_str) {
        Some(record::SCHEMA) => serde_json::from_value(value).map_err(|error| error.to_string()),
        Some(other) => Err(format!("its schema is `{other}`; this migtrace reads only `{}`", record::SCHEMA)),
        None => Err("it has no schema".to_owned()),
    }
}
