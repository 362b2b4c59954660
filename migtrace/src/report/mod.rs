//! Records for readers: people and programs.

mod downtime;
mod echo;
pub mod probe;
mod quantities;
pub mod text;

pub use quantities::{duration, duration_beside};
use serde::Serialize;

use crate::terminal;

/// A record, or the report of a probe, as indented JSON, with a newline at its end.
///
/// # Errors
/// When a part of it has no JSON form, which no record read from an event log has.
pub fn json(record: &impl Serialize) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(record).map(|text| terminal::clean_json(&text).into_owned() + "\n")
}

/// As [`json`], but on one line: several of them are JSON Lines.
///
/// # Errors
/// As [`json`].
pub fn json_line(record: &impl Serialize) -> Result<String, serde_json::Error> {
    serde_json::to_string(record).map(|text| terminal::clean_json(&text).into_owned() + "\n")
}

/// A time as one would write it on the command line: `1ms`, `12.5ms`, `2s`.
pub(crate) fn duration_argument(time: std::time::Duration) -> String {
    if time.subsec_nanos() == 0 {
        return format!("{}s", time.as_secs());
    }
    format!("{}us", time.as_micros())
}
