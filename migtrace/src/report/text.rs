//! A record as a person reads it after the migration, in at most [`WIDTH`] columns and without colour.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde_json::Value;
use unicode_width::UnicodeWidthChar as _;

use super::quantities::{self, bytes, duration, estimate, grouped, offset, percent, rate};
use super::{downtime, echo};
use crate::record::{Estimate, FlowRecord, Mode, Outcome, Phase, Record, Role};
use crate::terminal;
use crate::units::{Counters, Directions};
use crate::vocabulary::{Lost, Purpose};

/// The longest line, in columns.
pub const WIDTH: u16 = 100;

/// Stands for what is not known; the list of what was not measured says why.
pub(super) const UNKNOWN: &str = "unknown";
/// Stands for what does not apply.
const NONE: &str = "-";

/// What `query-migrate` tells; by this name it stands in `not_measured` when QEMU did not answer.
pub const OWN_FIGURES: &str = "QEMU's own figures";

const NS_PER_MS: u64 = 1_000_000;

/// The report of one migration.
#[must_use]
pub fn render(record: &Record) -> String {
    let mut text = String::new();
    wrap(&mut text, "", &headline(record));
    text.push('\n');
    facts(record, &mut text);
    downtime::draw(record, &mut text);
    echo::section(record, &mut text);
    phases(record, &mut text);
    flows(record, &mut text);
    totals(record, &mut text);
    claims(record, &mut text);
    not_measured(record, &mut text);
    lost(record, &mut text);
    text
}

fn headline(record: &Record) -> String {
    let vm = clean(record.vm.name.as_deref().or(record.vm.uuid.as_deref()).unwrap_or("unknown VM"));
    let outcome = match record.migration.outcome {
        Outcome::Completed => "completed",
        Outcome::Failed => "FAILED",
        Outcome::Cancelled => "cancelled",
        Outcome::Interrupted => "not over when the recording ended",
        Outcome::Unknown => "ended (how is unknown)",
    };
    let time = match (&record.total_time, record.phases.last()) {
        (Some(total), _) if record.migration.outcome == Outcome::Completed => {
            format!(" in {}", estimate(total))
        }
        (Some(total), _) => format!(" after {}", estimate(total)),
        (None, Some(last)) => format!(" after {}", offset(last.end_ns)),
        (None, None) => String::new(),
    };
    let missed = record.lost != Lost::default() || record.traffic.flows.iter().any(|f| !f.from_start);
    let sent = record.traffic.total.map_or(UNKNOWN.to_owned(), |t| {
        format!("{}{}", if missed { "at least " } else { "" }, bytes(t.tx.wire_bytes))
    });
    format!("{vm}: {outcome}{time}; sent {sent}; {}", stop(record))
}

/// How long the guest did not run.
fn stop(record: &Record) -> String {
    match (&record.downtime.stop, record.downtime.qemu_reported_ns) {
        (Some(stop), _) => format!("stop {}", estimate(stop)),
        (None, _) if record.downtime.stopped == Some(false) => "the guest was not stopped".to_owned(),
        (None, Some(ns)) => format!("stop {UNKNOWN} (QEMU says {})", duration(ns)),
        (None, None) => format!("stop {UNKNOWN}"),
    }
}

