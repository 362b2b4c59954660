//! How `record` ends, judged by its record.

use migtrace::record::{Outcome, Record};

use super::time_limits;
use crate::cli::RecordArgs;
use crate::commands::Exit;

/// How the command ends, and why if that is not with success.
pub(super) struct Verdict {
    pub(super) exit: Exit,
    pub(super) why: Vec<String>,
}

impl Verdict {
    pub(super) fn of(options: &RecordArgs, records: &[Record]) -> Self {
        let not_completed = |why: String| Self { exit: Exit::MigrationDidNotComplete, why: vec![why] };
        for record in records {
            match record.migration.outcome {
                Outcome::Completed | Outcome::Unknown => {}
                Outcome::Failed => {
                    let error = record.migration.error.as_ref().map(|error| format!(": {error}"));
                    return not_completed(format!("the migration failed{}", error.unwrap_or_default()));
                }
                Outcome::Cancelled => return not_completed("the migration was cancelled".into()),
                Outcome::Interrupted => {
                    return not_completed("the recording ended before the migration did".into());
                }
            }
        }
        let why: Vec<_> = records.iter().flat_map(|record| time_limits::not_met(options, record)).collect();
        Self { exit: if why.is_empty() { Exit::Done } else { Exit::LimitNotMet }, why }
    }
}
