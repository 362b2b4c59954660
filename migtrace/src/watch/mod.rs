//! Follows a host for as long as it runs, and makes the record of every migration.
//!
//! A [`Watcher`] has one [`Tracer`], and deals its events out to *journals*, one for each migration. A journal begins with what
//! holds for the host at that time and what is known of its QEMU; then come the events of its migration, and no others. So its
//! log replays into its record like that of a recording that began just before. A journal opens with the first sign of a
//! migration, and is closed when nothing more is awaited. In between, nothing of a migration is kept.

mod about;
mod dealer;
mod flows;
mod journal;
mod qemus;
mod standing;
mod turns;

#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::Instant;

use crate::event::{EndReason, Event, Fact};
use crate::host::clock;
use crate::record::Record;
use crate::recorder::choice::{Choice, Settled};
use crate::selection::Selection;
use crate::timeline::{Live, Timeline};
use crate::tracer::{Tracer, TracerError, host, now as monotonic};
use crate::units::MonotonicNs;
pub(crate) use about::process_of;
use dealer::Dealer;
pub use journal::JournalId;

/// What a [`Watcher`] tells.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub enum News {
    /// A migration has begun. The events of its journal until now follow.
    Begun {
        /// Its journal.
        journal: JournalId,
    },
    /// The next event of a journal. All of them together are its log.
    Event {
        /// The journal.
        journal: JournalId,
        /// The event.
        event: Event,
    },
    /// A migration is over, and its journal is closed.
    Finished(Finished),
    /// What looked like a migration was none. Its journal is closed, and there is no record.
    Discarded {
        /// The journal.
        journal: JournalId,
    },
    /// Something about the host itself, such as what cannot be measured. It goes into the journals that it concerns, too.
    Host(Event),
}

/// The records of a timeline, each migration once. Where both ends of one are on the same host, the timeline has a record from
/// either end; that of the source has all that both have seen.
#[must_use]
pub fn records(timeline: &Timeline) -> Vec<Record> {
    timeline.finish_once()
}

/// A migration that is over.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its journal.
    pub journal: JournalId,
    /// What its log replays into: one record ([`records`]). There are more if the events do not show where one migration of a VM ends and
    /// the next begins.
    pub records: Vec<Record>,
}

/// Records every migration of the selected VMs, several at once if need be, until it is told to end.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use migtrace::selection::Selection;
/// use migtrace::tracer::Tracer;
/// use migtrace::watch::{News, Watcher};
///
/// let mut watcher = Watcher::new(Tracer::builder().start()?, Selection::default());
/// loop {
///     if let News::Finished(finished) = watcher.next().await? {
///         println!("{} records", finished.records.len());
///     }
/// }
/// # }
/// ```
///
/// Like its [`Tracer`], it has to be polled in the network namespace in which that was started, needs a tokio runtime with I/O
/// and time, and may move between threads.
pub struct Watcher {
    tracer: Tracer,
    choice: Choice,
    dealer: Dealer,
    /// When it last looked what is due.
    turned: Instant,
}

/// While events wait, how often to look what else is due.
const TURN_EVERY: Duration = Duration::from_millis(20);

impl Watcher {
    /// Follows what `tracer` yields of the selected VMs. As for a [`Recorder`](crate::recorder::Recorder), a name or UUID means
    /// the VM of one user.
    #[must_use]
    pub fn new(tracer: Tracer, selection: Selection) -> Self {
        let mut choice = Choice::new(selection);
        for qemu in tracer.qemus() {
            choice.settle(qemu);
        }
        let dealer = Dealer::new(choice.selection().clone());
        Self { tracer, choice, dealer, turned: Instant::now() }
    }

    /// The tracer.
    #[must_use]
    pub const fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// The next news; waits until there are some. Cancel-safe.
    ///
    /// # Errors
    /// As [`Tracer::next`].
    pub async fn next(&mut self) -> Result<News, TracerError> {
        loop {
            if let Some(news) = self.dealer.take_news() {
                return Ok(news);
            }
            self.tracer.keep_awake(self.dealer.has_journals());
            let waiting = self.tracer.take();
            if waiting.is_none() || self.turned.elapsed() >= TURN_EVERY {
                self.turn()?;
            }
            let event = match waiting {
                Some(event) => Some(event),
                // What has just become due has news, perhaps.
                None if self.dealer.has_news() => None,
                None => self.next_event().await?,
            };
            let Some(event) = event else { continue };
            if let Some(news) = self.take(event)? {
                return Ok(news);
            }
        }
    }