/// What was observed, where and when.
fn facts(record: &Record, text: &mut String) {
    let mut line = |name: &str, value: String| wrap(text, &format!("  {name:<11} "), &value);
    let vm = &record.vm;
    let mut about = Vec::new();
    about.extend(vm.name.as_deref().map(clean));
    about.extend(vm.vcpus.map(|n| format!("{n} vCPU{}", if n == 1 { "" } else { "s" })));
    about.extend(vm.memory_bytes.map(|n| format!("{} memory", bytes(n))));
    about.extend(vm.uuid.as_deref().map(clean));
    line("VM", or_unknown(about.join(", ")));
    let qemu = [record.qemu.version.as_deref(), record.qemu.accelerator.as_deref()];
    line("QEMU", or_unknown(qemu.into_iter().flatten().map(clean).collect::<Vec<_>>().join(", ")));
    for observer in &record.observers {
        let role = match observer.role {
            Role::Source => "source",
            Role::Destination => "destination",
        };
        let (host, kernel) = (clean(&observer.host), clean(&observer.kernel));
        let migtrace = clean(&observer.migtrace);
        line("Observed on", format!("{host} ({role}), Linux {kernel}, migtrace {migtrace}"));
    }
    let started = record.start.realtime_ns.and_then(|ns| Timestamp::from_nanosecond(ns.into()).ok());
    let mut start = started.map_or(UNKNOWN.to_owned(), |t| {
        let error = record.start.error_ns.map_or(String::new(), |e| format!(" ± {}", duration(e)));
        format!("{}{error}", t.strftime("%Y-%m-%d %H:%M:%S.%6f UTC"))
    });
    if !record.start.seen {
        start.push_str(" (first seen; it began earlier)");
    }
    line("Started", start);
    let mode = match record.migration.mode {
        Mode::Precopy => "pre-copy",
        Mode::Postcopy => "post-copy",
        Mode::Unknown => UNKNOWN,
    };
    line("Mode", mode.to_owned());
    let bounded = |estimate: Option<&Estimate>| {
        estimate.map_or(UNKNOWN.to_owned(), |e| {
            format!("{} ({})", quantities::estimate(e), clean(e.method.as_str()))
        })
    };
    line("Total", bounded(record.total_time.as_ref()));
    line("Setup", bounded(record.setup_time.as_ref()));
    line("Id", record.migration.id.as_deref().map_or(UNKNOWN.to_owned(), clean));
    if let Some(error) = &record.migration.error {
        line("Error", clean(error));
    }
}

fn phases(record: &Record, text: &mut String) {
    let mut table = table(["Phase", "Pass", "Start", "Duration", "Sent", "Received", "Rate"], 1);
    for phase in &record.phases {
        let length_ns = u64::try_from(phase.end_ns.saturating_sub(phase.start_ns)).unwrap_or(0);
        let wire = |side: fn(&Directions<Counters>) -> u64| {
            phase.traffic.as_ref().map_or(UNKNOWN.to_owned(), |t| bytes(side(t)))
        };
        table.add_row(right(
            [
                clean(phase.name.as_str()),
                phase.pass.map_or(NONE.to_owned(), |p| p.to_string()),
                offset(phase.start_ns),
                duration(length_ns),
                wire(|t| t.tx.wire_bytes),
                wire(|t| t.rx.wire_bytes),
                phase_rate(phase, length_ns),
            ],
            1,
        ));
    }
    section(text, "Phases (wire bytes)", &table);
}

fn phase_rate(phase: &Phase, length_ns: u64) -> String {
    let Some(traffic) = phase.traffic else { return UNKNOWN.to_owned() };
    rate(traffic.tx.wire_bytes, length_ns).unwrap_or_else(|| NONE.to_owned())
}

fn flows(record: &Record, text: &mut String) {
    if record.traffic.flows.is_empty() {
        return;
    }
    let mut table = table(["Flow", "Carries", "At", "First", "Last", "Sent", "Received", "Resent"], 3);
    for flow in &record.traffic.flows {
        table.add_row(right(
            [
                format!("{}\n- {}", flow.flow.local, flow.flow.remote),
                carries(flow),
                clean(&flow.interface),
                offset(flow.first_ns),
                offset(flow.last_ns),
                bytes(flow.counters.tx.wire_bytes),
                bytes(flow.counters.rx.wire_bytes),
                flow.retransmitted_segments.map_or(UNKNOWN.to_owned(), grouped),
            ],
            3,
        ));
    }
    section(text, "Flows (this host - the other; resent: segments that this host sent again)", &table);
}

fn carries(flow: &FlowRecord) -> String {
    let carries = match flow.purpose {
        Purpose::Ram => "memory",
        Purpose::Multifd => "multifd",
        Purpose::Nbd => "disk",
        Purpose::PostcopyPreempt => "urgent pages",
        Purpose::Tls => "TLS",
        Purpose::Other => "other",
        Purpose::Unknown => UNKNOWN,
    };
    if flow.from_start { carries.to_owned() } else { format!("{carries}, first part not seen") }
}

