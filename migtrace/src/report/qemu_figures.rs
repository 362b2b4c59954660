//! What QEMU says of its migration, beside what was measured.

use serde_json::Value;

use super::content::{Column, NONE, Piece, Section, UNKNOWN, left, right, said, table};
use super::quantities::{bytes, duration, estimate, grouped, rate};
use super::traffic_of;
use crate::record::Record;

/// The name of what `query-migrate` replies: the heading in a report and, when QEMU did not reply, the entry of
/// `not_measured`.
pub const OWN_FIGURES: &str = "QEMU's own figures";

const NS_PER_MS: u64 = 1_000_000;

/// One of QEMU's figures.
struct Figure {
    name: &'static str,
    by_qemu: Option<String>,
    measured: Option<String>,
}

/// The table's columns, from left to right.
const COLUMNS: [Column<Figure>; 3] = [
    left(OWN_FIGURES, |figure| figure.name.to_owned()),
    right("QEMU", |figure| figure.by_qemu.clone().unwrap_or_else(|| NONE.to_owned())),
    right("Measured", |figure| figure.measured.clone().unwrap_or_else(|| UNKNOWN.to_owned())),
];

/// What QEMU says, or why it says nothing; none where libvirt has said it.
pub(super) fn section(record: &Record) -> Option<Section> {
    let said = match &record.qemu.stats {
        Some(stats) => Piece::Table(table(&COLUMNS, &figures(record, stats))),
        None => said(&format!("{OWN_FIGURES}: "), why_absent(record)?),
    };
    Some(Section::untitled(vec![Piece::Space, said]))
}

fn why_absent(record: &Record) -> Option<&'static str> {
    if record.not_measured.iter().any(|entry| entry.what == OWN_FIGURES) {
        return Some("requested, but QEMU did not provide them (see \"Not measured\")");
    }
    // libvirt keeps the only monitor of its guests for itself, and has said what it heard there.
    record.libvirt.is_none().then_some("not requested (use --qmp SOCKET)")
}

fn figures(record: &Record, stats: &Value) -> [Figure; 6] {
    let number = |pointer: &str| stats.pointer(pointer).filter(|value| value.is_number());
    let whole = |pointer: &str| number(pointer).and_then(Value::as_u64);
    let ms = |pointer: &str| whole(pointer).map(|ms| duration(ms.saturating_mul(NS_PER_MS)));
    let mbps = number("/ram/mbps").and_then(Value::as_f64);
    let last_pass = record.phases.iter().filter_map(|phase| phase.pass).max();
    let figure = |name, by_qemu, measured| Figure { name, by_qemu, measured };
    [
        figure("transferred", whole("/ram/transferred").map(bytes), memory_payload(record)),
        figure("total-time", ms("/total-time"), record.total_time.as_ref().map(estimate)),
        figure("setup-time", ms("/setup-time"), record.setup_time.as_ref().map(estimate)),
        figure("downtime", ms("/downtime"), record.downtime.stop.as_ref().map(estimate)),
        figure(
            "dirty-sync-count",
            whole("/ram/dirty-sync-count").map(grouped),
            last_pass.map(|pass| format!("pass {pass} while the guest ran")),
        ),
        figure("mbps", mbps.map(|mbps| format!("{mbps:.1} Mbit/s")), average_rate(record)),
    ]
}

/// QEMU's byte counts are those of the memory stream, without the disks.
fn memory_payload(record: &Record) -> Option<String> {
    let carried = traffic_of::memory(record)?;
    Some(format!("{} payload, memory flows only", bytes(carried.payload_bytes)))
}

fn average_rate(record: &Record) -> Option<String> {
    let (total, last) = record.traffic.total.zip(record.phases.last())?;
    let average = rate(total.tx.wire_bytes, u64::try_from(last.end_ns).ok()?)?;
    Some(format!("{average} on the wire, average"))
}
