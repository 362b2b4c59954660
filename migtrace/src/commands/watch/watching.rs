//! The watch itself: what each news leads to, and how it ends.

use std::time::{Duration, Instant};

use anyhow::{Error, Result};
use migtrace::event::{EndReason, Event, Fact};
use migtrace::record::Record;
use migtrace::vocabulary::NotMeasured;
use migtrace::wall_clock::realtime_ns;
use migtrace::watch::{Finished, JournalId, News, Watcher};
use sd_notify::NotifyState;

use super::counts::Counts;
use super::exports::Exports;
use super::leftovers::Adopted;
use super::lines::Lines;
use super::progress::Progress;
use super::store::Store;
use super::troubles::Troubles;
use crate::commands::explain;
use crate::commands::signals::{Signal, Signals};

/// How often the lines of migrations that are under way change.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// How often the migrations that are under way are shown to Prometheus.
const SHOW_RUNNING_EVERY: Duration = Duration::from_secs(1);
/// How often to look for pairs that are too old, to try again what could not be written, and to show that somebody watches.
const TIDY_EVERY: Duration = Duration::from_secs(600);

/// A watch.
pub(super) struct Watching {
    watcher: Watcher,
    files: Files,
}

/// Where everything goes.
pub(super) struct Files {
    store: Option<Store>,
    lines: Lines,
    exports: Exports,
    progress: Progress,
    counts: Counts,
    troubles: Troubles,
}

/// Why a watch ends.
enum End {
    /// A signal has come.
    Told,
    /// Nothing is under way any more.
    Idle,
    /// It has waited long enough.
    Patience,
}

impl Watching {
    pub(super) const fn new(watcher: Watcher, files: Files) -> Self {
        Self { watcher, files }
    }

    /// Watches until a signal comes; waits then for migrations that are under way, for at most `grace`.
    pub(super) async fn until_told(mut self, mut signals: Signals, grace: Duration) -> Result<()> {
        // Without a service manager there is nobody to tell.
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        self.files.adopt_leftovers();
        self.until(&mut signals, None).await?;
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        self.watcher.decline();
        if !self.watcher.is_idle() {
            let count = self.watcher.live().len();
            self.files.say(&format!(
                "ending: waiting up to {} s for {count} migration{} that {} under way; another signal ends the wait",
                grace.as_secs_f64(),
                if count == 1 { "" } else { "s" },
                if count == 1 { "is" } else { "are" },
            ));
            if let End::Patience = self.until(&mut signals, Some(Instant::now() + grace)).await? {
                self.files.say("they are still under way: written as interrupted");
            }
        }
        let Self { watcher, mut files } = self;
        files.end_adoption();
        for news in watcher.finish(EndReason::Interrupted)? {
            files.take(news);
        }
        files.end();
        Ok(())
    }

    /// Takes in news until a signal comes. With a deadline, also until nothing is under way or the time is over.
    async fn until(&mut self, signals: &mut Signals, deadline: Option<Instant>) -> Result<End> {
        // The first of each is due at once.
        let mut show = tokio::time::interval(SHOW_EVERY);
        show.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tidy = tokio::time::interval(TIDY_EVERY);
        let mut running = tokio::time::interval(SHOW_RUNNING_EVERY);
        running.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut watchdog = watchdog();
        let reopens = self.files.has_files();
        loop {
            if deadline.is_some() && self.watcher.is_idle() {
                return Ok(End::Idle);
            }
            tokio::select! {
                news = self.watcher.next() => self.files.take(news?),
                signal = signals.next() => match signal {
                    Signal::Hangup if reopens => self.files.reopen(),
                    Signal::Hangup | Signal::End => return Ok(End::Told),
                },
                () = until(deadline) => return Ok(End::Patience),
                _ = show.tick(), if self.files.progress.is_seen() => {
                    self.files.progress.show(self.watcher.live());
                }
                _ = running.tick(), if self.files.exports.shows_running(&self.watcher) => {
                    let shown = self.files.exports.show_running(&self.watcher);
                    self.files.note(shown);
                }
                adopted = self.files.next_adopted() => self.files.adopted(&adopted),
                _ = tidy.tick() => self.files.tidy(),
                () = due(watchdog.as_mut()) => {
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                }
            }
        }
    }
}

impl Files {
    pub(super) fn new(store: Option<Store>, lines: Lines, exports: Exports) -> Self {
        Self {
            store,
            lines,
            exports,
            progress: Progress::new(),
            counts: Counts::default(),
            troubles: Troubles::default(),
        }
    }

    /// Completes what still can be, and says what was done.
    fn end(mut self) {
        self.remove_old();
        let retried = self.store.as_mut().map_or(0, Store::retry_at_once);
        self.counts.lost_records = self.counts.lost_records.saturating_sub(retried as u64);
        self.progress.show(Vec::new());
        let ended = std::mem::take(&mut self.exports).end(&mut self.counts);
        self.note(ended);
        self.say(&self.counts.line());
    }

