//! Waits for migrations and makes their records: the events of a [`Tracer`] go through a [`Timeline`].

pub(crate) mod choice;
mod error;
pub(crate) mod pace;
mod probe;
mod probed_vm;
pub(crate) mod settling;

use tokio::time::Instant;

use crate::event::{EchoStart, EndReason, Event, Fact, Qemu};
use crate::host::clock;
use crate::probe::{ProbeError, ProbeStep, Prober};
use crate::selection::Selection;
use crate::timeline::{Ended, Live, Timeline};
use crate::tracer::{Tracer, TracerError};
use crate::units::MonotonicNs;
use crate::vocabulary::NotMeasured;
use choice::{Choice, Settled};
pub use error::RecorderError;
use pace::Pace;
use probe::{Probe, next_step};
pub use probed_vm::Untied;
use settling::Settling;

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
/// let (_last_events, timeline) = recorder.finish(EndReason::MigrationEnded)?;
/// let records = timeline.finish();
/// # let _ = records;
/// # Ok(())
/// # }
/// ```
pub struct Recorder {
    tracer: Tracer,
    choice: Choice,
    probe: Option<Probe>,
    timeline: Timeline,
    pace: Pace,
    /// How the awaited migration has ended, according to the last look.
    ended: Option<Ended>,
    /// A migration is under way, according to the last look.
    under_way: bool,
    /// It has ended, and the rest is waited for.
    settling: Option<Settling>,
    until: Until,
}

/// Until when a recording goes on.
#[derive(Clone, Copy)]
enum Until {
    /// Until the first migration has ended.
    Migration,
    /// Until somebody says so.
    Told,
    /// Until nothing more is awaited. That was said at this instant.
    Settled(Instant),
}

impl Recorder {
    /// Records what `tracer` yields of the selected VMs.
    ///
    /// A name or UUID means the VM of one user: the one whose QEMU is seen first (see [`Selection::is_of_one_user`]). A VM
    /// that another user starts with the same name or UUID is not recorded, and an event says so.
    #[must_use]
    pub fn new(tracer: Tracer, selection: Selection) -> Self {
        let present: Vec<Qemu> = tracer.qemus().cloned().collect();
        let mut recorder = Self {
            tracer,
            probe: None,
            timeline: Timeline::new(selection.clone()),
            choice: Choice::new(selection),
            pace: Pace::new(Instant::now()),
            ended: None,
            under_way: false,
            settling: None,
            until: Until::Migration,
        };
        for qemu in present {
            recorder.settle_user(&qemu);
        }
        recorder
    }

    /// Takes the user of the first QEMU with the selected name as the one who is meant. Returns whether this QEMU has the
    /// name, but belongs to another user.
    fn settle_user(&mut self, qemu: &Qemu) -> bool {
        let settled = self.choice.settle(qemu);
        if settled == Settled::Changed {
            self.timeline.select(self.choice.selection().clone());
            if let Some(probe) = &mut self.probe {
                probe.vm.select(self.choice.selection().clone());
            }
        }
        settled == Settled::OfAnotherUser
    }

    /// Also records what `prober` finds. A migration is then over when the guest answers, or has not answered for 30 s.
    ///
    /// What is found belongs to one VM: the one that has the address' MAC, or else the selected one. Waits up to a second for
    /// the network to show which one that is. Where there is at most one VM, it may stay unknown.
    ///
    /// # Errors
    /// [`RecorderError::WhoseAddress`]: there are several VMs, the network does not show which of them is probed, and the
    /// [`Selection`] does not name one. Otherwise as [`Tracer::note`].
    pub async fn probe(&mut self, prober: Prober) -> Result<(), RecorderError> {
        let (probe, news) = Probe::begin(prober, self.choice.selection().clone(), &self.tracer).await?;
        let start = EchoStart {
            mac: probe.mac.map(|mac| mac.to_string()),
            vm: self.choice.selection().vm.clone(),
            ..probe.prober.started()
        };
        self.tracer.note(Fact::EchoStart(start))?;
        news.into_iter().try_for_each(|fact| self.tracer.note(fact))?;
        self.probe = Some(probe);
        Ok(())
    }

    /// From now on the recording goes on until [`Self::conclude`] is called, whatever ends: another host's recording says when
    /// the migration is over.
    pub const fn follow(&mut self) {
        self.until = Until::Told;
    }

    /// The awaited migration is over, as another host has seen. The recording ends as soon as nothing more of it is awaited
    /// here. A migration that is still under way here is waited for, but for at most a minute.
    pub fn conclude(&mut self) {
        self.until = Until::Settled(Instant::now());
        self.look();
    }

    /// A QEMU of the VM that is probed; `None` while it is unknown which VM that is.
    #[must_use]
    pub fn probed(&self) -> Option<&Qemu> {
        self.probe.as_ref()?.vm.qemu()
    }

    /// Looks which VM has the probed address, and reports what is new.
    fn look_for_vm(&mut self) -> Result<(), TracerError> {
        let Some(probe) = &mut self.probe else { return Ok(()) };
        let news = probe.look(&self.tracer);
        news.into_iter().try_for_each(|fact| self.tracer.note(fact))
    }

    /// The tracer.
    #[must_use]
    pub const fn tracer(&self) -> &Tracer {
        &self.tracer
    }

