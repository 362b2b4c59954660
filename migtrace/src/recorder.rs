//! Waits for migrations and makes their records: a [`Tracer`] whose events go through a [`Timeline`].

mod owners;
mod settling;

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::event::{EndReason, Event, Fact, Qemu};
use crate::host::clock;
use crate::host::neighbours::Neighbours;
use crate::probe::{ProbeError, ProbeStep, Prober};
use crate::record::Record;
use crate::selection::{Selection, introductions};
use crate::timeline::{Ended, Live, Timeline};
use crate::tracer::{Tracer, TracerError};
pub use owners::Untied;
use owners::{Look, Owners};
use settling::Settling;

/// Facts other than QMP events are many; whether one of them ended the migration may be found out this much later.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After a look, nobody looks for so many times as long as it took: each is at all that was said so far, and a QEMU may say
/// much.
const LOOK_REST: u32 = 10;
/// How often it is looked whose the probed address is.
const OWNER_EVERY: Duration = Duration::from_secs(1);
/// How long the network has to tell it before the person is asked: an address that answers was found before.
const OWNER_PATIENCE: Duration = Duration::from_secs(1);
/// How often it is looked meanwhile.
const OWNER_SOON: Duration = Duration::from_millis(50);

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
    /// There are several VMs, and it is not known which of them has the probed address.
    #[error(
        "which VM has {target} is not known: {why}; name it with --vm or --pid: this network namespace has {}",
        introductions(present)
    )]
    WhoseAddress {
        /// The address.
        target: IpAddr,
        /// Why nothing but a [`Selection`] can tell.
        why: Untied,
        /// The QEMUs of this network namespace.
        present: Vec<Qemu>,
    },
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
    selection: Selection,
    /// Whose VM the selected name means.
    user: User,
    probe: Option<Probe>,
    timeline: Timeline,
    looked: Instant,
    /// How long that took.
    look_took: Duration,
    /// Something has happened since the last look.
    unexamined: bool,
    /// How the awaited migration has ended, as far as the last look told.
    ended: Option<Ended>,
    /// It has ended.
    settling: Option<Settling>,
}

/// Whose VM a name means.
#[derive(Clone, Copy)]
enum User {
    /// The [`Selection`] says it.
    Selected,
    /// The user of the first QEMU that had it: its process, once it was seen.
    OfFirst(Option<u32>),
}

/// An address that is asked for echo replies.
struct Probe {
    prober: Prober,
    owners: Owners,
    neighbours: Neighbours,
    /// When it is looked again whose the address is.
    next_look: Instant,
}

impl Recorder {
    /// Records what `tracer` tells of the selected VMs.
    ///
    /// A name or UUID means the VM of one user: of the one whose QEMU is here first (see [`Selection::is_of_one_user`]).
    /// One that another user starts with it is said not to be recorded, and is not.
    #[must_use]
    pub fn new(tracer: Tracer, selection: Selection) -> Self {
        let present: Vec<Qemu> = tracer.qemus().cloned().collect();
        let mut recorder = Self {
            tracer,
            user: if selection.uid.is_some() { User::Selected } else { User::OfFirst(None) },
            probe: None,
            timeline: Timeline::new(selection.clone()),
            selection,
            looked: Instant::now(),
            look_took: Duration::ZERO,
            unexamined: false,
            ended: None,
            settling: None,
        };
        for qemu in present {
            recorder.settle_user(&qemu);
        }
        recorder
    }

    /// Takes the user of the first QEMU of the selected name for the one who is meant. Returns whether this QEMU has the
    /// name, and is another user's.
    fn settle_user(&mut self, qemu: &Qemu) -> bool {
        let Selection { vm: Some(_), pid: None, uid } = self.selection else { return false };
        let User::OfFirst(first) = self.user else { return false };
        if !self.selection.matches_vm(qemu.name.as_deref(), qemu.uuid.as_deref()) {
            return false;
        }
        // What is started by root may become another user's in a moment (`-runas`).
        if first.is_some_and(|first| first != qemu.pid) {
            return uid != qemu.uid;
        }
        self.user = User::OfFirst(Some(qemu.pid));
        if uid != qemu.uid {
            self.selection.uid = qemu.uid;
            self.timeline.select(self.selection.clone());
            if let Some(probe) = &mut self.probe {
                probe.owners.select(self.selection.clone());
            }
        }
        false
    }

    /// Records what `prober` finds too. A migration is then over when the guest answers, or has not for 30 s.
    ///
    /// What is found is of one VM: of the one that has the address' MAC, or else of the selected one. Waits up to a second
    /// for the network to tell which that is. Where there is one VM at most, it may stay open.
    ///
    /// # Errors
    /// [`RecorderError::WhoseAddress`]: there are several VMs, the network does not tell which of them is asked, and the
    /// [`Selection`] does not name one. Otherwise as [`Tracer::note`].
    pub async fn probe(&mut self, prober: Prober) -> Result<(), RecorderError> {
        let cannot = |source| ProbeError::Host { what: "find the MAC of the address", source };
        let mut neighbours = Neighbours::at(prober.interface()).map_err(cannot)?;
        let target = prober.target();
        let mut owners = Owners::new(target, self.selection.clone());
        let deadline = Instant::now() + OWNER_PATIENCE;
        let news = loop {
            let now = look_around(&self.tracer, &owners, &mut neighbours).map_err(cannot)?;
            let news = owners.look(&now);
            let Some(why) = owners.doubt(&now) else { break news };
            // What has a MAC was heard by the bridge, too.
            if why != Untied::NoMac || Instant::now() >= deadline {
                let present = self.tracer.qemus().cloned().collect();
                return Err(RecorderError::WhoseAddress { target, why, present });
            }
            tokio::time::sleep(OWNER_SOON).await;
        };
        self.tracer.note(Fact::EchoStart(prober.started()))?;
        news.into_iter().try_for_each(|fact| self.tracer.note(fact))?;
        self.probe = Some(Probe { prober, owners, neighbours, next_look: Instant::now() + OWNER_EVERY });
        Ok(())
    }

