//! The first line: which VM, how its migration ended, what was sent, and for how long the guest stopped.

use super::content::{Piece, Section, UNKNOWN, said};
use super::quantities::{bytes, duration, estimate, offset};
use crate::record::{Outcome, Record};
use crate::vocabulary::Lost;

pub(super) fn section(record: &Record) -> Section {
    let (vm, outcome, time, sent, stop) =
        (vm(record), outcome(record), time(record), sent(record), stop(record));
    let line = format!("{vm}: {outcome}{time}; sent {sent}; {stop}");
    Section::untitled(vec![said("", line), Piece::Space])
}

/// What the VM is called.
pub(super) fn vm(record: &Record) -> String {
    record.vm.shown_name()
}

pub(super) const fn outcome(record: &Record) -> &'static str {
    match record.migration.outcome {
        Outcome::Completed => "completed",
        Outcome::Failed => "FAILED",
        Outcome::Cancelled => "cancelled",
        Outcome::Interrupted => "still running when the recording ended",
        Outcome::Unknown => "ended with unknown outcome",
    }
}

fn time(record: &Record) -> String {
    match (&record.total_time, record.phases.last()) {
        (Some(total), _) if record.migration.outcome == Outcome::Completed => {
            format!(" in {}", estimate(total))
        }
        (Some(total), _) => format!(" after {}", estimate(total)),
        (None, Some(last)) => format!(" after {}", offset(last.end_ns)),
        (None, None) => String::new(),
    }
}

/// How much the source sent.
pub(super) fn sent(record: &Record) -> String {
    let Some(total) = record.traffic.total else { return UNKNOWN.to_owned() };
    let is_incomplete =
        record.lost != Lost::default() || record.traffic.flows.iter().any(|flow| !flow.from_start);
    format!("{}{}", if is_incomplete { "at least " } else { "" }, bytes(total.tx.wire_bytes))
}

/// How long the guest did not run.
fn stop(record: &Record) -> String {
    match (&record.downtime.stop, record.downtime.qemu_reported_ns) {
        (Some(stop), _) => format!("stop {}", estimate(stop)),
        (None, _) if record.downtime.never_stopped() => "the guest was not stopped".to_owned(),
        (None, Some(ns)) => format!("stop {UNKNOWN} (QEMU reports {})", duration(ns)),
        (None, None) => format!("stop {UNKNOWN}"),
    }
}
