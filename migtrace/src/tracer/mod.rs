//! Watches this host and yields what happens, one [`Event`] after the other.
//!
//! A [`Tracer`] combines what the kernel programs report with what `/proc` and netlink show. It draws no conclusions
//! about migrations: that is the [timeline](crate::timeline)'s part.
//!
//! Three folders hold the facts: `this_host` what runs here (QEMUs, their taps, interfaces), `messages` what the kernel
//! programs report (QMP events, losses), `flows` the connections and whose they are. `state` joins them.

mod base;
mod builder;
mod cleanup;
mod error;
mod flows;
pub(crate) mod messages;
mod queue;
mod sleep;
mod state;
mod this_host;

use futures_util::Stream;
use tokio::time::{Instant, Interval};

use crate::event::{self, EndReason, Event, Fact, Instrument, Observation, Qemu};
use crate::host::clock::StepWatcher;
pub use crate::host::links::CountingError;
use crate::host::links::{self, LinkWatcher};
use crate::host::qemu::Binaries;
use crate::identity::Identity;
use crate::kernel::Kernel;
use crate::ticks::{ticks, ticks_from};
use crate::units::MonotonicNs;
pub use builder::Builder;
pub use cleanup::{CleanedUp, clean_up};
pub use error::TracerError;
pub(crate) use error::host;
use flows::{Flows, SAMPLE_EVERY};
pub(crate) use queue::now;
use sleep::Sleep;
use state::State;
use this_host::interfaces::Interfaces;
use this_host::qemus::Qemus;
use this_host::scans::{self, Scans};

/// The instrument that ends a sleep. Without it nothing is measured less.
const CONNECT: &str = "connect";

/// Instruments that report when QEMUs come and go, by their names in the instrument table.
const PROCESS_INSTRUMENTS: [&str; 3] = ["exec", "fork", "exit"];

impl Builder {
    /// Loads and attaches everything in the calling thread's network namespace. Nothing that happens after it has
    /// returned is missed. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// The kernel refuses a program, packets cannot be counted at an interface, or a file that was named as QEMU's
    /// executable cannot be one.
    pub fn start(self) -> Result<Tracer, TracerError> {
        let Self { settings, interfaces, qemu_binaries, sleep_after } = self;
        let binaries = Binaries::named(&qemu_binaries)
            .map_err(|(path, source)| TracerError::QemuBinary { path, source })?;
        // The watcher comes first: what changes while the table is read must not be lost.
        let links = LinkWatcher::new().map_err(host("watch the interfaces"))?;
        let steps = StepWatcher::new().map_err(host("watch the clock"))?;
        let points = links::counting_points(&interfaces)?;
        let mut kernel = Kernel::load(&settings)?;
        binaries.names().try_for_each(|name| kernel.take_for_qemu(name))?;
        let observation = observation(&kernel, settings.ports.to_string())?;
        let started = Instant::now();
        let sample = ticks(SAMPLE_EVERY);
        let look = ticks_from(started + scans::SOON, scans::SOON);
        // Somebody may start a named executable under another name than the one that was given.
        let scan_always = !reports_processes(&observation.instruments) || !qemu_binaries.is_empty();
        let qemus = Qemus::new(binaries, Scans::new(started, scan_always));
        let flows = Flows::new(settings.ports, settings.flow_capacity);
        let sleep = Sleep::new(sleep_after);
        let state = State::new(kernel, Interfaces::new(interfaces, links), qemus, flows, sleep);
        let look_rarely = ticks_from(started + scans::RARELY, scans::RARELY);
        let mut tracer = Tracer { state, observation, steps, sample, look, look_rarely };
        tracer.state.begin(&points, &mut tracer.observation)?;
        Ok(tracer)
    }
}

/// Watches the QEMUs and the migration flows of a network namespace. Dropping it detaches everything.
///
/// The namespace is that of the thread that calls [`Builder::start`]. Every thread that polls the tracer later must be
/// in the same one, since a tracer reads `/proc` and attaches to interfaces as they appear. So poll it where it was
/// started, or on threads that never change their namespace (`setns`, `unshare`); it may move between those.
pub struct Tracer {
    state: State,
    observation: Observation,
    steps: StepWatcher,
    /// When to read the flow table.
    sample: Interval,
    /// When to look for changes that nothing reports.
    look: Interval,
    /// The same during a sleep.
    look_rarely: Interval,
}

impl Tracer {
    /// Begins to configure a tracer.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Who observes, with which instruments, at which interfaces.
    #[must_use]
    pub const fn observation(&self) -> &Observation {
        &self.observation
    }

    /// The instruments as they are attached on this host.
    #[must_use]
    pub fn instruments(&self) -> &[Instrument] {
        &self.observation.instruments
    }

    /// The QEMUs that run now.
    pub fn qemus(&self) -> impl Iterator<Item = &Qemu> {
        self.state.qemus.iter()
    }

