//! The guest, wherever it is: its migration, and how long it was gone.

use super::migration::after;
use super::notes::{Note, estimate, known, list, named_estimate, note};
use super::phases::listened_ns;
use super::{Content, Group, Slice, Track};
use crate::record::{Bar, Disturbance, Estimate, Gap, Mode, Record, bars};
use crate::vocabulary::Lost;

pub(super) fn group(record: &Record, end_ns: i64) -> Group {
    let mut tracks = vec![Track {
        name: "migration".to_owned(),
        content: Content::Slices(vec![migration(record, end_ns)]),
    }];
    tracks.extend(bars(&record.downtime).iter().map(|bar| figure(record, bar)));
    tracks.extend(Track::overlapping("no answer", record.gaps.iter().map(gap).collect()));
    Group { name: "guest".to_owned(), tracks }
}

/// The whole of it, with what is known of it as a whole.
fn migration(record: &Record, end_ns: i64) -> Slice {
    let to_ns = record.total_time.as_ref().map_or(end_ns, |total| after(0, total.value_ns));
    let mut notes = identity(record);
    notes.extend(named_estimate("total_time", record.total_time.as_ref()));
    notes.extend(named_estimate("setup_time", record.setup_time.as_ref()));
    notes.extend(known("listened_ns", listened_ns(record, end_ns)));
    let downtime = &record.downtime;
    notes.extend(known("stopped", downtime.stopped));
    // Where one of them has a bar, that has them, too; here are those without.
    notes.extend(named_estimate("stop", downtime.stop.as_ref()));
    notes.extend(named_estimate("network", downtime.network.as_ref()));
    notes.extend(named_estimate("reachability", downtime.reachability.as_ref()));
    notes.extend(named_estimate("tail", downtime.tail.as_ref()));
    notes.extend(known("qemu_reported_ns", downtime.qemu_reported_ns));
    notes.extend(known("budget_ns", downtime.budget_ns));
    if let Some(brownout) = &downtime.brownout {
        notes.extend(disturbance("brownout_before", &brownout.before));
        notes.extend(disturbance("brownout_after", &brownout.after));
    }
    notes.extend(list("contradictions", downtime.contradictions.iter().map(String::as_str)));
    notes.extend(list("remarks", downtime.remarks.iter().map(String::as_str)));
    notes.extend(missing(record));
    Slice::new(record.migration.outcome.as_str(), 0, to_ns, notes)
}

fn identity(record: &Record) -> Vec<Note> {
    let (migration, vm, qemu) = (&record.migration, &record.vm, &record.qemu);
    let texts = [
        ("migration_id", migration.id.as_deref()),
        ("error", migration.error.as_deref()),
        ("mode", (migration.mode != Mode::Unknown).then_some(migration.mode.as_str())),
        ("vm.uuid", vm.uuid.as_deref()),
        ("vm.name", vm.name.as_deref()),
        ("qemu.version", qemu.version.as_deref()),
        ("qemu.accelerator", qemu.accelerator.as_deref()),
    ];
    let mut notes: Vec<_> = texts.into_iter().filter_map(|(name, text)| known(name, text)).collect();
    notes.extend(known("vm.vcpus", vm.vcpus.map(u64::from)));
    notes.extend(known("vm.memory_bytes", vm.memory_bytes));
    notes.push(note("seen_from_the_start", record.start.seen));
    notes.extend(known("start_realtime_ns", record.start.realtime_ns));
    notes.extend(known("start_error_ns", record.start.error_ns));
    notes
}

fn disturbance(name: &str, worst: &Disturbance) -> Vec<Note> {
    let mut notes: Vec<_> =
        known(&format!("{name}.worst_round_trip_ns"), worst.worst_round_trip_ns).into_iter().collect();
    notes.extend(named_estimate(&format!("{name}.longest_gap"), worst.longest_gap.as_ref()));
    notes
}

/// What the figures lack.
fn missing(record: &Record) -> Vec<Note> {
    let not_measured = record.not_measured.iter().map(|entry| format!("{}: {}", entry.what, entry.why));
    let not_measured: Vec<_> = not_measured.collect();
    let mut notes: Vec<_> =
        list("not_measured", not_measured.iter().map(String::as_str)).into_iter().collect();
    let Lost { ring_buffer, flows, hook_calls, qmp_lines, vcpus } = record.lost;
    let lost = [
        ("lost.ring_buffer", ring_buffer),
        ("lost.flows", flows),
        ("lost.hook_calls", hook_calls),
        ("lost.qmp_lines", qmp_lines),
        ("lost.vcpus", vcpus),
    ];
    notes.extend(lost.into_iter().filter(|(_, count)| *count > 0).map(|(name, count)| note(name, count)));
    notes
}

fn figure(record: &Record, bar: &Bar<'_>) -> Track {
    let name = match bar.name {
        "network" => "network gap",
        "reachability" => "reachability gap",
        name => name,
    };
    let mut slices = between(name, bar.from_ns, bar.figure, Vec::new());
    if bar.name == "reachability" {
        slices[0].notes.extend(named_estimate("tail", record.downtime.tail.as_ref()));
    }
    Track { name: name.to_owned(), content: Content::Slices(slices) }
}

/// A length of time between its bounds: what is certain lies within the slice of its value, and what is possible follows it.
fn between(name: &str, from_ns: i64, figure: &Estimate, more: Vec<Note>) -> Vec<Slice> {
    let value_ns = after(from_ns, figure.value_ns);
    let mut notes = estimate(figure);
    notes.extend(more);
    let mut slice = Slice::new(name, from_ns, value_ns, notes);
    if figure.low_ns > 0 && figure.low_ns < figure.value_ns {
        slice.inner.push(Slice::new("at least", from_ns, after(from_ns, figure.low_ns), Vec::new()));
    }
    let possible = figure.high_ns.filter(|high_ns| *high_ns > figure.value_ns);
    let possible =
        possible.map(|high_ns| Slice::new("at most", value_ns, after(from_ns, high_ns), Vec::new()));
    std::iter::once(slice).chain(possible).collect()
}

/// A time without an answer. Its bounds are beside it: the slices of what is possible would cover the next one.
fn gap(gap: &Gap) -> Slice {
    let name = if gap.is_sure() { "no answer" } else { "possibly no answer" };
    let mut notes = estimate(&gap.length);
    notes.extend([
        note("start.low_ns", gap.start.low_ns),
        note("start.high_ns", gap.start.high_ns),
        note("error_ns", gap.error_ns),
        note("lost", gap.lost),
        note("late", gap.late),
        note("duplicate", gap.duplicate),
        note("worst_round_trip_before_ns", gap.worst_round_trip_ns),
    ]);
    let to_ns = after(gap.start.value_ns, gap.length.value_ns);
    Slice::new(name, gap.start.value_ns, to_ns, notes)
}
