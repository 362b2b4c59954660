//! Waits for migrations and makes their records: a [`Tracer`] whose events go through a [`Timeline`].

use std::time::Duration;

use tokio::time::Instant;

use crate::event::{EndReason, Event, Fact};
use crate::host::clock;
use crate::record::Record;
use crate::selection::Selection;
use crate::timeline::{Live, Timeline};
use crate::tracer::{Tracer, TracerError};

/// How long the last packets of a migration are waited for after QEMU has declared its end.
const SETTLE: Duration = Duration::from_secs(1);
/// Facts other than QMP events are many; whether one of them ended the migration may be found out this much later.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Records the next migration of the selected VMs.
///
/// ```no_run
/// # async fn example() -> Result<(), migtrace::tracer::TracerError> {
/// use migtrace::event::EndReason;
/// use migtrace::{recorder::Recorder, selection::Selection, tracer::Tracer};
///
/// let mut recorder = Recorder::new(Tracer::builder().start()?, Selection::default());
/// while let Some(event) = recorder.next().await? {
///     println!("{event:?}");
/// }
/// let (_last_events, records) = recorder.finish(EndReason::MigrationEnded)?;
/// # let _ = records;
/// # Ok(())
/// # }
/// ```
pub struct Recorder {
    tracer: Tracer,
    timeline: Timeline,
    looked: Instant,
    /// Something has happened since the last look.
    unexamined: bool,
    /// When the awaited migration was found to have ended.
    ended: Option<Instant>,
}

impl Recorder {
    /// Records what `tracer` tells of the selected VMs.
    #[must_use]
    pub fn new(tracer: Tracer, selection: Selection) -> Self {
        Self {
            tracer,
            timeline: Timeline::new(selection),
            looked: Instant::now(),
            unexamined: false,
            ended: None,
        }
    }

    /// The tracer.
    #[must_use]
    pub const fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// The next event; `None` once a migration has ended and its last packets were counted. Cancel-safe.
    ///
    /// # Errors
    /// As [`Tracer::next`].
    pub async fn next(&mut self) -> Result<Option<Event>, TracerError> {
        let event = loop {
            if self.has_settled() {
                return Ok(None);
            }
            let deadline = match self.ended {
                Some(ended) => Some(ended + SETTLE),
                // The last fact of a migration may be the last for hours: nobody else would look.
                None => self.unexamined.then_some(self.looked + LOOK_EVERY),
            };
            let Some(deadline) = deadline else { break self.tracer.next().await? };
            match tokio::time::timeout_at(deadline, self.tracer.next()).await {
                Ok(event) => break event?,
                Err(_) if self.ended.is_some() => return Ok(None),
                Err(_) => self.look(),
            }
        };
        self.timeline.push(&event);
        self.unexamined = true;
        let is_turning_point = matches!(event.fact, Fact::Qmp(_) | Fact::QemuGone { .. });
        if self.ended.is_none() && (is_turning_point || self.looked.elapsed() >= LOOK_EVERY) {
            self.look();
        }
        Ok(Some(event))
    }

    /// Finds out whether the awaited migration has ended.
    fn look(&mut self) {
        self.looked = Instant::now();
        self.unexamined = false;
        self.ended = self.timeline.ended().map(|_| self.looked);
    }

    fn has_settled(&self) -> bool {
        self.ended.is_some_and(|ended| {
            ended.elapsed() >= SETTLE || self.timeline.ended().is_some_and(|ended| ended.flows_closed)
        })
    }

    /// Adds a fact that something else found out at this instant.
    ///
    /// # Errors
    /// As [`Tracer::note`].
    pub fn note(&mut self, fact: Fact) -> Result<(), TracerError> {
        self.tracer.note(fact)
    }

    /// The migration as it is now; `None` while there is none.
    #[must_use]
    pub fn live(&self) -> Option<Live> {
        self.timeline.live(clock::now().ok()?)
    }

    /// The process of the migration that has ended.
    #[must_use]
    pub fn ended_pid(&self) -> Option<u32> {
        self.timeline.ended()?.pid
    }

    /// Stops tracing: the last events, and the records of all migrations that were seen.
    ///
    /// # Errors
    /// As [`Tracer::finish`].
    pub fn finish(mut self, reason: EndReason) -> Result<(Vec<Event>, Vec<Record>), TracerError> {
        let events = self.tracer.finish(reason)?;
        for event in &events {
            self.timeline.push(event);
        }
        Ok((events, self.timeline.finish()))
    }
}