    /// A QEMU of the VM that is probed; none while it is not known which that is.
    #[must_use]
    pub fn probed(&self) -> Option<&Qemu> {
        self.probe.as_ref()?.owners.owner()
    }

    /// Looks whether there is news of whose the probed address is.
    fn look_for_owners(&mut self) -> Result<(), TracerError> {
        let Some(probe) = &mut self.probe else { return Ok(()) };
        probe.next_look = Instant::now() + OWNER_EVERY;
        let Probe { owners, neighbours, .. } = probe;
        // What cannot be told now may be a second later.
        let Ok(now) = look_around(&self.tracer, owners, neighbours) else { return Ok(()) };
        let news = owners.look(&now);
        news.into_iter().try_for_each(|fact| self.tracer.note(fact))
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
            let look_for_owners = self.probe.as_ref().map(|probe| probe.next_look);
            tokio::select! {
                event = self.tracer.next() => break event?,
                step = next_step(self.probe.as_mut()) => {
                    if let ProbeStep::Gap(gap) | ProbeStep::MayBe(gap) = step? {
                        self.tracer.note_at(gap.resumed_ns, Fact::EchoGap(gap));
                    }
                }
                () = until(look_for_owners) => self.look_for_owners()?,
                () = until(look) => self.look(),
            }
        };
        if let Fact::QemuSeen(qemu) = &event.fact
            && self.settle_user(qemu)
        {
            self.note_other_user(qemu)?;
        }
        self.timeline.push(&event);
        self.unexamined = true;
        let is_turning_point = matches!(event.fact, Fact::Qmp(_) | Fact::QemuGone { .. });
        let every = if is_turning_point { Duration::ZERO } else { LOOK_EVERY };
        if self.looked.elapsed() >= self.pause(every) {
            self.look();
        }
        Ok(Some(event))
    }

    /// Says that a QEMU is not recorded.
    fn note_other_user(&mut self, qemu: &Qemu) -> Result<(), TracerError> {
        let user = |uid: Option<u32>| uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
        self.tracer.note_not_measured(
            "a VM of the selected name or UUID that another user has started",
            format!(
                "it runs with the user id {}, and the VM that was there before with {}: --pid selects one by its \
                 process",
                user(qemu.uid),
                user(self.selection.uid)
            ),
        )
    }

    /// When to look again if nothing happens before. The last fact of a migration may be the last for hours: nobody else
    /// would look.
    fn next_look(&self) -> Option<Instant> {
        let examined = self.unexamined.then(|| self.looked + self.pause(LOOK_EVERY));
        let settled = self.settling.as_ref().and_then(|settling| settling.next_look(Instant::now()));
        [examined, settled].into_iter().flatten().min()
    }

    /// Finds out whether the awaited migration has ended.
    fn look(&mut self) {
        let begun = Instant::now();
        self.ended = self.timeline.ended();
        self.looked = Instant::now();
        self.look_took = self.looked - begun;
        self.unexamined = false;
        if self.settling.is_none() {
            self.settling = self.ended.as_ref().map(|end| Settling::new(self.looked, end));
        }
    }

    /// How long to wait after a look, if that is to be `every` so often.
    fn pause(&self, every: Duration) -> Duration {
        every.max(self.look_took * LOOK_REST)
    }

    fn has_settled(&mut self) -> Result<bool, ProbeError> {
        let Some(settling) = &mut self.settling else { return Ok(false) };
        let now = Instant::now();
        if !settling.has_settled(now, self.ended.as_ref()) {
            return Ok(false);
        }
        // The probed guest may still be, or soon fall, silent.
        let Some(probe) = &self.probe else { return Ok(true) };
        Ok(!settling.watches(now, probe.prober.is_in_gap()?))
    }

    /// Ends the echo requests, and waits up to a second for the last replies to them. Without this, [`Self::finish`]
    /// says nothing of what they told as a whole. Cancel-safe: called again, it goes on.
    ///
    /// # Errors
    /// As [`Tracer::note`], and what stops a probe.
    pub async fn end_probe(&mut self) -> Result<(), RecorderError> {
        let Some(probe) = &mut self.probe else { return Ok(()) };
        let facts = probe.prober.end().await?;
        // A QEMU may have come since the last time.
        self.look_for_owners()?;
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
        self.ended.as_ref()?.pid
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

/// What is known now of the address and of who may have it.
fn look_around<'a>(tracer: &'a Tracer, owners: &Owners, neighbours: &mut Neighbours) -> io::Result<Look<'a>> {
    let mac = neighbours.mac_of(owners.target())?;
    let mut look = Look { qemus: tracer.qemus().collect(), mac, port: None };
    if let Some(mac) = owners.mac_without_vm(&look) {
        look.port = neighbours.port_of(mac)?;
    }
    Ok(look)
}

/// Never ends without an instant.
async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Never ends without a probe.
async fn next_step(probe: Option<&mut Probe>) -> Result<ProbeStep, ProbeError> {
    match probe {
        Some(probe) => probe.prober.next().await,
        None => std::future::pending().await,
    }
}