fn totals(record: &Record, text: &mut String) {
    let Some(total) = record.traffic.total else { return };
    let mut table = table(["", "Wire", "Wire bytes", "Payload bytes", "Headers", "Segments"], 1);
    let mut add = |name: &str, c: &Counters| {
        let headers = percent(c.wire_bytes.saturating_sub(c.payload_bytes), c.wire_bytes);
        table.add_row(right(
            [
                name.to_owned(),
                bytes(c.wire_bytes),
                grouped(c.wire_bytes),
                grouped(c.payload_bytes),
                headers.unwrap_or_else(|| NONE.to_owned()),
                grouped(c.segments),
            ],
            1,
        ));
    };
    add("Sent", &total.tx);
    add("Received", &total.rx);
    if let Some(fragments) = record.traffic.fragments {
        add("Fragments sent", &fragments.tx);
        add("Fragments received", &fragments.rx);
    }
    section(
        text,
        "Totals (sent: from the source to the destination; headers: in percent of the wire bytes)",
        &table,
    );
    let resent = match (record.traffic.retransmitted_segments, record.traffic.retransmitted_payload_bytes) {
        (None, _) => "not measured".to_owned(),
        (Some(segments), None) => format!("{} segments", grouped(segments)),
        (Some(segments), Some(payload)) => {
            format!("{} segments, {} payload", grouped(segments), bytes(payload))
        }
    };
    wrap(text, "  Sent again by this host: ", &resent);
}

/// What QEMU says, beside what was measured.
fn claims(record: &Record, text: &mut String) {
    text.push('\n');
    let Some(stats) = &record.qemu.stats else {
        let in_vain = record.not_measured.iter().any(|entry| entry.what == OWN_FIGURES);
        let why = if in_vain {
            "asked for, and not given (the reason is below)"
        } else {
            "not asked for (--qmp SOCKET asks for them)"
        };
        return wrap(text, &format!("{OWN_FIGURES}: "), why);
    };
    let number = |pointer: &str| stats.pointer(pointer).filter(|v| v.is_number());
    let whole = |pointer: &str| number(pointer).and_then(Value::as_u64);
    let ms = |pointer: &str| whole(pointer).map(|ms| duration(ms.saturating_mul(NS_PER_MS)));
    // QEMU's byte counts are those of the memory stream, without the disks.
    let stream = record.traffic.flows.iter().filter(|f| f.purpose != Purpose::Nbd);
    let payload: u64 = stream.map(|f| f.counters.tx.payload_bytes).fold(0, u64::saturating_add);
    let stream_bytes = record.traffic.total.map(|_| format!("{} payload, memory flows only", bytes(payload)));
    let last_pass = record.phases.iter().filter_map(|p| p.pass).max();
    let average = record.traffic.total.zip(record.phases.last()).and_then(|(total, last)| {
        rate(total.tx.wire_bytes, u64::try_from(last.end_ns).ok()?)
            .map(|r| format!("{r} on the wire, average"))
    });
    let mut table = table([OWN_FIGURES, "QEMU", "Measured"], 1);
    let mut add = |name: &str, says: Option<String>, measured: Option<String>| {
        let measured = measured.unwrap_or_else(|| UNKNOWN.to_owned());
        table.add_row(right([name.to_owned(), says.unwrap_or_else(|| NONE.to_owned()), measured], 1));
    };
    add("transferred", whole("/ram/transferred").map(bytes), stream_bytes);
    add("total-time", ms("/total-time"), record.total_time.as_ref().map(estimate));
    add("setup-time", ms("/setup-time"), record.setup_time.as_ref().map(estimate));
    add("downtime", ms("/downtime"), record.downtime.stop.as_ref().map(estimate));
    add(
        "dirty-sync-count",
        whole("/ram/dirty-sync-count").map(grouped),
        last_pass.map(|p| format!("pass {p} while the guest ran")),
    );
    add("mbps", number("/ram/mbps").and_then(Value::as_f64).map(|mbps| format!("{mbps:.1} Mbit/s")), average);
    let _ = writeln!(text, "{}", trimmed(&table));
}

