//! Watches this host and tells what happens, one [`Event`] after the other.
//!
//! A [`Tracer`] joins what the kernel programs report with what `/proc` and netlink know. It decides nothing about
//! migrations: that is the [timeline](crate::timeline)'s.

pub(crate) mod attachments;
mod cleanup;
mod flows;
mod lines;
mod owners;
mod pretenders;
pub(crate) mod qmp_line;
mod retirement;
mod scans;
mod taps;
mod watched;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::Stream;
use migtrace_ebpf::abi::TRACED_MAX;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::errors::with_causes;
use crate::event::{
    self, EndReason, Event, Fact, Instrument, Interface, Observation, OwnerMethod, Qemu, QmpEvent, Vcpus,
};
use crate::host::clock::{self, StepWatcher};
use crate::host::identity::Identity;
pub use crate::host::links::CountingError;
use crate::host::links::{self, CountingPoint, LinkEvent, LinkWatcher};
use crate::host::qemu::{self, Binaries};
use crate::kernel::{Body, Kernel, KernelError, Message, Settings};
use crate::units::{Counters, Directions, MonotonicNs};
use crate::vocabulary::{Lost, NotMeasured};
pub use cleanup::{CleanedUp, clean_up};
use lines::Lines;
use owners::Adoption;
use pretenders::Pretenders;
use retirement::{Migrating, Retirement};
use scans::Scans;
use taps::Tap;
use watched::{Owner, Watched};

/// How often the flow table is read, and the counters of young flows become events.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// Instruments that tell when QEMUs come and go, by their names in the instrument table.
const PROCESS_INSTRUMENTS: [&str; 3] = ["exec", "fork", "exit"];
/// How long after an interface has appeared it may still get its address and become one to count at.
const SETTLING: Duration = Duration::from_secs(60);

/// Why tracing cannot begin or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TracerError {
    /// The kernel side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The choice of interfaces.
    #[error(transparent)]
    Interfaces(#[from] CountingError),
    /// An executable that was named as QEMU's.
    #[error("cannot take {} for QEMU's executable", path.display())]
    QemuBinary {
        /// Its path.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// This host's state.
    #[error("cannot {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What happened.
        source: io::Error,
    },
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> TracerError {
    move |source| TracerError::Host { what, source }
}

/// What a [`Tracer`] is to watch.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    settings: Settings,
    interfaces: Vec<String>,
    qemu_binaries: Vec<PathBuf>,
}

impl Builder {
    /// What the kernel programs are to do.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Counts at these interfaces instead of every one that carries a route.
    #[must_use]
    pub fn interfaces(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.interfaces.extend(names);
        self
    }

    /// Takes every process that runs one of these files (as they are at the start: device and inode) for a QEMU, whoever
    /// owns them. Without, a QEMU is a process whose executable has a QEMU's name, and only root can have put there.
    #[must_use]
    pub fn qemu_binaries(mut self, paths: impl IntoIterator<Item = PathBuf>) -> Self {
        self.qemu_binaries.extend(paths);
        self
    }

    /// Loads and attaches everything in the calling thread's network namespace. From its return on, nothing is missed.
    /// Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// The kernel refuses a program, an interface cannot be counted at, or a named executable cannot be one.
    pub fn start(self) -> Result<Tracer, TracerError> {
        Tracer::start(self)
    }
}

/// Watches the QEMUs and the migration flows of a network namespace. Dropping it detaches everything.
///
/// The namespace is that of the thread that calls [`Builder::start`], and of every thread that polls it later: a
/// tracer reads `/proc` and attaches to interfaces as they appear. So poll it where it was started, or on threads that
/// never change their namespace (`setns`, `unshare`); it may move between those.
pub struct Tracer {
    kernel: Kernel,
    observation: Observation,
    requested: Vec<String>,
    ports: crate::ports::PortRanges,
    links: LinkWatcher,
    steps: StepWatcher,
    sample: Interval,
    /// Every second: what may have changed without a word.
    look: Interval,
    scans: Scans,
    binaries: Binaries,
    qemus: BTreeMap<u32, Qemu>,
    pretenders: Pretenders,
    /// Binaries that are asked for their version. That takes long: meanwhile the ring buffer must be read.
    versions: JoinSet<()>,
    /// Taps of these QEMUs, by interface index.
    taps: BTreeMap<u32, Tap>,
    interfaces: BTreeMap<u32, String>,
    /// An interface has appeared that may not be ready to be counted at before this.
    interfaces_settle: Option<Instant>,
    flows: Watched,
    /// QEMUs that found no room among those that are traced.
    untraced: BTreeSet<u32>,
    lines: Lines,
    retirement: Retirement,
    /// What each QEMU that migrates said last of that.
    migrating: Migrating,
    adoption: Adoption,
    lost: Lost,
    /// When that was looked at last.
    looked_for_losses: Option<MonotonicNs>,
    told: BTreeSet<NotMeasured>,
    queue: VecDeque<Event>,
}

