//! Waits for migrations and makes their records: a [`Tracer`] whose events go through a [`Timeline`].

mod settling;

use std::time::Duration;

use tokio::time::Instant;

use crate::event::{EndReason, Event, Fact};
use crate::host::clock;
use crate::probe::{ProbeError, Prober, Step};
use crate::record::Record;
use crate::selection::Selection;
use crate::timeline::{Live, Timeline};
use crate::tracer::{Tracer, TracerError};
use settling::Settling;

/// Facts other than QMP events are many; whether one of them ended the migration may be found out this much later.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why a recording cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecorderError {
    /// The tracing.
    #[error(transparent)]
    Tracer(#[from] TracerError),
    /// The echo requests that go with it.
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

/// Records the next migration of the selected VMs.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
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
    probe: Option<Prober>,
    timeline: Timeline,
    looked: Instant,
    /// Something has happened since the last look.
    unexamined: bool,
    /// The awaited migration has ended.
    settling: Option<Settling>,
}

impl Recorder {
    /// Records what `tracer` tells of the selected VMs.
    #[must_use]
    pub fn new(tracer: Tracer, selection: Selection) -> Self {
        Self {
            tracer,
            probe: None,
            timeline: Timeline::new(selection),
            looked: Instant::now(),
            unexamined: false,
            settling: None,
        }
    }

    /// Records what `prober` finds too. A migration is then over when the guest answers, or has not for 30 s.
    ///
    /// # Errors
    /// As [`Tracer::note`].
    pub fn probe(&mut self, prober: Prober) -> Result<(), TracerError> {
        self.tracer.note(Fact::EchoStart(prober.started()))?;
        self.probe = Some(prober);
        Ok(())
    }

    /// The tracer.
    #[must_use]
    pub const fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// The next event; `None` once a migration has ended and its last packets were counted. A guest that has arrived on
    /// this host is waited for until it runs, for a minute at most and as long as its QEMU lives: whoever manages it lets
    /// it run, and may do so seconds later. Cancel-safe.
    ///
    /// # Errors
    /// As [`Tracer::next`], and what stops a probe.
    pub async fn next(&mut self) -> Result<Option<Event>, RecorderError> {
        let event = loop {
            if self.has_settled()? {
                return Ok(None);
            }
            let look = self.next_look();
            tokio::select! {
                event = self.tracer.next() => break event?,
                step = next_step(self.probe.as_mut()) => {
                    if let Step::Gap(gap) | Step::MayBe(gap) = step? {
                        self.tracer.note_at(gap.resumed_ns, Fact::EchoGap(gap));
                    }
                }
                () = until(look) => {
                    if self.settling.is_none() {
                        self.look();
                    }
                }
            }
        };
        self.timeline.push(&event);
        self.unexamined = true;
        let is_turning_point = matches!(event.fact, Fact::Qmp(_) | Fact::QemuGone { .. });
        if self.settling.is_none() && (is_turning_point || self.looked.elapsed() >= LOOK_EVERY) {
            self.look();
        }
        Ok(Some(event))
    }

    /// When to look again if nothing happens before. The last fact of a migration may be the last for hours: nobody else
    /// would look.
    fn next_look(&self) -> Option<Instant> {
        match &self.settling {
            Some(settling) => settling.next_look(Instant::now()),
            None => self.unexamined.then(|| self.looked + LOOK_EVERY),
        }
    }

    /// Finds out whether the awaited migration has ended.
    fn look(&mut self) {
        self.looked = Instant::now();
        self.unexamined = false;
        self.settling = self.timeline.ended().map(|end| Settling::new(self.looked, &end));
    }

    fn has_settled(&mut self) -> Result<bool, ProbeError> {
        let Some(settling) = &mut self.settling else { return Ok(false) };
        let now = Instant::now();
        if !settling.has_settled(now, self.timeline.ended().as_ref()) {
            return Ok(false);
        }
        // The probed guest may still be, or soon fall, silent.
        let Some(prober) = &self.probe else { return Ok(true) };
        Ok(!settling.watches(now, prober.is_in_gap()?))
    }

    /// Ends the echo requests, and waits up to a second for the last replies to them. Without this, [`Self::finish`]
    /// says nothing of what they told as a whole. Cancel-safe: called again, it goes on.
    ///
    /// # Errors
    /// As [`Tracer::note`], and what stops a probe.
    pub async fn end_probe(&mut self) -> Result<(), RecorderError> {
        let Some(prober) = &mut self.probe else { return Ok(()) };
        let facts = prober.end().await?;
        self.probe = None;
        for fact in facts {
            match fact {
                Fact::EchoGap(gap) => self.tracer.note_at(gap.resumed_ns, fact),
                fact => self.tracer.note(fact)?,
            }
        }
        Ok(())
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

    /// Whether the awaited migration has ended. Its last packets, and what comes after it, may still be waited for.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.settling.is_some()
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

// Whoever embeds a recording may have an executor with several threads.
const _: () = {
    const fn can_move_between_threads<T: Send>() {}
    can_move_between_threads::<Recorder>();
    can_move_between_threads::<Tracer>();
    can_move_between_threads::<Prober>();
};

/// Never ends without an instant.
async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Never ends without a probe.
async fn next_step(prober: Option<&mut Prober>) -> Result<Step, ProbeError> {
    match prober {
        Some(prober) => prober.next().await,
        None => std::future::pending().await,
    }
}