    /// The next event; `None` once a migration has ended and its last packets were counted. If a guest has arrived on this
    /// host, that is not before it runs: its manager starts it, which may take seconds. It is waited for as long as its QEMU
    /// lives, but for at most a minute. Cancel-safe.
    ///
    /// # Errors
    /// As [`Tracer::next`], or probing failed.
    pub async fn next(&mut self) -> Result<Option<Event>, RecorderError> {
        let event = loop {
            if self.has_settled()? {
                return Ok(None);
            }
            let look = self.next_look();
            let look_for_vm = self.probe.as_ref().map(|probe| probe.next_look);
            tokio::select! {
                event = self.tracer.next() => break event?,
                step = next_step(self.probe.as_mut()) => {
                    if let ProbeStep::Gap(gap) | ProbeStep::MayBe(gap) = step? {
                        self.tracer.note_at(gap.resumed_ns, Fact::EchoGap(gap));
                    }
                }
                () = until(look_for_vm) => self.look_for_vm()?,
                () = until(look) => self.look(),
            }
        };
        if let Fact::QemuSeen(qemu) = &event.fact
            && self.settle_user(qemu)
        {
            self.note_other_user(qemu)?;
        }
        self.timeline.push(&event);
        if self.pace.happened(Instant::now(), event.fact.is_turning_point()) {
            self.look();
        }
        Ok(Some(event))
    }

    /// Reports that a QEMU is not recorded.
    fn note_other_user(&mut self, qemu: &Qemu) -> Result<(), TracerError> {
        let NotMeasured { what, why } = self.choice.not_recorded(qemu);
        self.tracer.note_not_measured(&what, why)
    }

    /// When to look again if nothing happens before. The last fact of a migration may be the last one for hours, so no
    /// other event would lead to a look.
    fn next_look(&self) -> Option<Instant> {
        let examined = self.pace.next_look();
        let settled = self.settling.as_ref().and_then(|settling| settling.next_look(Instant::now()));
        let given_up = match self.until {
            Until::Settled(since) if self.settling.is_none() => Some(since + settling::GUEST_PATIENCE),
            _ => None,
        };
        [examined, settled.filter(|_| !self.is_following()), given_up].into_iter().flatten().min()
    }

    /// Finds out whether the awaited migration has ended.
    fn look(&mut self) {
        let begun = Instant::now();
        self.ended = self.timeline.ended();
        self.under_way = self.timeline.is_under_way();
        let now = Instant::now();
        self.pace.looked(begun, now);
        if self.settling.is_none() {
            self.settling = self.ended.as_ref().map(|end| Settling::new(now, end));
        }
        if self.settling.is_none()
            && let Until::Settled(since) = self.until
            && (!self.under_way || now >= since + settling::GUEST_PATIENCE)
        {
            self.settling = Some(Settling::elsewhere(now));
        }
    }

    const fn is_following(&self) -> bool {
        matches!(self.until, Until::Told)
    }

    fn has_settled(&mut self) -> Result<bool, ProbeError> {
        let is_following = self.is_following();
        let Some(settling) = self.settling.as_mut().filter(|_| !is_following) else { return Ok(false) };
        let now = Instant::now();
        if !settling.has_settled(now, self.ended.as_ref()) {
            return Ok(false);
        }
        // The probed guest may still be, or soon fall, silent.
        let Some(probe) = &self.probe else { return Ok(true) };
        Ok(!settling.watches(now, probe.prober.is_in_gap()?))
    }

    /// Ends the echo requests, and waits up to a second for the last replies to them. Without this, what [`Self::finish`]
    /// returns has no summary of them. Cancel-safe: called again, it continues.
    ///
    /// # Errors
    /// As [`Tracer::note`], or probing failed.
    pub async fn end_probe(&mut self) -> Result<(), RecorderError> {
        let Some(probe) = &mut self.probe else { return Ok(()) };
        let facts = probe.prober.end().await?;
        // A QEMU may have come since the last time.
        self.look_for_vm()?;
        self.probe = None;
        for fact in facts {
            match fact {
                Fact::EchoGap(gap) => self.tracer.note_at(gap.resumed_ns, fact),
                fact => self.tracer.note(fact)?,
            }
        }
        Ok(())
    }

    /// Adds a fact that something else found at an instant of this host's monotonic clock.
    pub fn note_at(&mut self, at: MonotonicNs, fact: Fact) {
        self.tracer.note_at(at, fact);
    }

    /// Adds a fact that something else found at this instant.
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

    /// Whether a migration is under way here.
    #[must_use]
    pub const fn is_under_way(&self) -> bool {
        self.under_way
    }

    /// Whether the awaited migration has ended. Its last packets, and what follows it, may still be waited for.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.settling.is_some()
    }

    /// The awaited migration, if it has ended here.
    #[must_use]
    pub const fn ended(&self) -> Option<&Ended> {
        self.ended.as_ref()
    }

    /// Whether the migrations of this QEMU are recorded.
    #[must_use]
    pub fn selects(&self, qemu: &Qemu) -> bool {
        self.choice.selection().matches(qemu)
    }

    /// Stops tracing: the last events, and all that was seen.
    ///
    /// # Errors
    /// As [`Tracer::finish`].
    pub fn finish(mut self, reason: EndReason) -> Result<(Vec<Event>, Timeline), TracerError> {
        let events = self.tracer.finish(reason)?;
        for event in &events {
            self.timeline.push(event);
        }
        Ok((events, self.timeline))
    }
}

// An embedder may have an executor with several threads.
const _: () = {
    const fn can_move_between_threads<T: Send>() {}
    can_move_between_threads::<Recorder>();
    can_move_between_threads::<Tracer>();
    can_move_between_threads::<Prober>();
};

/// Waits for an instant; for ever without one.
async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