impl Tracer {
    /// Says what to watch.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn start(builder: Builder) -> Result<Self, TracerError> {
        let binaries = Binaries::named(&builder.qemu_binaries)
            .map_err(|(path, source)| TracerError::QemuBinary { path, source })?;
        // News that come while the table is read must not be lost, so the watcher is first.
        let links = LinkWatcher::new().map_err(host("watch the interfaces"))?;
        let steps = StepWatcher::new().map_err(host("watch the clock"))?;
        let points = links::counting_points(&builder.interfaces)?;
        let mut kernel = Kernel::load(&builder.settings)?;
        binaries.names().try_for_each(|name| kernel.take_for_qemu(name))?;
        let identity = Identity::read().map_err(host("read this host's name"))?;
        let mut sample = tokio::time::interval(SAMPLE_EVERY);
        sample.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let started = Instant::now();
        let mut look = tokio::time::interval_at(started + scans::SOON, scans::SOON);
        look.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let is_told = |name| {
            kernel.instruments().iter().any(|instrument| instrument.name == name && instrument.hook.is_some())
        };
        // A person may well start an executable of theirs by another name than they gave.
        let scan_always = !PROCESS_INSTRUMENTS.into_iter().all(is_told) || !builder.qemu_binaries.is_empty();
        let mut tracer = Self {
            observation: Observation {
                schema: event::SCHEMA.into(),
                migtrace: env!("CARGO_PKG_VERSION").into(),
                host: identity.host,
                kernel: identity.kernel,
                interfaces: Vec::new(),
                ports: builder.settings.ports.to_string(),
                instruments: kernel.instruments().to_vec(),
            },
            kernel,
            requested: builder.interfaces,
            ports: builder.settings.ports,
            links,
            steps,
            sample,
            look,
            scans: Scans::new(started, scan_always),
            binaries,
            qemus: BTreeMap::new(),
            pretenders: Pretenders::default(),
            versions: JoinSet::new(),
            taps: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            interfaces_settle: None,
            flows: Watched::default(),
            untraced: BTreeSet::new(),
            lines: Lines::default(),
            retirement: Retirement::new(builder.settings.flow_capacity),
            migrating: Migrating::new(),
            adoption: Adoption::default(),
            lost: Lost::default(),
            looked_for_losses: None,
            told: BTreeSet::new(),
            queue: VecDeque::new(),
        };
        tracer.begin(&points)?;
        Ok(tracer)
    }

    fn begin(&mut self, points: &[CountingPoint]) -> Result<(), TracerError> {
        for point in points {
            let interface = self.count_at(point)?;
            self.observation.interfaces.push(interface);
        }
        let now = clock::now().map_err(host("read the clock"))?;
        self.tell(now, Fact::LogStart(self.observation.clone()));
        self.look_after_attachments()?;
        self.tell_clock()?;
        self.scan()?;
        self.adopt_connections()
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

    /// The QEMUs that are traced now.
    pub fn qemus(&self) -> impl Iterator<Item = &Qemu> {
        self.qemus.values()
    }

    /// The next event; waits until there is one. Cancel-safe.
    ///
    /// # Errors
    /// The kernel side or this host's state cannot be read any more.
    pub async fn next(&mut self) -> Result<Event, TracerError> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Ok(event);
            }
            tokio::select! {
                messages = self.kernel.messages() => {
                    for message in messages? {
                        self.take(message)?;
                    }
                }
                _ = self.sample.tick(), if !self.flows.is_empty() || self.retirement.is_pending() => self.sample()?,
                _ = self.look.tick() => self.look()?,
                Some(_) = self.versions.join_next() => self.scan()?,
                link = self.links.next() => self.follow(link.map_err(host("watch the interfaces"))?)?,
                step = self.steps.stepped() => {
                    step.map_err(host("watch the clock"))?;
                    self.tell_clock()?;
                }
            }
        }
    }

    /// All events from now on.
    pub fn events(self) -> impl Stream<Item = Result<Event, TracerError>> {
        futures_util::stream::unfold(self, |mut tracer| async move { Some((tracer.next().await, tracer)) })
    }

    /// The last events: what the kernel still holds, the final counters, the clock, and why it ends.
    ///
    /// # Errors
    /// The kernel side cannot be read; the events that were waiting are lost with it.
    pub fn finish(mut self, reason: EndReason) -> Result<Vec<Event>, TracerError> {
        self.take_pending()?;
        self.look_after_attachments()?;
        self.tell_guest_frames(|_| true)?;
        self.flows.forget_samples();
        self.sample()?;
        // The programs tell of the owners that were found just now.
        self.take_pending()?;
        self.count_pretenders()?;
        self.tell_lost(true)?;
        self.tell_clock()?;
        let now = clock::now().map_err(host("read the clock"))?;
        self.tell(now, Fact::LogEnd { reason });
        Ok(self.queue.into())
    }

    /// Adds a fact that the kernel stamped for something else.
    pub(crate) fn note_at(&mut self, at_ns: MonotonicNs, fact: Fact) {
        self.tell(at_ns, fact);
    }

    /// Adds, once, that something is not measured.
    pub(crate) fn note_not_measured(&mut self, what: &str, why: String) -> Result<(), TracerError> {
        let now = clock::now().map_err(host("read the clock"))?;
        self.tell_not_measured(now, what, why);
        Ok(())
    }

    /// Adds a fact that something else found out at this instant (the active client, for one).
    ///
    /// # Errors
    /// The clock cannot be read.
    pub fn note(&mut self, fact: Fact) -> Result<(), TracerError> {
        let now = clock::now().map_err(host("read the clock"))?;
        self.tell(now, fact);
        Ok(())
    }

    fn tell(&mut self, at_ns: MonotonicNs, fact: Fact) {
        self.queue.push_back(Event { at_ns, fact });
    }

    /// Says once that something is not measured.
    fn tell_not_measured(&mut self, at_ns: MonotonicNs, what: &str, why: String) {
        let not_measured = NotMeasured { what: what.into(), why };
        if self.told.insert(not_measured.clone()) {
            self.tell(at_ns, Fact::NotMeasured(not_measured));
        }
    }

    fn tell_clock(&mut self) -> Result<(), TracerError> {
        let sample = clock::sample().map_err(host("read the clocks"))?;
        let now = clock::now().map_err(host("read the clock"))?;
        self.tell(now, Fact::Clock(sample));
        Ok(())
    }

    fn count_at(&mut self, point: &CountingPoint) -> Result<Interface, TracerError> {
        let attach = self.kernel.attach(&point.name, point.index, point.skip_tagged, point.tag_bytes)?;
        self.interfaces.insert(point.index, point.name.clone());
        Ok(Interface { name: point.name.clone(), index: point.index, attach })
    }

    /// Takes in what the kernel programs have told until now.
    fn take_pending(&mut self) -> Result<(), TracerError> {
        self.kernel.pending_messages().into_iter().try_for_each(|message| self.take(message))
    }

    fn take(&mut self, message: Message) -> Result<(), TracerError> {
        let at_ns = message.at_ns;
        match message.body {
            Body::FlowSeen { flow, first } => self.flow_seen(flow, first, true)?,
            Body::FlowOwned { flow, pid, by_user_space, crossed } => {
                let method = if by_user_space { OwnerMethod::SockDiag } else { OwnerMethod::Socket };
                self.flow_owned(flow, Owner { at_ns, pid, method, crossed: Some(crossed) });
                self.look_for_taps(at_ns, pid)?;
            }
            Body::FlowPayload { flow, first_bytes } => self.flow_payload(at_ns, flow, first_bytes),
            Body::FlowReplaced { key, entry } => {
                let state = self.kernel.final_state(&key, &entry);
                self.flow_gone(at_ns, &state);
            }
            Body::QmpLine { pid, part, write } => self.take_line(at_ns, pid, part, write)?,
            Body::GuestRun { pid, vcpus } => self.tell(at_ns, Fact::GuestRun { pid, vcpus }),
            Body::GuestRunVoid { pid, entered_ns, certain } => {
                self.tell(at_ns, Fact::GuestRunVoid { pid, entered_ns, certain });
            }
            Body::DirtyLog { pid, sums } => self.tell(at_ns, Fact::DirtyLog { pid, counters: sums }),
            Body::GuestFrame { ifindex } => self.take_guest_frame(at_ns, ifindex),
            Body::Announcement { ifindex, kind } => {
                let announced = |Tap { pid, interface, .. }| Fact::Announcement { pid, interface, kind };
                self.tell_of_tap(at_ns, ifindex, announced);
            }
            Body::ProcessExec { pid } | Body::ProcessFork { pid } => self.examine(at_ns, pid)?,
            Body::ProcessExit { pid } => self.part(at_ns, pid)?,
        }
        Ok(())
    }

    /// A process that may have become a QEMU, or have been one.
    fn examine(&mut self, at_ns: MonotonicNs, pid: u32) -> Result<(), TracerError> {
        match qemu::identify(pid, &self.binaries) {
            qemu::Kind::Qemu => {
                // First of all: to describe it takes long enough for it to say something.
                self.trace(at_ns, pid)?;
                match qemu::read(pid, &self.binaries) {
                    Some(qemu) => return self.meet(at_ns, qemu),
                    None => self.kernel.untrace(pid)?,
                }
            }
            qemu::Kind::Pretender(pretender) => self.tell_pretenders(at_ns, vec![pretender]),
            qemu::Kind::Other => {}
        }
        self.part(at_ns, pid)
    }

    fn take_qmp(
        &mut self,
        at_ns: MonotonicNs,
        pid: u32,
        line: qmp_line::Line,
        counters: Option<Directions<Counters>>,
        vcpus: Option<Vcpus>,
    ) -> Result<(), TracerError> {
        let stopped = line.name == "STOP";
        self.note_migration(pid, &line)?;
        if line.name == "MIGRATION" {
            // It may have got another since it was last looked at.
            self.look_at_taps(at_ns, pid)?;
        } else if self.lines.is_look_due(at_ns, pid) {
            self.look_for_taps(at_ns, pid)?;
        }
        self.tell(
            at_ns,
            Fact::Qmp(QmpEvent {
                pid,
                name: line.name,
                data: line.data,
                qemu_realtime_us: line.realtime_us,
                counters,
                vcpus,
            }),
        );
        if stopped { self.rearm_taps(pid) } else { Ok(()) }
    }

    fn interface_name(&self, index: u32) -> String {
        self.interfaces.get(&index).cloned().unwrap_or_else(|| format!("#{index}"))
    }

    /// A QEMU that is there: trace it, tell of it, and again when more is known of it.
    fn meet(&mut self, at_ns: MonotonicNs, qemu: Qemu) -> Result<(), TracerError> {
        if qemu.version.is_none()
            && let Some(question) = qemu::unasked_version(qemu.pid, &self.binaries)
        {
            self.versions.spawn_blocking(|| question.ask());
        }
        if !self.qemus.contains_key(&qemu.pid) || self.untraced.contains(&qemu.pid) {
            self.trace(at_ns, qemu.pid)?;
        }
        if self.qemus.get(&qemu.pid) == Some(&qemu) {
            return Ok(());
        }
        self.scans.follow_change(Instant::now());
        self.watch_taps(at_ns, &qemu);
        self.qemus.insert(qemu.pid, qemu.clone());
        self.tell(at_ns, Fact::QemuSeen(qemu));
        Ok(())
    }

    /// Has the programs follow a process, as soon as there is room for it.
    fn trace(&mut self, at_ns: MonotonicNs, pid: u32) -> Result<(), TracerError> {
        if self.kernel.trace(pid)? {
            self.untraced.remove(&pid);
        } else {
            self.untraced.insert(pid);
            self.tell_not_measured(
                at_ns,
                &format!("what QEMU {pid} does"),
                format!(
                    "{TRACED_MAX} others are traced, and there is no room for more: it waits until one ends"
                ),
            );
        }
        Ok(())
    }

    fn part(&mut self, at_ns: MonotonicNs, pid: u32) -> Result<(), TracerError> {
        if self.qemus.remove(&pid).is_some() {
            self.migrating.remove(&pid);
            self.forget_lines(at_ns, pid)?;
            self.untraced.remove(&pid);
            self.kernel.untrace(pid)?;
            self.tell_guest_frames(|tap| tap.pid == pid)?;
            self.unwatch_taps(|_, tap| tap.pid == pid)?;
            self.tell(at_ns, Fact::QemuGone { pid });
        }
        Ok(())
    }

    /// Looks for what nobody tells: losses, QEMUs that no instrument saw, new interfaces that are ready.
    fn look(&mut self) -> Result<(), TracerError> {
        let lost = self.lost;
        self.tell_lost(false)?;
        let now = Instant::now();
        if self.lost != lost {
            // Among it may be that a QEMU has started.
            self.scans.follow_change(now);
        }
        if self.scans.is_due(now) {
            self.scan()?;
        }
        if self.interfaces_settle.is_some_and(|settled| now < settled) {
            self.count_at_new(clock::now().map_err(host("read the clock"))?);
        }
        self.adopt_strays()?;
        self.look_after_attachments()
    }

    /// Reads `/proc` for what no instrument told.
    fn scan(&mut self) -> Result<(), TracerError> {
        let qemu::Found { qemus: present, pretenders } =
            qemu::find(&self.binaries).map_err(host("find the QEMU processes in /proc"))?;
        // What is not there has ended by now, and has said all that it had to say.
        let now = clock::now().map_err(host("read the clock"))?;
        let gone: Vec<u32> =
            self.qemus.keys().filter(|pid| !present.iter().any(|qemu| qemu.pid == **pid)).copied().collect();
        if !gone.is_empty() {
            // What they have said last may still wait in the rings.
            self.take_pending()?;
        }
        for pid in gone {
            self.part(now, pid)?;
        }
        for qemu in present {
            self.meet(now, qemu)?;
        }
        self.tell_pretenders(now, pretenders);
        Ok(())
    }

    /// Tells what was lost. A process goes on writing meanwhile: its own count comes first, so that the sum holds it.
    fn tell_lost(&mut self, is_end: bool) -> Result<(), TracerError> {
        let begun = clock::now().map_err(host("read the clock"))?;
        self.tell_all_unheard(begun, is_end)?;
        let mut so_far = self.kernel.lost()?;
        so_far.qmp_lines += self.lines.unread();
        let now = clock::now().map_err(host("read the clock"))?;
        let since_ns = self.looked_for_losses.replace(begun);
        if so_far != self.lost {
            self.lost = so_far;
            self.tell(now, Fact::Lost { so_far, since_ns });
        }
        Ok(())
    }

    fn follow(&mut self, news: LinkEvent) -> Result<(), TracerError> {
        let now = clock::now().map_err(host("read the clock"))?;
        match news {
            LinkEvent::Removed { index, .. } => {
                self.unwatch_taps(|watched, _| watched == index)?;
                if self.kernel.is_attached(index) {
                    self.kernel.detach(index);
                    let interface = self.interface_name(index);
                    self.tell(now, Fact::InterfaceGone { interface });
                }
            }
            LinkEvent::Renamed { index, to, .. } => {
                if let Some(name) = self.interfaces.get_mut(&index) {
                    *name = to;
                }
            }
            LinkEvent::Added { .. } => {
                self.interfaces_settle = Some(Instant::now() + SETTLING);
                // It may be the tap of a QEMU.
                self.scans.follow_change(Instant::now());
                self.count_at_new(now);
            }
        }
        Ok(())
    }

    /// An interface is new: count at it too if it is one of those that would have been chosen at the start.
    fn count_at_new(&mut self, now: MonotonicNs) {
        // A requested interface that is still missing, or one without an address yet, is no error here.
        let Ok(points) = links::counting_points(&self.requested) else { return };
        for point in
            points.iter().filter(|point| !self.kernel.is_attached(point.index)).cloned().collect::<Vec<_>>()
        {
            match self.count_at(&point) {
                Ok(interface) => self.tell(now, Fact::InterfaceAdded(interface)),
                Err(error) => self.tell_not_measured(
                    now,
                    &format!("packets at {}", point.name),
                    format!("it appeared while tracing and could not be attached: {}", with_causes(&error)),
                ),
            }
        }
    }
}
