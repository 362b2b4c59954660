//! The anatomy of a downtime, drawn: each figure as a bar and each mark as a point over the same stretch of time.

use std::fmt::Write as _;

use super::quantities::{duration, estimate, grouped, offset};
use super::text::{UNKNOWN, bare_table, clean, right, trimmed, wrap};
use crate::record::{Disturbance, Downtime, Estimate, MarkName, Record, Role};
use crate::vocabulary::Announcement;

/// How many columns a drawing takes.
const COLUMNS: usize = 40;

/// Appends the section.
pub(super) fn draw(record: &Record, text: &mut String) {
    let downtime = &record.downtime;
    if downtime.stopped == Some(false) {
        text.push_str("\nDowntime: none, the guest was not stopped\n");
        return remarks(downtime, text);
    }
    text.push_str("\nDowntime\n");
    figures(downtime, text);
    if let Some(axis) = Axis::over(downtime) {
        drawing(downtime, axis, text);
    }
    for announced in &downtime.announcements {
        let kind = match announced.kind {
            Announcement::Rarp => "RARP",
            Announcement::GratuitousArp => "gratuitous ARP",
            Announcement::NeighbourAdvertisement => "unsolicited neighbour advertisement",
        };
        let (count, tap) = (grouped(announced.count), clean(&announced.interface));
        wrap(text, "  Announced by ", &format!("{count} {kind} at {tap}"));
    }
    if let Some(brownout) = &downtime.brownout {
        let said =
            format!("before: {}; after: {}", disturbance(&brownout.before), disturbance(&brownout.after));
        wrap(text, "  While it ran, ", &said);
    }
    taps(downtime, text);
    remarks(downtime, text);
}

/// What has to be known beside the figures.
fn remarks(downtime: &Downtime, text: &mut String) {
    for remark in &downtime.remarks {
        wrap(text, "  NOTE: ", &clean(remark));
    }
    for contradiction in &downtime.contradictions {
        wrap(text, "  CONTRADICTION: ", &clean(contradiction));
    }
}

/// Of several taps on one side each one's last or first frame.
fn taps(downtime: &Downtime, text: &mut String) {
    for (role, lead) in [(Role::Source, "  Last frames at "), (Role::Destination, "  First frames at ")] {
        let taps: Vec<_> = downtime.taps.iter().filter(|tap| tap.role == role).collect();
        if taps.len() > 1 {
            let frame = |at_ns: Option<i64>| at_ns.map(offset);
            let told = taps.iter().filter_map(|tap| {
                let at = frame(tap.last_frame_ns).or_else(|| frame(tap.first_frame_ns))?;
                Some(format!("{} {at}", clean(&tap.interface)))
            });
            wrap(text, lead, &told.collect::<Vec<_>>().join(", "));
        }
    }
}

fn disturbance(seen: &Disturbance) -> String {
    let round_trip = seen.worst_round_trip_ns.map(|ns| format!("round trips up to {}", duration(ns)));
    let gap = seen.longest_gap.as_ref().map(|length| format!("a gap of {}", estimate(length)));
    let said: Vec<_> = round_trip.into_iter().chain(gap).collect();
    if said.is_empty() { "no reply seen".to_owned() } else { said.join(", ") }
}

/// What was measured, what QEMU says, and when each begins.
fn measured(downtime: &Downtime) -> [(&'static str, &Option<Estimate>, &'static [MarkName]); 4] {
    [
        ("stop", &downtime.stop, &[MarkName::AllVcpusStopped, MarkName::Stop]),
        ("network", &downtime.network, &[MarkName::LastGuestFrame]),
        ("reachability", &downtime.reachability, &[MarkName::LastAnsweredRequest]),
        ("tail", &downtime.tail, &[]),
    ]
}

fn figures(downtime: &Downtime, text: &mut String) {
    let mut figures = bare_table();
    let mut add = |name: &str, says: String, how: String| {
        figures.add_row(right([name.to_owned(), says, how], 3));
    };
    for (name, figure, _) in measured(downtime) {
        match figure {
            Some(figure) => add(name, estimate(figure), clean(figure.method.as_str())),
            // It follows from two of the others.
            None if name == "tail" => {}
            None => add(name, UNKNOWN.to_owned(), String::new()),
        }
    }
    if let Some(reported_ns) = downtime.qemu_reported_ns {
        let allowed = downtime.budget_ns.map(|ns| format!("{} were allowed", duration(ns)));
        add("QEMU reports", duration(reported_ns), allowed.unwrap_or_default());
    }
    let _ = writeln!(text, "{}", trimmed(&figures));
}

/// The figures as bars and the marks as points, over the same stretch of time.
fn drawing(downtime: &Downtime, axis: Axis, text: &mut String) {
    let mut drawing = bare_table();
    for (name, figure, begins) in measured(downtime) {
        let from = begins.iter().find_map(|mark| at(downtime, mark));
        if let (Some(figure), Some(from)) = (figure, from) {
            let bar = axis.bar(from, from.saturating_add(length(figure)));
            drawing.add_row(right([String::new(), name.to_owned(), String::new(), bar], 4));
        }
    }
    for mark in &downtime.marks {
        let side = match mark.role {
            Role::Source => "source",
            Role::Destination => "destination",
        };
        let when = offset(mark.at_ns.saturating_sub(axis.from));
        let mut row = right([when, clean(mark.name.as_str()), side.to_owned(), axis.point(mark.at_ns)], 4);
        row[0] = row[0].clone().set_alignment(comfy_table::CellAlignment::Right);
        drawing.add_row(row);
    }
    let _ = writeln!(text, "\n{}", trimmed(&drawing));
}

fn at(downtime: &Downtime, name: &MarkName) -> Option<i64> {
    downtime.marks.iter().rfind(|mark| mark.name == *name).map(|mark| mark.at_ns)
}

fn length(figure: &Estimate) -> i64 {
    i64::try_from(figure.value_ns).unwrap_or(i64::MAX)
}

/// The stretch of time that is drawn.
#[derive(Clone, Copy)]
struct Axis {
    from: i64,
    to: i64,
}

impl Axis {
    /// From the first mark to the last; none with fewer than two. A guest that has nothing to say was silent long before
    /// it stopped, and is long after: then its frames have no part in it.
    fn over(downtime: &Downtime) -> Option<Self> {
        let is_frame = |name: &MarkName| matches!(name, MarkName::LastGuestFrame | MarkName::FirstGuestFrame);
        let core = || downtime.marks.iter().filter(|mark| !is_frame(&mark.name)).map(|mark| mark.at_ns);
        let (mut from, mut to) = (core().min()?, core().max()?);
        let span = to.saturating_sub(from);
        let near = from.saturating_sub(span)..=to.saturating_add(span);
        for at in downtime.marks.iter().map(|mark| mark.at_ns).filter(|at| near.contains(at)) {
            (from, to) = (from.min(at), to.max(at));
        }
        (from < to).then_some(Self { from, to })
    }

    fn column(self, at: i64) -> usize {
        let span = i128::from(self.to) - i128::from(self.from);
        let into = (i128::from(at) - i128::from(self.from)).clamp(0, span);
        usize::try_from(into * (COLUMNS as i128 - 1) / span).unwrap_or(0)
    }

    fn bar(self, from: i64, to: i64) -> String {
        let (first, last) = (self.column(from), self.column(to));
        (0..COLUMNS).map(|column| if (first..=last).contains(&column) { '█' } else { '·' }).collect()
    }

    fn point(self, at: i64) -> String {
        let point = self.column(at);
        (0..COLUMNS).map(|column| if column == point { '●' } else { '·' }).collect()
    }
}
