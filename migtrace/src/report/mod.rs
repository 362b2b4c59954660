//! Records for readers: people and programs.

mod quantities;
pub mod text;

use crate::record::Record;

/// The record as indented JSON, with a newline at its end.
///
/// # Errors
/// When a part of the record has no JSON form, which no record read from an event log has.
pub fn json(record: &Record) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(record).map(|text| text + "\n")
}