    /// Whether there are files that can be opened anew.
    const fn has_files(&self) -> bool {
        self.store.is_some() || self.lines.is_file()
    }

    fn say(&self, line: &str) {
        self.progress.say(line);
    }

    fn take(&mut self, news: News) {
        match news {
            News::Begun { journal } => {
                let now_ns = realtime_ns().cast_signed();
                self.keep_log(|store| store.begin(journal, now_ns));
            }
            News::Event { journal, event } => self.keep_log(|store| store.write(journal, &event)),
            News::Discarded { journal } => {
                let discarded = self.store.as_mut().map_or(Ok(()), |store| store.discard(journal));
                self.note(discarded);
            }
            News::Finished(Finished { journal, records, .. }) => self.finished(journal, &records),
            News::Host(event) => self.note_of_host(&event),
            _ => {}
        }
    }

    /// Writes something of an event log. If that fails, the log lacks it.
    fn keep_log(&mut self, write: impl FnOnce(&mut Store) -> Result<()>) {
        let Some(store) = &mut self.store else { return };
        let written = write(store);
        if written.is_err() {
            self.counts.lost_logs += 1;
            self.exports.failed("event_log");
        }
        self.note(written);
    }

    fn finished(&mut self, journal: JournalId, records: &[Record]) {
        if let Some(store) = &mut self.store {
            let written = store.finish(journal, records);
            if written.is_err() {
                self.counts.lost_records += 1;
                self.exports.failed("record");
            }
            self.note(written);
        }
        for record in records {
            self.counts.count(record);
            let exported = self.exports.finished(record, &mut self.counts);
            self.note(exported);
            let lines = &mut self.lines;
            let written = self.progress.around(|| lines.write(record));
            if written.is_err() {
                self.counts.lost_lines += 1;
                self.exports.failed("line");
            }
            self.note(written);
        }
        self.remove_old();
    }

    fn note_of_host(&mut self, event: &Event) {
        match &event.fact {
            Fact::NotMeasured(NotMeasured { what, why }) => {
                self.trouble(&format!("not measured: {what}: {why}"));
            }
            Fact::Lost { so_far, .. } => self.exports.lost(*so_far),
            _ => {}
        }
    }

    /// Does what is to be done from time to time.
    fn tidy(&mut self) {
        self.remove_old();
        let ordered = self.store.as_mut().map_or(Ok(()), Store::retry);
        self.note(ordered);
        let shown = self.exports.show_life();
        self.note(shown);
    }

    fn adopt_leftovers(&mut self) {
        let ordered = self.store.as_mut().map_or(Ok(()), Store::adopt_leftovers);
        self.note(ordered);
    }

    /// Waits until a log of an earlier run is a pair, or one of this run whose pair could not be written at first.
    async fn next_adopted(&mut self) -> Adopted {
        match &mut self.store {
            Some(store) => store.adopted().await,
            None => std::future::pending().await,
        }
    }

    fn adopted(&mut self, adopted: &Adopted) {
        if self.store.as_mut().is_some_and(|store| store.take_own(adopted)) {
            let made = u64::from(adopted.pair.is_ok());
            self.counts.lost_records = self.counts.lost_records.saturating_sub(made);
        } else {
            self.say(&adopted.line());
        }
        self.remove_old();
    }

    /// What was left over stays so from now on. It may take long to read.
    fn end_adoption(&mut self) {
        let Some(store) = &mut self.store else { return };
        let (done, left) = store.end_adoption();
        done.iter().for_each(|adopted| self.adopted(adopted));
        if left > 0 {
            let logs =
                if left == 1 { "log that a killed run left is" } else { "logs that killed runs left are" };
            self.say(&format!("{left} {logs} still to be read: the next watch into this directory does it"));
        }
    }

    fn remove_old(&mut self) {
        let Some(store) = &mut self.store else { return };
        let removed = store.remove_old(realtime_ns().cast_signed() / 1_000_000_000);
        match removed {
            Ok(count) => self.counts.removed += count as u64,
            Err(error) => self.note(Err(error)),
        }
    }

    fn reopen(&mut self) {
        let reopened = self.lines.reopen();
        self.note(reopened);
        let reopened = self.store.as_mut().map_or(Ok(()), Store::reopen);
        self.note(reopened);
    }

    /// Reports an error, unless the same was reported lately.
    fn note(&mut self, result: Result<(), Error>) {
        if let Err(error) = result {
            self.trouble(&format!("migtrace: {}", explain(&error)));
        }
    }

    fn trouble(&mut self, cause: &str) {
        if let Some(line) = self.troubles.note(cause, Instant::now()) {
            self.say(&line);
        }
    }
}

/// When to tell the service manager that this process lives, if it wants to know.
fn watchdog() -> Option<tokio::time::Interval> {
    let every = sd_notify::watchdog_enabled()? / 2;
    (!every.is_zero()).then(|| tokio::time::interval(every))
}

async fn due(interval: Option<&mut tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
