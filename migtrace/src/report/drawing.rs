//! The downtime, drawn: each figure as a bar and each mark as a point over the same stretch of time.

use super::content::{Column, clean, left, right, side, table_without_header};
use super::layout::trimmed;
use super::quantities::offset;
use crate::record::{Downtime, Estimate, Mark, MarkName, bars};

/// How many columns a drawing takes.
const COLUMNS: usize = 40;

/// A line of the drawing: a bar has no time and no side.
struct Line {
    time: String,
    name: String,
    side: &'static str,
    drawn: String,
}

const TABLE: [Column<Line>; 4] = [
    right("", |line| line.time.clone()),
    left("", |line| line.name.clone()),
    left("", |line| line.side.to_owned()),
    left("", |line| line.drawn.clone()),
];

/// The drawing; none with fewer than two instants to draw.
pub(super) fn drawn(downtime: &Downtime) -> Option<String> {
    let axis = Axis::over(downtime)?;
    let bars = bars(downtime).into_iter().map(|bar| {
        let to = bar.from_ns.saturating_add(length(bar.figure));
        Line { time: String::new(), name: bar.name.to_owned(), side: "", drawn: axis.bar(bar.from_ns, to) }
    });
    let lines: Vec<_> = bars.chain(downtime.marks.iter().map(|mark| axis.line(mark))).collect();
    Some(format!("\n{}\n", trimmed(&table_without_header(&TABLE, &lines))))
}

/// What the times of the drawing count from; the migration's start where there is no drawing.
pub(super) fn origin(downtime: &Downtime) -> i64 {
    Axis::over(downtime).map_or(0, |axis| axis.from)
}

fn length(figure: &Estimate) -> i64 {
    i64::try_from(figure.value_ns).unwrap_or(i64::MAX)
}

/// The stretch of time that is drawn.
#[derive(Clone, Copy)]
pub(super) struct Axis {
    pub(super) from: i64,
    pub(super) to: i64,
}

impl Axis {
    /// From the first mark to the last; none with fewer than two. The frames of a quiet guest may lie far before and after
    /// its stop: those are left out.
    pub(super) fn over(downtime: &Downtime) -> Option<Self> {
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

    fn line(self, mark: &Mark) -> Line {
        Line {
            time: offset(mark.at_ns.saturating_sub(self.from)),
            name: clean(mark.name.as_str()),
            side: side(mark.role),
            drawn: self.point(mark.at_ns),
        }
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
