//! The anatomy of a downtime, drawn: each figure as a bar and each mark as a point over the same stretch of time.

use std::fmt::Write as _;

use super::quantities::{duration, estimate, offset};
use super::text::{UNKNOWN, bare_table, clean, never_stopped, right, trimmed, wrap};
use crate::record::{Downtime, Estimate, Record, Role};

/// How many columns a drawing takes.
const COLUMNS: usize = 40;

/// Appends the section.
pub(super) fn draw(record: &Record, text: &mut String) {
    let downtime = &record.downtime;
    if never_stopped(record) {
        return text.push_str("\nDowntime: none, the guest was not stopped\n");
    }
    let axis = Axis::over(downtime);
    let zero = axis.map_or("", |_| " (from the first mark drawn)");
    let _ = writeln!(text, "\nDowntime{zero}");
    figures(downtime, axis, text);
    if let Some(axis) = axis {
        marks(downtime, axis, text);
    }
    for contradiction in &downtime.contradictions {
        wrap(text, "  CONTRADICTION: ", &clean(contradiction));
    }
}

fn figures(downtime: &Downtime, axis: Option<Axis>, text: &mut String) {
    let mut figures = bare_table();
    let mut add = |name: &str, says: String, method: &str, bar: String| {
        figures.add_row(right([name.to_owned(), says, clean(method), bar], 4));
    };
    let measured = [
        ("stop", &downtime.stop, &["all-vcpus-stopped", "stop"][..]),
        ("network", &downtime.network, &["last-guest-frame"]),
        ("reachability", &downtime.reachability, &["last-answered-request"]),
        ("tail", &downtime.tail, &[]),
    ];
    for (name, figure, begins) in measured {
        let Some(figure) = figure else {
            // It follows from two of the others.
            if name != "tail" {
                add(name, UNKNOWN.to_owned(), "", String::new());
            }
            continue;
        };
        let bar = begins.iter().find_map(|mark| at(downtime, mark)).zip(axis);
        let bar = bar.map(|(from, axis)| axis.bar(from, from.saturating_add(length(figure))));
        add(name, estimate(figure), &figure.method, bar.unwrap_or_default());
    }
    if let Some(reported_ns) = downtime.qemu_reported_ns {
        let allowed = downtime.budget_ns.map(|ns| format!("{} were allowed", duration(ns)));
        add("QEMU reports", duration(reported_ns), &allowed.unwrap_or_default(), String::new());
    }
    let _ = writeln!(text, "{}", trimmed(&figures));
}

fn marks(downtime: &Downtime, axis: Axis, text: &mut String) {
    let mut points = bare_table();
    for mark in &downtime.marks {
        let side = match mark.role {
            Role::Source => "source",
            Role::Destination => "destination",
        };
        let mut row = right(
            [
                offset(mark.at_ns.saturating_sub(axis.from)),
                clean(&mark.name),
                side.into(),
                axis.point(mark.at_ns),
            ],
            4,
        );
        row[0] = row[0].clone().set_alignment(comfy_table::CellAlignment::Right);
        points.add_row(row);
    }
    let _ = writeln!(text, "{}", trimmed(&points));
}

fn at(downtime: &Downtime, name: &str) -> Option<i64> {
    downtime.marks.iter().rfind(|mark| mark.name == name).map(|mark| mark.at_ns)
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
        let is_frame = |name: &str| matches!(name, "last-guest-frame" | "first-guest-frame");
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