    /// Does what is due.
    fn turn(&mut self) -> Result<(), TracerError> {
        self.turned = Instant::now();
        let now_ns = monotonic()?;
        self.dealer.turn(self.turned, now_ns);
        while let Some(id) = self.dealer.settled(self.turned, now_ns) {
            self.close(id)?;
        }
        Ok(())
    }

    /// The next event; `None` when it is time for a turn.
    async fn next_event(&mut self) -> Result<Option<Event>, TracerError> {
        let Some(turn) = self.dealer.next_turn(Instant::now()) else {
            return self.tracer.next().await.map(Some);
        };
        tokio::select! {
            event = self.tracer.next() => event.map(Some),
            () = tokio::time::sleep_until(turn) => Ok(None),
        }
    }

    /// Takes in an event. Returns it if it is worth telling although it belongs to no migration.
    fn take(&mut self, event: Event) -> Result<Option<News>, TracerError> {
        if let Fact::QemuSeen(qemu) = &event.fact {
            match self.choice.settle(qemu) {
                Settled::Unchanged => {}
                Settled::Changed => self.dealer.select(self.choice.selection().clone()),
                Settled::OfAnotherUser => {
                    let entry = self.choice.not_recorded(qemu);
                    self.tracer.note_not_measured(&entry.what, entry.why)?;
                }
            }
        }
        self.dealer.deal(&event, Instant::now());
        let is_told = matches!(
            event.fact,
            Fact::NotMeasured(_)
                | Fact::InterfaceAdded(_)
                | Fact::InterfaceGone { .. }
                | Fact::TcRemoved(_)
                | Fact::Lost { .. }
        );
        Ok(is_told.then_some(News::Host(event)))
    }

    /// Closes a journal, with the last counters of its connections.
    fn close(&mut self, id: JournalId) -> Result<(), TracerError> {
        self.tracer.take_stock()?;
        let now = Instant::now();
        while let Some(event) = self.tracer.take() {
            self.dealer.deal(&event, now);
        }
        let at_ns = monotonic()?;
        let last = [
            Fact::Clock(clock::sample().map_err(host("read the clocks"))?),
            Fact::LogEnd { reason: EndReason::MigrationEnded },
        ];
        self.dealer.close(id, &last.map(|fact| Event { at_ns, fact }), now);
        Ok(())
    }

    /// The migrations that are under way.
    #[must_use]
    pub fn live(&self) -> Vec<(JournalId, Live)> {
        clock::now().map(|now| self.dealer.live(now)).unwrap_or_default()
    }

    /// From now on no more migrations are taken on. Those that are under way go on.
    pub const fn decline(&mut self) {
        self.dealer.decline();
    }

    /// Whether no migration is under way, and the last one is finished.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.dealer.is_idle()
    }

    /// Stops tracing. What is still under way is finished as interrupted.
    ///
    /// # Errors
    /// As [`Tracer::finish`].
    pub fn finish(self, reason: EndReason) -> Result<Vec<News>, TracerError> {
        let Self { tracer, mut dealer, .. } = self;
        let now = Instant::now();
        let now_ns = monotonic()?;
        let events = tracer.finish(reason)?;
        finish(&mut dealer, &events, now, now_ns);
        Ok(std::iter::from_fn(|| dealer.take_news()).collect())
    }
}

/// Deals the last events out, and closes all journals.
fn finish(dealer: &mut Dealer, events: &[Event], now: Instant, now_ns: MonotonicNs) {
    for event in events {
        dealer.deal(event, now);
    }
    dealer.conclude_all(now, now_ns);
    let is_end = |event: &&Event| matches!(event.fact, Fact::LogEnd { .. });
    let end: Vec<Event> = events.iter().filter(is_end).cloned().collect();
    for id in dealer.open_journals() {
        dealer.close(id, &end, now);
    }
}

// An embedder may have an executor with several threads.
const _: () = {
    const fn can_move_between_threads<T: Send>() {}
    can_move_between_threads::<Watcher>();
};
