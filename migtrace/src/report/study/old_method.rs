//! What lost pings, a byte meter and the driver's own clock say, and by how much they are off.

use super::grid::Grid;
use super::numbers::difference;
use super::tables::{by_cell, median, with_runs};
use super::words::title;
use crate::report::content::{NONE, Section, UNKNOWN};
use crate::study::answer::{Answer, Cell, Figure};

/// What the old method says of something.
struct Group {
    heading: &'static str,
    says: Figure,
    /// Each difference with the measured figure that it is from.
    differences: &'static [(Figure, Figure)],
}

const GROUPS: [Group; 3] = [
    Group {
        heading: "The old method: lost pings times their interval",
        says: Figure::PingDowntime,
        differences: &[
            (Figure::PingLessReachability, Figure::Reachability),
            (Figure::PingLessStop, Figure::Stop),
        ],
    },
    Group {
        heading: "The old method: a byte meter",
        says: Figure::MeterBytes,
        differences: &[(Figure::MeterLessWire, Figure::WireBytes)],
    },
    Group {
        heading: "The old method: the driver's own time",
        says: Figure::DriverTime,
        differences: &[(Figure::DriverLessTotal, Figure::TotalTime)],
    },
];

pub(in crate::report) fn sections(answer: &Answer) -> Vec<Section> {
    let known = GROUPS.iter().filter(|group| answer.knows(group.says));
    known.filter_map(|group| grid(answer, group).section(group.heading)).collect()
}

fn grid(answer: &Answer, group: &Group) -> Grid {
    let says = group.says;
    let known: Vec<_> = group.differences.iter().filter(|(off, _)| answer.knows(*off)).collect();
    let heads = known.iter().map(|(off, _)| *off);
    let columns = std::iter::once(says).chain(heads).map(|figure| title(figure).to_owned());
    by_cell(answer, with_runs(answer), columns.collect(), |cell| {
        let off = known.iter().map(|(off, from)| off_by(cell, *off, *from));
        std::iter::once(median(cell, says).to_string()).chain(off).collect()
    })
}

/// `+43.2 ms ± 0.3 ms`, and beneath it `+12.3 %`: the share is that of the medians.
fn off_by(cell: &Cell, off: Figure, from: Figure) -> String {
    let Some(summary) = cell.get(off) else { return UNKNOWN.to_owned() };
    let share = cell.get(from).and_then(|from| share(summary.median.value, from.median.value));
    let said = difference(off.unit(), &summary.median);
    format!("{said}\n{}", share.unwrap_or_else(|| NONE.to_owned()))
}

#[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
fn share(off: i64, from: i64) -> Option<String> {
    (from > 0).then(|| format!("{:+.1} %", off as f64 * 100.0 / from as f64))
}