    /// Why a process that calls itself a QEMU is not traced; `None` when it does not, or is traced.
    #[must_use]
    pub fn why_not_traced(&self, pid: u32) -> Option<String> {
        self.state.qemus.why_not_traced(pid)
    }

    /// Whether it sleeps: nothing is attached where much happens ([`Builder::sleep_after`]).
    #[must_use]
    pub const fn is_asleep(&self) -> bool {
        self.state.is_asleep()
    }

    /// Why it never sleeps although it was told to; `None` when it does, or was not told to.
    #[must_use]
    pub fn why_sleepless(&self) -> Option<String> {
        let is_missing = self.state.sleep.is_wanted() && !self.state.base.kernel.can_sleep();
        let connect =
            self.state.base.kernel.instruments().iter().find(|instrument| instrument.name == CONNECT);
        is_missing.then(|| connect.and_then(|instrument| instrument.why.clone()).unwrap_or_default())
    }

    /// Does not fall asleep for now, or may do so again.
    pub(crate) const fn keep_awake(&mut self, is_needed: bool) {
        self.state.sleep.keep_awake(is_needed);
    }

    /// The next event; waits until there is one. Cancel-safe.
    ///
    /// # Errors
    /// The kernel side or this host's state can no longer be read.
    pub async fn next(&mut self) -> Result<Event, TracerError> {
        loop {
            let state = &mut self.state;
            if let Some(event) = state.base.events.take() {
                return Ok(event);
            }
            tokio::select! {
                messages = state.base.kernel.messages() => state.take_all(messages?)?,
                _ = self.sample.tick(), if state.flows.needs_samples() => state.sample()?,
                _ = self.look.tick(), if !state.may_look_rarely() => state.look()?,
                _ = self.look_rarely.tick(), if state.may_look_rarely() => state.look()?,
                Some(()) = state.qemus.version_answered() => state.scan()?,
                change = state.interfaces.next_change() => {
                    let change = change.map_err(host("watch the interfaces"))?;
                    state.follow(change)?;
                }
                step = self.steps.stepped() => {
                    step.map_err(host("watch the clock"))?;
                    state.base.events.clock()?;
                }
            }
        }
    }

    /// All events from now on.
    pub fn events(self) -> impl Stream<Item = Result<Event, TracerError>> {
        futures_util::stream::unfold(self, |mut tracer| async move { Some((tracer.next().await, tracer)) })
    }

    /// The last events: what the kernel still holds, the final counters, the clock, and why tracing ends.
    ///
    /// # Errors
    /// The kernel side cannot be read; the events that were waiting are lost with it.
    pub fn finish(self, reason: EndReason) -> Result<Vec<Event>, TracerError> {
        self.state.finish(reason)
    }

    /// Makes events of what is due anyway: what the kernel still holds, the final counters, what was lost.
    pub(crate) fn take_stock(&mut self) -> Result<(), TracerError> {
        self.state.take_stock(false)
    }

    /// The next event, if one waits.
    pub(crate) fn take(&mut self) -> Option<Event> {
        self.state.base.events.take()
    }

    /// Adds a fact that the kernel stamped for another part of migtrace.
    pub(crate) fn note_at(&mut self, at_ns: MonotonicNs, fact: Fact) {
        self.state.base.events.add(at_ns, fact);
    }

    /// Adds, once, that something is not measured.
    pub(crate) fn note_not_measured(&mut self, what: &str, why: String) -> Result<(), TracerError> {
        self.state.base.events.not_measured(now()?, what, why);
        Ok(())
    }

    /// Adds a fact that something else found at this instant (the active client, for one).
    ///
    /// # Errors
    /// The clock cannot be read.
    pub fn note(&mut self, fact: Fact) -> Result<(), TracerError> {
        self.state.base.events.add(now()?, fact);
        Ok(())
    }
}

/// Who observes and with what, before it is known at which interfaces.
fn observation(kernel: &Kernel, ports: String) -> Result<Observation, TracerError> {
    let identity = Identity::read().map_err(host("read this host's name"))?;
    Ok(Observation {
        schema: event::SCHEMA.into(),
        migtrace: env!("CARGO_PKG_VERSION").into(),
        host: identity.host,
        kernel: identity.kernel,
        interfaces: Vec::new(),
        ports,
        instruments: kernel
            .instruments()
            .iter()
            .filter(|instrument| instrument.name != CONNECT || instrument.hook.is_some())
            .cloned()
            .collect(),
    })
}

/// Whether the kernel programs report every process that may start or end a QEMU.
fn reports_processes(instruments: &[Instrument]) -> bool {
    PROCESS_INSTRUMENTS
        .into_iter()
        .all(|name| instruments.iter().any(|instrument| instrument.name == name && instrument.hook.is_some()))
}
