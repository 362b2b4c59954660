//! Watches this host and tells what happens, one [`Event`] after the other.
//!
//! A [`Tracer`] joins what the kernel programs report with what `/proc` and netlink know. It decides nothing about
//! migrations: that is the [timeline](crate::timeline)'s.

mod cleanup;
mod lines;
mod owners;
pub(crate) mod qmp_line;
mod taps;
mod watched;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use futures_util::Stream;
use migtrace_ebpf::abi::TRACED_MAX;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::errors::with_causes;
use crate::event::{
    self, EndReason, Event, Fact, Interface, Lost, NotMeasured, Observation, OwnerMethod, Probe, Qemu,
    QmpEvent, Vcpus,
};
use crate::host::clock::{self, StepWatcher};
use crate::host::identity::Identity;
pub use crate::host::links::CountingError;
use crate::host::links::{self, CountingPoint, LinkEvent, LinkWatcher};
use crate::host::qemu;
use crate::kernel::{Body, Kernel, KernelError, Message, Settings};
use crate::units::{Counters, Directions, MonotonicNs};
pub use cleanup::{CleanedUp, clean_up};
use lines::Lines;
use taps::Tap;
use watched::Watched;

/// How often the flow table is read, and the counters of young flows become events.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// How often the counters of flows older than [`YOUNG`] become events: an hour's log stays small.
const SAMPLE_OLD_EVERY: Duration = Duration::from_secs(1);
/// See [`SAMPLE_OLD_EVERY`].
const YOUNG: Duration = Duration::from_secs(60);
/// How often `/proc` is read for QEMUs that no probe told of, and for taps that were opened late.
const SCAN_EVERY: Duration = Duration::from_secs(1);
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

    /// Loads and attaches everything in the calling thread's network namespace. From its return on, nothing is missed.
    /// Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// The kernel refuses a program, or an interface cannot be counted at.
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
    scan: Interval,
    qemus: BTreeMap<u32, Qemu>,
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
        // News that come while the table is read must not be lost, so the watcher is first.
        let links = LinkWatcher::new().map_err(host("watch the interfaces"))?;
        let steps = StepWatcher::new().map_err(host("watch the clock"))?;
        let points = links::counting_points(&builder.interfaces)?;
        let kernel = Kernel::load(&builder.settings)?;
        let identity = Identity::read().map_err(host("read this host's name"))?;
        let mut sample = tokio::time::interval(SAMPLE_EVERY);
        sample.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut scan = tokio::time::interval_at(Instant::now() + SCAN_EVERY, SCAN_EVERY);
        scan.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut tracer = Self {
            observation: Observation {
                schema: event::SCHEMA.into(),
                migtrace: env!("CARGO_PKG_VERSION").into(),
                host: identity.host,
                kernel: identity.kernel,
                interfaces: Vec::new(),
                ports: builder.settings.ports.to_string(),
                probes: kernel.probes().to_vec(),
            },
            kernel,
            requested: builder.interfaces,
            ports: builder.settings.ports,
            links,
            steps,
            sample,
            scan,
            qemus: BTreeMap::new(),
            versions: JoinSet::new(),
            taps: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            interfaces_settle: None,
            flows: Watched::default(),
            untraced: BTreeSet::new(),
            lines: Lines::default(),
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
        for point in points {
            self.tell_who_is_before_us(now, point);
        }
        self.tell_clock()?;
        self.scan()?;
        self.adopt_connections(now)
    }

    /// Who observes, with which probes, at which interfaces.
    #[must_use]
    pub const fn observation(&self) -> &Observation {
        &self.observation
    }

    /// The probes as they are attached on this host.
    #[must_use]
    pub fn probes(&self) -> &[Probe] {
        &self.observation.probes
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
                _ = self.sample.tick() => self.sample()?,
                _ = self.scan.tick() => {
                    self.scan()?;
                    self.tell_lost(false)?;
                }
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
        self.tell_guest_frames(|_| true)?;
        self.flows.forget_samples();
        self.sample()?;
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
        let attach = self.kernel.attach(&point.name, point.index, point.skip_tagged)?;
        self.interfaces.insert(point.index, point.name.clone());
        Ok(Interface { name: point.name.clone(), index: point.index, attach })
    }

    fn tell_who_is_before_us(&mut self, now: MonotonicNs, point: &CountingPoint) {
        if self.kernel.is_behind_others(point.index) {
            let name = &point.name;
            let why = format!(
                "a filter of another kind has the first priority and runs first; see `tc filter show dev {name} \
                 ingress` and `egress`; TCX (Linux 6.6 and later) is before all filters"
            );
            self.tell_not_measured(now, &format!("packets that other filters at {name} drop or accept"), why);
        }
    }

    /// Takes in what the kernel programs have told until now.
    fn take_pending(&mut self) -> Result<(), TracerError> {
        self.kernel.pending_messages().into_iter().try_for_each(|message| self.take(message))
    }

    fn take(&mut self, message: Message) -> Result<(), TracerError> {
        let at_ns = message.at_ns;
        match message.body {
            Body::FlowSeen { flow, ifindex, from_start } => {
                if self.flows.see(flow) {
                    let interface = self.interface_name(ifindex);
                    self.tell(at_ns, Fact::FlowSeen { flow, interface, from_start });
                    if !self.kernel.ties_sockets() {
                        self.find_owners()?;
                    }
                }
            }
            Body::FlowOwned { flow, pid, crossed } => {
                self.own_by_socket(at_ns, flow, pid, crossed);
                self.look_for_taps(at_ns, pid)?;
            }
            Body::FlowPayload { flow, first_bytes } => {
                if let Some(purpose) = crate::kernel::purpose(first_bytes)
                    && self.flows.set_purpose(flow, purpose)
                {
                    self.tell(at_ns, Fact::FlowPurpose { flow, purpose });
                }
            }
            Body::QmpLine { pid, part, write } => self.take_line(at_ns, pid, part, write)?,
            Body::GuestRun { pid, vcpus } => self.tell(at_ns, Fact::GuestRun { pid, vcpus }),
            Body::GuestRunVoid { pid, entered_ns, certain } => {
                self.tell(at_ns, Fact::GuestRunVoid { pid, entered_ns, certain });
            }
            Body::DirtyLog { pid, sums } => self.tell(at_ns, Fact::DirtyLog { pid, counters: sums }),
            Body::GuestFrame { ifindex } => {
                self.tell_of_tap(at_ns, ifindex, |Tap { pid, interface }| Fact::GuestFrame {
                    pid,
                    interface,
                });
            }
            Body::Announcement { ifindex, kind } => {
                let announced = |Tap { pid, interface }| Fact::Announcement { pid, interface, kind };
                self.tell_of_tap(at_ns, ifindex, announced);
            }
            Body::ProcessExec { pid } => {
                if qemu::looks_like_one(pid) {
                    // First of all: to describe it takes long enough for it to say something.
                    self.trace(at_ns, pid)?;
                    match qemu::read(pid) {
                        Some(qemu) => self.meet(at_ns, qemu)?,
                        None => self.kernel.untrace(pid)?,
                    }
                }
            }
            Body::ProcessExit { pid } => self.part(at_ns, pid)?,
        }
        Ok(())
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
        if self.lines.is_look_due(at_ns, pid) {
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
            && let Some(question) = qemu::unasked_version(qemu.pid)
        {
            self.versions.spawn_blocking(|| question.ask());
        }
        if !self.qemus.contains_key(&qemu.pid) || self.untraced.contains(&qemu.pid) {
            self.trace(at_ns, qemu.pid)?;
        }
        if self.qemus.get(&qemu.pid) == Some(&qemu) {
            return Ok(());
        }
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
            self.forget_lines(at_ns, pid)?;
            self.untraced.remove(&pid);
            self.kernel.untrace(pid)?;
            self.tell_guest_frames(|tap| tap.pid == pid)?;
            self.unwatch_taps(|_, tap| tap.pid == pid)?;
            self.tell(at_ns, Fact::QemuGone { pid });
        }
        Ok(())
    }

    /// Reads `/proc` for what no probe told, and looks whether new interfaces are ready.
    fn scan(&mut self) -> Result<(), TracerError> {
        let present = qemu::find().map_err(host("find the QEMU processes in /proc"))?;
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
        if self.interfaces_settle.is_some_and(|settled| Instant::now() < settled) {
            self.count_at_new(now);
        }
        Ok(())
    }

    /// Tells the counters of every flow that has moved since the last time.
    fn sample(&mut self) -> Result<(), TracerError> {
        let now = clock::now().map_err(host("read the clock"))?;
        let states = self.kernel.flows()?;
        // An owner that the programs have told of is known from when they found it, and not from now.
        self.take_pending()?;
        for state in states {
            if let Some(owner) = state.owner {
                // A flow that was open before the tracing: its owner was given to the programs at the start.
                let expected = self.flows.is_expected(state.flow);
                let method = if expected { OwnerMethod::SockDiag } else { OwnerMethod::Socket };
                self.own(now, state.flow, owner, method);
            }
            let age = Duration::from_nanos(now.0.saturating_sub(state.first_ns.0));
            let every = if age < YOUNG { SAMPLE_EVERY } else { SAMPLE_OLD_EVERY };
            let due = self.flows.is_due(&state, now, every);
            // When an owner is found now, QEMU's events until now lack what this flow has carried, moved or not.
            if due || self.flows.awaits_owner(state.flow, owners::OWNER_TRIES) {
                self.tell(now, watched::counters(state));
            }
        }
        self.find_owners()
    }

    fn tell_lost(&mut self, is_end: bool) -> Result<(), TracerError> {
        let mut so_far = self.kernel.lost()?;
        so_far.qmp_lines += self.lines.unread();
        let now = clock::now().map_err(host("read the clock"))?;
        let since_ns = self.looked_for_losses.replace(now);
        if so_far != self.lost {
            self.lost = so_far;
            self.tell(now, Fact::Lost { so_far, since_ns });
        }
        self.qemus
            .keys()
            .copied()
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|pid| self.tell_unheard(now, pid, is_end))
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
                Ok(interface) => {
                    self.tell(now, Fact::InterfaceAdded(interface));
                    self.tell_who_is_before_us(now, &point);
                }
                Err(error) => self.tell_not_measured(
                    now,
                    &format!("packets at {}", point.name),
                    format!("it appeared while tracing and could not be attached: {}", with_causes(&error)),
                ),
            }
        }
    }
}
