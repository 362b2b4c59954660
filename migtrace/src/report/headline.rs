//! The first line: which VM, how its migration ended, what was sent, and for how long the guest stopped.

use super::content::{Piece, Section, UNKNOWN, clean, said};
use super::quantities::{bytes, duration, estimate, offset};
use super::summary::second;
use crate::record::{FlowRecord, Outcome, Record, Vantage};
use crate::vocabulary::{Lost, Purpose};

pub(super) fn section(record: &Record) -> Section {
    let line = format!("{}: {}", vm(record), result(record));
    Section::untitled(vec![said("", line), Piece::Space])
}

/// A record in one line: when it began, which VM, from where to where, how it ended, what was sent, and for how long the guest
/// stopped. Everything in it is safe for a terminal.
#[must_use]
pub fn line(record: &Record) -> String {
    let (from, to) = hosts(record);
    format!("{} {} {from} -> {to}: {}", second(&record.start), vm(record), result(record))
}

fn result(record: &Record) -> String {
    let (outcome, time, sent, stop) = (outcome(record), time(record), sent(record), stop(record));
    format!("{outcome}{time}; sent {sent}; {stop}")
}

/// The source and the destination: the name of a host that has observed it, else the address of the memory stream's end.
fn hosts(record: &Record) -> (String, String) {
    let name = |role: Vantage| {
        let found = record.observers.iter().find(|observer| observer.role == role);
        found.map(|observer| clean(&observer.host))
    };
    let of_one = record.observers.first().map(|observer| observer.role);
    let is_memory = |flow: &&FlowRecord| flow.purpose != Purpose::Nbd;
    let flow = record.traffic.flows.iter().find(is_memory).or_else(|| record.traffic.flows.first());
    let other = || flow.map_or(UNKNOWN.to_owned(), |flow| flow.flow.remote.ip().to_canonical().to_string());
    let end = |role: Vantage| {
        name(role).unwrap_or_else(|| if of_one == Some(role) { UNKNOWN.to_owned() } else { other() })
    };
    (end(Vantage::Source), end(Vantage::Destination))
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
