//! What was observed, where and when.

use jiff::Timestamp;

use super::content::{Piece, Section, UNKNOWN, clean, side};
use super::quantities::{bytes, duration, estimate};
use crate::record::{Alignment, Estimate, Mode, Observer, Record, Start, Vm};

pub(super) fn section(record: &Record) -> Section {
    let qemu = [record.qemu.version.as_deref(), record.qemu.accelerator.as_deref()];
    let mut named = vec![("VM", vm(&record.vm)), ("QEMU", listed(qemu.into_iter().flatten().map(clean)))];
    named.extend(record.observers.iter().map(|seen_from| ("Observed on", observer(seen_from))));
    named.extend([
        ("Started", start(&record.start)),
        ("Mode", mode(record.migration.mode).to_owned()),
        ("Total", with_method(record.total_time.as_ref())),
        ("Setup", with_method(record.setup_time.as_ref())),
        ("Id", record.migration.id.as_deref().map_or(UNKNOWN.to_owned(), clean)),
    ]);
    named.extend(record.migration.error.as_deref().map(|error| ("Error", clean(error))));
    Section::untitled(named.into_iter().map(|(name, value)| Piece::Named(name, value)).collect())
}

pub(super) const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Precopy => "pre-copy",
        Mode::Postcopy => "post-copy",
        Mode::Unknown => UNKNOWN,
    }
}

fn vm(vm: &Vm) -> String {
    let vcpus = vm.vcpus.map(|n| format!("{n} vCPU{}", if n == 1 { "" } else { "s" }));
    let memory = vm.memory_bytes.map(|n| format!("{} memory", bytes(n)));
    let (name, uuid) = (vm.name.as_deref().map(clean), vm.uuid.as_deref().map(clean));
    listed([name, vcpus, memory, uuid].into_iter().flatten())
}

fn observer(observer: &Observer) -> String {
    let role = side(observer.role);
    let (host, kernel, migtrace) =
        (clean(&observer.host), clean(&observer.kernel), clean(&observer.migtrace));
    let clock = observer.alignment.as_ref().map(clock).unwrap_or_default();
    format!("{host} ({role}), Linux {kernel}, migtrace {migtrace}{clock}")
}

/// By how much the clock of another host is ahead of the record's, or behind it, and how well that is known. The monotonic
/// clock counts from the boot, so the difference is mostly that of the boots.
fn clock(alignment: &Alignment) -> String {
    match (alignment.low_ns, alignment.high_ns) {
        (Some(low), Some(high)) => format!("; clock known to ± {}", duration(high.abs_diff(low).div_ceil(2))),
        _ => "; clock not known".to_owned(),
    }
}

/// The wall time of the start, to the second.
pub(super) fn second(start: &Start) -> String {
    wall_time(start).map_or(UNKNOWN.to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

fn wall_time(start: &Start) -> Option<Timestamp> {
    start.realtime_ns.and_then(|ns| Timestamp::from_nanosecond(ns.into()).ok())
}

pub(super) fn start(start: &Start) -> String {
    let mut said = wall_time(start).map_or(UNKNOWN.to_owned(), |time| {
        let error = start.error_ns.map_or(String::new(), |error_ns| format!(" ± {}", duration(error_ns)));
        format!("{}{error}", time.strftime("%Y-%m-%d %H:%M:%S.%6f UTC"))
    });
    if !start.seen {
        said.push_str(" (first seen; the migration began earlier)");
    }
    said
}

fn with_method(length: Option<&Estimate>) -> String {
    let said = |length: &Estimate| format!("{} ({})", estimate(length), clean(length.method.as_str()));
    length.map_or(UNKNOWN.to_owned(), said)
}

fn listed(known: impl Iterator<Item = String>) -> String {
    let known: Vec<_> = known.collect();
    if known.is_empty() { UNKNOWN.to_owned() } else { known.join(", ") }
}
