//! How long the guest was gone, where that was seen, and what has to be known beside it.

use super::content::{
    Column, Piece, Section, Table, UNKNOWN, alarm, clean, left, note, said, table_without_header,
};
use super::drawing;
use super::quantities::{duration, estimate, grouped, offset};
use crate::record::{Announced, Brownout, Disturbance, Downtime, Estimate, Record, Role, Tap};

pub(super) fn section(record: &Record) -> Section {
    let downtime = &record.downtime;
    if downtime.never_stopped() {
        return Section::titled(NEVER_STOPPED, notes(downtime));
    }
    let mut pieces = vec![Piece::Table(figures_table(downtime))];
    pieces.extend(drawing::drawn(downtime).map(Piece::Drawn));
    pieces.extend(notes(downtime));
    Section::titled("Downtime", pieces)
}

const NEVER_STOPPED: &str = "Downtime: none, the guest was not stopped";

/// What is said below the figures.
fn notes(downtime: &Downtime) -> Vec<Piece> {
    let mut pieces = Vec::new();
    if !downtime.never_stopped() {
        pieces.extend(downtime.announcements.iter().map(|seen| said("  Announced by ", announced(seen))));
        pieces.extend(downtime.brownout.as_ref().map(|seen| said("  Brownout: ", brownout(seen))));
        pieces.extend(taps(downtime));
    }
    pieces.extend(downtime.remarks.iter().map(|remark| note("  NOTE: ", clean(remark))));
    let contradictions = downtime.contradictions.iter();
    pieces.extend(contradictions.map(|contradiction| alarm("  CONTRADICTION: ", clean(contradiction))));
    pieces
}

fn figures_table(downtime: &Downtime) -> Table {
    table_without_header(&COLUMNS, &figures(downtime))
}

/// A length, and how it is known.
struct Figure {
    name: &'static str,
    length: String,
    how: String,
}

const COLUMNS: [Column<Figure>; 3] = [
    left("", |figure| figure.name.to_owned()),
    left("", |figure| figure.length.clone()),
    left("", |figure| figure.how.clone()),
];

fn figures(downtime: &Downtime) -> Vec<Figure> {
    let known = |name, length: &Estimate| Figure {
        name,
        length: estimate(length),
        how: clean(length.method.as_str()),
    };
    let measured = |name, length: &Option<Estimate>| match length {
        Some(length) => known(name, length),
        None => Figure { name, length: UNKNOWN.to_owned(), how: String::new() },
    };
    let mut figures = vec![
        measured("stop", &downtime.stop),
        measured("network", &downtime.network),
        measured("reachability", &downtime.reachability),
    ];
    // The tail follows from two of these. It is unknown if one of them is, or if they contradict each other.
    figures.extend(downtime.tail.as_ref().map(|tail| known("tail", tail)));
    figures.extend(downtime.qemu_reported_ns.map(|reported_ns| Figure {
        name: "QEMU reports",
        length: duration(reported_ns),
        how: downtime.budget_ns.map_or(String::new(), |ns| format!("limit {}", duration(ns))),
    }));
    figures
}

fn announced(announced: &Announced) -> String {
    let kind = announced.kind.name();
    format!("{} {kind} at {}", grouped(announced.count), clean(&announced.interface))
}

fn brownout(brownout: &Brownout) -> String {
    let (before, after) = (disturbance(&brownout.before), disturbance(&brownout.after));
    format!("before the downtime: {before}; after it: {after}")
}

fn disturbance(seen: &Disturbance) -> String {
    let round_trip = seen.worst_round_trip_ns.map(|ns| format!("round trips up to {}", duration(ns)));
    let gap = seen.longest_gap.as_ref().map(|length| format!("a gap of {}", estimate(length)));
    let said: Vec<_> = round_trip.into_iter().chain(gap).collect();
    if said.is_empty() { "no reply seen".to_owned() } else { said.join(", ") }
}

/// Each tap's last or first frame, where a side has several taps. The times count as those of the drawing do.
fn taps(downtime: &Downtime) -> Vec<Piece> {
    let origin_ns = drawing::origin(downtime);
    let frame = |tap: &Tap| {
        let at_ns = tap.last_frame_ns.or(tap.first_frame_ns)?;
        Some(format!("{} {}", clean(&tap.interface), offset(at_ns.saturating_sub(origin_ns))))
    };
    let of_side = |(role, lead)| {
        let taps: Vec<_> = downtime.taps.iter().filter(|tap| tap.role == role).collect();
        let frames = || taps.iter().filter_map(|tap| frame(tap)).collect::<Vec<_>>().join(", ");
        (taps.len() > 1).then(|| said(lead, frames()))
    };
    let sides = [(Role::Source, "  Last frames at "), (Role::Destination, "  First frames at ")];
    sides.into_iter().filter_map(of_side).collect()
}
