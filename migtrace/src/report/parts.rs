//! What the stop was made of.

use super::layout::{self, Column, NONE, clean, left, right, side, wrap};
use super::quantities::{bytes, duration, estimate, offset, percent, rate};
use crate::record::{Downtime, Part, PartName};

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
    right("Sent", |row| row.part.wire_bytes.map_or_else(|| NONE.to_owned(), bytes)),
    right("Rate", |row| rate_of(&row.part).unwrap_or_else(|| NONE.to_owned())),
];

/// Nothing where the parts are not known.
pub(super) fn section(downtime: &Downtime, text: &mut String) {
    let (Some(first), Some(largest)) =
        (downtime.parts.first(), downtime.parts.iter().max_by_key(|part| part.length.value_ns))
    else {
        return;
    };
    let total_ns = downtime.parts.iter().map(|part| part.length.value_ns).fold(0, u64::saturating_add);
    text.push('\n');
    let (length, total) = (duration(largest.length.value_ns), duration(total_ns));
    wrap(text, "  ", &format!("{length} of the {total} of the stop: {}", driver(largest)));
    let rows: Vec<_> = downtime
        .parts
        .iter()
        .map(|part| Row { part: part.clone(), first_ns: first.start_ns, total_ns })
        .collect();
    layout::section(text, "The stop, part by part", &layout::table(&COLUMNS, &rows));
}

fn rate_of(part: &Part) -> Option<String> {
    rate(part.wire_bytes.filter(|bytes| *bytes > 0)?, part.length.value_ns)
}

/// What a part was spent on.
fn driver(part: &Part) -> String {
    match (&part.name, part.wire_bytes, rate_of(part)) {
        (PartName::LastPass, Some(sent), Some(rate)) => {
            format!("the last {} were sent, at {rate}", bytes(sent))
        }
        (PartName::LastPass, ..) => "the last pages and the devices' state were sent".to_owned(),
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