fn not_measured(record: &Record, text: &mut String) {
    if record.not_measured.is_empty() {
        return;
    }
    text.push_str("\nNot measured:\n");
    for entry in &record.not_measured {
        wrap(text, "  - ", &format!("{}: {}", clean(&entry.what), clean(&entry.why)));
    }
}

fn lost(record: &Record, text: &mut String) {
    let lost = record.lost;
    if lost == Lost::default() {
        return;
    }
    let mut what = format!(
        "{} events (ring buffer full), {} packets (flow table full), {} probe hits",
        grouped(lost.ring_buffer),
        grouped(lost.flows),
        grouped(lost.hook_calls)
    );
    for (count, of) in [(lost.qmp_lines, "lines of QMP"), (lost.vcpus, "runs of vCPUs (vCPU table full)")] {
        if count > 0 {
            let _ = write!(what, ", {} {of}", grouped(count));
        }
    }
    what.push_str("; every figure above is a lower bound");
    text.push('\n');
    wrap(text, "Lost: ", &what);
}

fn or_unknown(text: String) -> String {
    if text.is_empty() { UNKNOWN.to_owned() } else { text }
}

/// A table whose columns from `numbers` on are right-aligned.
pub(super) fn table<const N: usize>(header: [&str; N], numbers: usize) -> Table {
    let mut table = bare_table();
    table.set_header(right(header.map(str::to_owned), numbers));
    table
}

/// A table without a header.
pub(super) fn bare_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_width(WIDTH).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

pub(super) fn right<const N: usize>(cells: [String; N], numbers: usize) -> Vec<Cell> {
    let align = |(i, cell): (usize, String)| {
        let alignment = if i < numbers { CellAlignment::Left } else { CellAlignment::Right };
        Cell::new(cell).set_alignment(alignment)
    };
    cells.into_iter().enumerate().map(align).collect()
}

fn section(text: &mut String, title: &str, table: &Table) {
    let _ = writeln!(text, "\n{title}\n{}", trimmed(table));
}

/// The table's lines without the blanks that fill its last column.
pub(super) fn trimmed(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Text from outside (a VM's name, an error of QEMU) without what would steer the terminal.
pub(super) fn clean(text: &str) -> String {
    terminal::clean(text).into_owned()
}

/// Appends `body` in lines of at most [`WIDTH`] columns; those after the first are indented as far as `lead`.
pub(super) fn wrap(text: &mut String, lead: &str, body: &str) {
    let width = usize::from(WIDTH);
    let indent = lead.chars().count().min(width / 2);
    let mut line = lead.to_owned();
    let mut used = lead.chars().count();
    let mut fresh = true;
    for word in body.split(' ').filter(|w| !w.is_empty()) {
        let mut word = word;
        while !word.is_empty() {
            let gap = usize::from(!fresh);
            if used + gap + columns(word) <= width {
                line.extend(std::iter::repeat_n(' ', gap));
                line.push_str(word);
                used += gap + columns(word);
                fresh = false;
                break;
            }
            // A word longer than a line is broken; any other goes to the next.
            if fresh {
                let (fits, rest) = word.split_at(fitting(word, width.saturating_sub(used)));
                line.push_str(fits);
                word = rest;
            }
            text.push_str(line.trim_end());
            text.push('\n');
            line = " ".repeat(indent);
            used = indent;
            fresh = true;
        }
    }
    text.push_str(line.trim_end());
    text.push('\n');
}

/// How many columns a word takes at most. What combines with the letter before it can make that wider, by one at most.
fn columns(word: &str) -> usize {
    word.chars().map(columns_of).sum()
}

fn columns_of(letter: char) -> usize {
    letter.width().unwrap_or(1).max(1)
}

/// How many bytes of a word fit into `room` columns; one letter at least, so that the rest gets shorter.
fn fitting(word: &str, room: usize) -> usize {
    let mut used = 0;
    let mut fits = |letter: &char| {
        used += columns_of(*letter);
        used <= room
    };
    let bytes = word.chars().take_while(|letter| fits(letter)).map(char::len_utf8).sum();
    word.chars().next().map_or(0, char::len_utf8).max(bytes)
}
