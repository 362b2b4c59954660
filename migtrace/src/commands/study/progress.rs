//! How far a study is, and how long it will still take.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::ProgressBar;
use migtrace::study::order::PlannedRun;
use migtrace::study::plan::Cell;
use migtrace::study::run::{Run, RunOutcome};
use migtrace::terminal::clean;

use crate::commands::progress;
use crate::streams::say;

/// How often the line moves, to show that something does.
const TICK: Duration = Duration::from_millis(200);

/// How long runs have taken.
#[derive(Default)]
pub(super) struct Lengths {
    of_cells: BTreeMap<Cell, Mean>,
    of_all: Mean,
}

#[derive(Clone, Copy, Default)]
struct Mean {
    sum: Duration,
    count: u32,
}

impl Mean {
    fn add(&mut self, length: Duration) {
        self.sum += length;
        self.count += 1;
    }

    fn value(self) -> Option<Duration> {
        self.sum.checked_div(self.count)
    }
}

impl Lengths {
    /// Takes a run into account. One that has failed says nothing about the next.
    pub(super) fn add(&mut self, run: &Run) {
        if run.outcome == RunOutcome::Completed {
            let length = Duration::from_nanos(run.run_ns);
            self.of_cells.entry(run.cell.clone()).or_default().add(length);
            self.of_all.add(length);
        }
    }

    /// About how long these runs will take, with a pause between two; none while no run has completed.
    pub(super) fn of<'r>(
        &self,
        runs: impl Iterator<Item = &'r PlannedRun>,
        pause: Duration,
    ) -> Option<Duration> {
        let all = self.of_all.value()?;
        let of_cell = |run: &PlannedRun| self.of_cells.get(&run.cell).and_then(|mean| mean.value());
        let mut total = Duration::ZERO;
        let mut count = 0_u32;
        for run in runs {
            total += of_cell(run).unwrap_or(all);
            count += 1;
        }
        Some(total + pause.saturating_mul(count.saturating_sub(1)))
    }
}

/// A length of time that is only about right.
pub(super) fn about(length: Duration) -> String {
    let seconds = length.as_secs_f64().round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", (seconds + 30) / 60),
        _ => {
            let minutes = (seconds + 30) / 60;
            format!("{} h {} min", minutes / 60, minutes % 60)
        }
    }
}

/// The line that shows the study on a terminal; lines of text elsewhere.
pub(super) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn new() -> Self {
        let bar = progress::line();
        bar.enable_steady_tick(TICK);
        Self { bar }
    }

    /// Prints a line that stays.
    pub(super) fn say(&self, line: &str) {
        self.bar.suspend(|| say(line));
    }

    /// A run begins. Without a terminal that is a line.
    pub(super) fn begin(&self, line: &str) {
        if self.bar.is_hidden() {
            say(line);
        } else {
            self.show(line);
        }
    }

    /// Shows what is done; only on a terminal.
    pub(super) fn show(&self, line: &str) {
        self.bar.set_message(clean(line).into_owned());
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use migtrace::study::order;
    use migtrace::study::plan::Plan;

    use super::*;

    #[test]
    fn the_rest_is_estimated_by_the_same_cell_else_by_all() {
        let plan = "title = \"\"\n[[axis]]\nname = \"load\"\nvalues = [\"low\", \"high\"]\n[runs]\nshuffle = false\n\
                    repetitions = 2\n[driver]\nmigrate = \"true\"";
        let runs = order::runs(&Plan::parse(plan).unwrap());
        let ran = |planned: &PlannedRun, seconds: u64, outcome| {
            let mut run = Run::new(planned, 1, outcome, String::new());
            run.run_ns = seconds * 1_000_000_000;
            run
        };
        let mut lengths = Lengths::default();
        let seconds = |lengths: &Lengths, runs: &[PlannedRun], pause| {
            lengths.of(runs.iter(), Duration::from_secs(pause)).map(|length| length.as_secs())
        };
        assert_eq!(seconds(&lengths, &runs, 0), None);
        lengths.add(&ran(&runs[0], 1, RunOutcome::Failed { why: String::new() }));
        assert_eq!(seconds(&lengths, &runs, 0), None);
        lengths.add(&ran(&runs[0], 10, RunOutcome::Completed));
        // Of the other cell nothing is known.
        assert_eq!(seconds(&lengths, &runs[1..], 0), Some(30));
        lengths.add(&ran(&runs[1], 40, RunOutcome::Completed));
        assert_eq!(seconds(&lengths, &runs[2..], 5), Some(10 + 5 + 40));
        assert_eq!(seconds(&lengths, &[], 5), Some(0));
    }

    #[test]
    fn lengths_are_rounded_as_people_say_them() {
        let shown = [0, 59, 60, 89, 90, 3599, 3600, 5400].map(|s| about(Duration::from_secs(s)));
        assert_eq!(shown, ["0 s", "59 s", "1 min", "1 min", "2 min", "60 min", "1 h 0 min", "1 h 30 min"]);
    }
}
