//! A line for each migration that is under way. Only on a terminal.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar};
use migtrace::timeline::Live;
use migtrace::watch::JournalId;

use crate::commands::progress::{LiveLine, line};
use crate::streams::say;

/// The lines on standard error.
pub(super) struct Progress {
    all: MultiProgress,
    lines: BTreeMap<JournalId, (ProgressBar, LiveLine)>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { all: MultiProgress::new(), lines: BTreeMap::new() }
    }

    /// Prints a line that stays.
    pub(super) fn say(&self, line: &str) {
        self.all.suspend(|| say(line));
    }

    /// Does something that prints.
    pub(super) fn around<T>(&self, print: impl FnOnce() -> T) -> T {
        self.all.suspend(print)
    }

    /// Whether anybody can see it.
    pub(super) fn is_seen(&self) -> bool {
        !self.all.is_hidden()
    }

    /// Shows the migrations as they are now.
    pub(super) fn show(&mut self, live: Vec<(JournalId, Live)>) {
        self.lines.retain(|journal, (bar, _)| {
            let stays = live.iter().any(|(other, _)| other == journal);
            if !stays {
                bar.finish_and_clear();
            }
            stays
        });
        for (journal, live) in live {
            let (bar, text) =
                self.lines.entry(journal).or_insert_with(|| (self.all.add(line()), LiveLine::default()));
            bar.set_message(text.of(&live));
            bar.tick();
        }
    }
}
