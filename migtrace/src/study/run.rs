//! What one migration of a study left beside its record.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::order::PlannedRun;
use super::plan::{Cell, Variables};
use crate::vocabulary::NotMeasured;

/// The schema name that every run carries.
pub const SCHEMA: &str = "migtrace.run/1";

/// One run of a study: one attempt to migrate a guest under the conditions of one cell.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Run {
    /// [`SCHEMA`].
    pub schema: String,
    /// Its number in the order of the study, from 1.
    pub number: u32,
    /// Its cell: the name of each axis with that of its value.
    pub cell: Cell,
    /// Which of the cell's repetitions it is, from 1; null for a warm-up.
    pub repetition: Option<u32>,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// How it ended.
    pub outcome: RunOutcome,
    /// When it began, by this machine's wall clock: RFC 3339.
    pub start: String,
    /// How long `driver.prepare` took; null if there is none, or it did not end.
    pub prepare_ns: Option<u64>,
    /// How long `driver.migrate` took: the driver's own migration time. Null if it did not end.
    pub migrate_ns: Option<u64>,
    /// How long the whole run took, its clean-up included.
    pub run_ns: u64,
    /// How long after its beginning the migration was made to end; null if it ended by itself.
    pub converged_after_ns: Option<u64>,
    /// The variables that `driver.prepare` set.
    pub variables: Variables,
    /// What the method of lost pings and a byte meter found.
    pub old_method: OldMethodResult,
    /// What was not measured of that, and why.
    pub not_measured: Vec<NotMeasured>,
    /// Why `driver.clean_up` failed, if it did: the runs after this one may have found something of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean_up_failed: Option<String>,
}

impl Run {
    /// What is known of an attempt at a run before anything was measured.
    #[must_use]
    pub fn new(planned: &PlannedRun, attempt: u32, outcome: RunOutcome, start: String) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            number: planned.number,
            cell: planned.cell.clone(),
            repetition: planned.repetition,
            attempt,
            outcome,
            start,
            prepare_ns: None,
            migrate_ns: None,
            run_ns: 0,
            converged_after_ns: None,
            variables: Variables::new(),
            old_method: OldMethodResult::default(),
            not_measured: Vec::new(),
            clean_up_failed: None,
        }
    }
}

/// How a run ended.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum RunOutcome {
    /// The migration has completed, and its record is there.
    Completed,
    /// Something failed.
    Failed {
        /// What, and why.
        why: String,
    },
}

/// What the method of lost pings and a byte meter found.
#[non_exhaustive]
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct OldMethodResult {
    /// The pings; null if there were none.
    pub pings: Option<Pings>,
    /// The bytes; null if they were not metered.
    pub meter: Option<Meter>,
}

/// Echo requests at a fixed interval, from before the migration until after it.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Pings {
    /// The time between two of them.
    pub interval_ns: u64,
    /// How many were sent.
    pub sent: u64,
    /// How many were not answered.
    pub lost: u64,
}

impl Pings {
    /// The downtime that this method gives: as many intervals as requests were lost.
    #[must_use]
    pub const fn downtime_ns(&self) -> u64 {
        self.lost.saturating_mul(self.interval_ns)
    }
}

/// What the counters of an interface grew by from before the migration until after it.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Meter {
    /// On which host; null for the one that ran the study.
    pub host: Option<String>,
    /// At which interfaces.
    pub interfaces: Vec<String>,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Bytes received.
    pub rx_bytes: u64,
}
