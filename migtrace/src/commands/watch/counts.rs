//! What a watch has done so far.

use std::collections::BTreeMap;

use migtrace::record::Record;

/// What a watch has done so far.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    /// Migrations that are over, by their outcomes in the words of a record.
    pub(crate) migrations: BTreeMap<&'static str, u64>,
    /// Lines that could not be written.
    pub(crate) lost_lines: u64,
    /// Records that could not be written to the directory.
    pub(crate) lost_records: u64,
    /// Event logs that could not be written to the directory, or lack events.
    pub(crate) lost_logs: u64,
    /// Traces that a collector has taken.
    pub(crate) sent_traces: u64,
    /// Traces that no collector will have.
    pub(crate) lost_traces: u64,
    /// Pairs that were removed since they were too old, or too many.
    pub(crate) removed: u64,
}

impl Counts {
    /// A migration is over.
    pub(super) fn count(&mut self, record: &Record) {
        *self.migrations.entry(record.migration.outcome.as_str()).or_default() += 1;
    }

    /// All of it in one line.
    pub(super) fn line(&self) -> String {
        let all: u64 = self.migrations.values().sum();
        let by_outcome: Vec<_> =
            self.migrations.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        let mut line = format!("{all} migration{}", if all == 1 { "" } else { "s" });
        if !by_outcome.is_empty() {
            line = format!("{line} ({})", by_outcome.join(", "));
        }
        let rest = [
            (self.removed, "old pairs removed"),
            (self.sent_traces, "traces sent"),
            (self.lost_lines, "lines not written"),
            (self.lost_records, "records not written"),
            (self.lost_logs, "event logs incomplete"),
            (self.lost_traces, "traces lost"),
        ];
        for (count, what) in rest.into_iter().filter(|(count, _)| *count > 0) {
            line = format!("{line}; {what}: {count}");
        }
        line
    }
}
