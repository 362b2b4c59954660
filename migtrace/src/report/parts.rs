//! What the stop was made of.

use super::content::{Column, NONE, Piece, Section, UNKNOWN, clean, left, right, said, side, table};
use super::quantities::{bytes, duration, estimate, offset, percent, rate};
use crate::record::{Mode, Part, PartName, Record, Role};

/// A part, and the length of all of them.
struct Row {
    part: Part,
    first_ns: i64,
    total_ns: u64,
}

const COLUMNS: [Column<Row>; 7] = [
    left("Part", |row| clean(row.part.name.as_str())),
    left("Side", |row| side(row.part.role.into()).to_owned()),
    right("Start", |row| offset(row.part.start_ns.saturating_sub(row.first_ns))),
    right("Length", |row| estimate(&row.part.length)),
    right("Share", |row| percent(row.part.length.value_ns, row.total_ns).unwrap_or_else(|| NONE.to_owned())),
    right("Sent", |row| of_bytes(&row.part, |sent| Some(bytes(sent)))),
    right("Rate", |row| of_bytes(&row.part, |sent| rate(sent, row.part.length.value_ns))),
];

/// What most of the stop was spent on, and its parts; none where the parts are not known.
pub(super) fn sections(record: &Record) -> Option<[Section; 2]> {
    let downtime = &record.downtime;
    let first = downtime.parts.first()?;
    let largest = downtime.parts.iter().max_by_key(|part| part.length.value_ns)?;
    let total_ns = downtime.parts.iter().map(|part| part.length.value_ns).fold(0, u64::saturating_add);
    let (length, total) = (duration(largest.length.value_ns), duration(total_ns));
    let most = format!("{length} of the {total} of the stop: {}", driver(largest, record));
    let rows: Vec<_> = downtime
        .parts
        .iter()
        .map(|part| Row { part: part.clone(), first_ns: first.start_ns, total_ns })
        .collect();
    Some([
        Section::untitled(vec![Piece::Space, said("  ", most)]),
        Section::titled("The stop, part by part", vec![Piece::Table(table(&COLUMNS, &rows))]),
    ])
}

/// Something about the bytes of a part. Only the source sends.
fn of_bytes(part: &Part, show: impl FnOnce(u64) -> Option<String>) -> String {
    let none = match (part.role, part.wire_bytes) {
        (Role::Source, None) => UNKNOWN,
        _ => NONE,
    };
    part.wire_bytes.and_then(show).unwrap_or_else(|| none.to_owned())
}

/// What a part was spent on.
fn driver(part: &Part, record: &Record) -> String {
    let is_postcopy = record.migration.mode == Mode::Postcopy;
    let loads_apart = record.downtime.parts.iter().any(|part| part.name == PartName::Load);
    let sent = part.wire_bytes.filter(|sent| *sent > 0);
    let rate = sent.and_then(|sent| rate(sent, part.length.value_ns));
    match (&part.name, sent.zip(rate)) {
        (PartName::LastPass, _) if is_postcopy => {
            "the devices' state was sent, and which pages are still to come".to_owned()
        }
        (PartName::LastPass, Some((sent, rate))) => format!("the last {} were sent, at {rate}", bytes(sent)),
        (PartName::LastPass, None) if loads_apart => {
            "the last pages and the devices' state were sent".to_owned()
        }
        (PartName::LastPass, None) => "the last pages and the devices' state were sent and loaded".to_owned(),
        (PartName::Drain, ..) => "the source stopped the vCPUs and waited for I/O".to_owned(),
        (PartName::PreSwitchover, ..) => "the source waited for its manager".to_owned(),
        (PartName::Switchover, ..) => {
            "the source gave up its disks, and sent the last pages and the devices' state".to_owned()
        }
        (PartName::Inactivate, ..) => "the source gave up its disks".to_owned(),
        (PartName::DeviceState, ..) => "the devices' state was sent".to_owned(),
        (PartName::Load, ..) => "the destination loaded what it had received".to_owned(),
        (PartName::AwaitResume, ..) => {
            "the destination was ready, and waited for its manager to let the guest run".to_owned()
        }
        (PartName::Start, ..) => "the destination let the guest run, until a vCPU did".to_owned(),
        (PartName::Other(name), ..) => clean(name),
    }
}
