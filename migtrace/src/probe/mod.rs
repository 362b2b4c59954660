//! Watches whether an address answers: echo requests at a fixed interval, stamped by the kernel programs, and the gaps
//! in which they were not answered.
//!
//! Neither libvirt nor QEMU has to be on this host; it only has to reach the address.

mod ended;
mod preflight;
mod report;
mod sender;
mod socket;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use migtrace_ebpf::abi::{ECHO_SESSIONS, EchoSession};
use tokio::time::{Instant, Interval, MissedTickBehavior};

pub use report::{End, Preflight, Report, SCHEMA, Sending, Start, Stream};

use crate::event::{EchoEnd, EchoGap, EchoStart, Fact};
use crate::host::clock;
use crate::host::identity::Identity;
use crate::host::links;
use crate::kernel::echo::{EchoKernel, Session, SessionId, SettledGap};
use crate::kernel::{AttachPreference, Grace, KernelError};
use crate::record::Gap;
use crate::timeline::{gaps, removals};
use crate::tracer::attachments::cannot_look;
use crate::units::MonotonicNs;
use crate::vocabulary::{AttachMode, NotMeasured};
use ended::Ended;
use sender::{Schedule, Sender, Sent};
use socket::EchoSocket;

/// The shortest interval between requests.
pub const MIN_INTERVAL: Duration = Duration::from_micros(100);
/// A silence that surely lasted for less is no gap, unless requests are further apart than this.
const MIN_GAP: Duration = Duration::from_millis(1);
/// How often [`Prober::next`] returns when nothing happens.
const TICK: Duration = Duration::from_millis(100);
/// How long replies are waited for after the last request.
const LINGER: Duration = Duration::from_secs(1);
/// How often it is looked whether the programs are still attached.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is looked whether all replies have come.
const LINGER_LOOK: Duration = Duration::from_millis(10);
/// How many silences that may have been a report lists: on a path that loses much there is one every few round trips.
const MOST_DOUBTS: usize = 10_000;
/// The kernel's `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// Why an address cannot be probed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The kernel side.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// This host's state.
    #[error("cannot {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// What happened.
        source: io::Error,
    },
    /// There is no such interface.
    #[error("no interface `{name}`; this network namespace has: {}", present.join(", "))]
    NoSuchInterface {
        /// What was asked for.
        name: String,
        /// What is there.
        present: Vec<String>,
    },
    /// The way to the address leads over an interface that cannot be watched.
    #[error("cannot watch {target} at `{interface}`: {why}")]
    Unfit {
        /// The address.
        target: IpAddr,
        /// The interface.
        interface: String,
        /// The reason, and what to do.
        why: &'static str,
    },
    /// Nothing could be asked.
    #[error(
        "no echo request to {target} left `{interface}` in {} s: its neighbour (the address itself or the gateway) does \
         not answer ARP or neighbour discovery, or a firewall on this host drops them",
        patience.as_secs()
    )]
    NotSent {
        /// The address.
        target: IpAddr,
        /// The interface.
        interface: String,
        /// For how long it was tried.
        patience: Duration,
    },
    /// Nothing answers.
    #[error(
        "{target} does not answer: {sent} echo requests in {} s, no reply at `{interface}`; is the guest up, does a \
         firewall or security group drop ICMP echo, do replies come back through another interface (--interface)?",
        patience.as_secs()
    )]
    NoAnswer {
        /// The address.
        target: IpAddr,
        /// The interface.
        interface: String,
        /// How many requests were sent.
        sent: u64,
        /// For how long.
        patience: Duration,
    },
    /// Requests are lost before anything has happened.
    #[error(
        "{target} answered {answered} of {sent} echo requests before the observation: loss or a rate limit (nftables, a security \
         group, a switch's control plane) would be taken for downtime; try --interval {}, or take it as it is with \
         --no-preflight",
        crate::units::duration_argument(*suggested)
    )]
    Lossy {
        /// The address.
        target: IpAddr,
        /// Requests that were sent.
        sent: u64,
        /// Requests that were answered.
        answered: u64,
        /// An interval at which it may answer all.
        suggested: Duration,
    },
}

fn host(what: &'static str) -> impl FnOnce(io::Error) -> ProbeError {
    move |source| ProbeError::Host { what, source }
}

/// What to probe, and how.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The address.
    pub target: IpAddr,
    /// Time between two requests, at least [`MIN_INTERVAL`]; none: only listen to somebody else's requests.
    pub interval: Option<Duration>,
    /// Data bytes behind the ICMP header.
    pub data_bytes: u16,
    /// How many requests; none for no end.
    pub count: Option<u64>,
    /// Watch here, and send through here; none: the interface of the route.
    pub interface: Option<String>,
    /// A silence that surely lasted for less is no gap; none: the interval, and 1 ms at least.
    pub min_gap: Option<Duration>,
    /// Look for loss and rate limits first.
    pub preflight: bool,
    /// How to attach the programs.
    pub attach: AttachPreference,
}

impl Options {
    /// Probes `target` every millisecond until it is stopped.
    #[must_use]
    pub fn new(target: IpAddr) -> Self {
        Self {
            target,
            interval: Some(Duration::from_millis(1)),
            data_bytes: 16,
            count: None,
            interface: None,
            min_gap: None,
            preflight: true,
            attach: AttachPreference::Auto,
        }
    }

    fn min_gap(&self) -> Duration {
        self.min_gap.unwrap_or_else(|| self.interval.unwrap_or_default().max(MIN_GAP))
    }
}

/// Something that a [`Prober`] tells.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// A gap has ended that surely lasted for as long as one has to.
    Gap(EchoGap),
    /// A silence has ended that may have been one.
    MayBe(EchoGap),
    /// All requests were sent.
    Sent,
    /// Nothing happened for a while: time to show [`Prober::live`].
    Tick,
}

/// An observation as it is now, for a display.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Live {
    /// Requests.
    pub sent: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Gaps that have ended.
    pub gaps: usize,
    /// For how long the address has been silent, when it is.
    pub silent_ns: Option<u64>,
}

/// Probes an address from the network namespace of the thread that starts it. Dropping it detaches everything and stops
/// sending.
pub struct Prober {
    kernel: EchoKernel,
    options: Options,
    identity: Identity,
    interface: String,
    attach: AttachMode,
    preflight: Option<Preflight>,
    sender: Option<Sender>,
    /// What became of the sending, once it has stopped.
    sent: Option<Sent>,
    /// Sessions that nothing is asked in any more, until their numbers are free.
    retired: Grace<SessionId>,
    /// The streams whose numbers were given back.
    ended: Ended,
    /// The gaps that the kernel has told, by session and number.
    told: BTreeMap<(SessionId, u64), EchoGap>,
    /// How many of these may have been none.
    doubts: usize,
    /// How many more there were of that kind.
    unlisted: u64,
    /// Gaps that [`Prober::next`] has not told yet.
    news: Vec<EchoGap>,
    start: Start,
    tick: Interval,
    sending_over: bool,
    /// When to look after the programs again.
    next_look: Instant,
    /// What became of them.
    attachments: Vec<Fact>,
}

impl Prober {
    /// Attaches, looks for loss, and begins to send. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// The address cannot be watched from here, does not answer, or not reliably.
    pub async fn start(options: Options) -> Result<Self, ProbeError> {
        let Watched { name: interface, index } = interface_to(options.target, options.interface.as_deref())?;
        let sessions = if options.interval.is_some() { preflight::SESSIONS + 1 } else { ECHO_SESSIONS };
        let min_gap_ns = nanoseconds(options.min_gap());
        let mut kernel = EchoKernel::load(sessions, min_gap_ns)?;
        let attach = kernel.attach(&interface, index, options.attach)?;
        let identity = Identity::read().map_err(host("read this host's name"))?;
        let identifier = identifier()?;
        let preflight = match options.interval {
            Some(interval) if options.preflight => {
                let way = preflight::Way { interface: &interface, options: &options, identifier };
                Some(preflight::check(&mut kernel, &way, interval).await?)
            }
            _ => None,
        };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut prober = Self {
            kernel,
            identity,
            interface,
            attach,
            preflight,
            sender: None,
            sent: None,
            retired: Grace::default(),
            ended: Ended::default(),
            told: BTreeMap::new(),
            doubts: 0,
            unlisted: 0,
            news: Vec::new(),
            start: start_now()?,
            tick,
            sending_over: false,
            next_look: Instant::now(),
            attachments: Vec::new(),
            options,
        };
        match prober.options.interval {
            Some(interval) => prober.send(identifier, interval)?,
            None => prober.kernel.follow(prober.options.target, None, None)?,
        }
        Ok(prober)
    }

    fn send(&mut self, identifier: u16, interval: Duration) -> Result<(), ProbeError> {
        let socket = open_socket(&self.options, identifier)?;
        follow(&mut self.kernel, self.options.target, &socket)?;
        let schedule = Schedule { interval, count: self.options.count };
        self.sender = Some(Sender::start(socket, schedule).map_err(host("start the sending thread"))?);
        Ok(())
    }

    /// The address.
    #[must_use]
    pub const fn target(&self) -> IpAddr {
        self.options.target
    }

    /// The interface at which requests and replies are stamped.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// What was found before the observation.
    #[must_use]
    pub const fn preflight(&self) -> Option<Preflight> {
        self.preflight
    }

    /// The next thing to tell; waits until there is one, at most a tenth of a second. Cancel-safe.
    ///
    /// # Errors
    /// The kernel side cannot be read any more.
    pub async fn next(&mut self) -> Result<Step, ProbeError> {
        loop {
            if let Some(seen) = self.news.pop() {
                let surely_lasted = self.gap(&seen).length.low_ns >= nanoseconds(self.options.min_gap());
                return Ok(if surely_lasted { Step::Gap(seen) } else { Step::MayBe(seen) });
            }
            tokio::select! {
                gaps = self.kernel.gaps() => self.take(gaps?),
                _ = self.tick.tick() => {
                    if Instant::now() >= self.next_look {
                        self.look_after_attachments();
                        if self.options.interval.is_none() {
                            self.give_back(clock::now().map_err(host("read the clock"))?)?;
                        }
                    }
                    if !self.sending_over && self.sender.as_ref().is_some_and(Sender::is_done) {
                        self.sending_over = true;
                        return Ok(Step::Sent);
                    }
                    return Ok(Step::Tick);
                }
            }
        }
    }

    /// Notes what somebody else has done to the programs; those that were removed are attached again.
    fn look_after_attachments(&mut self) {
        self.next_look = Instant::now() + LOOK_EVERY;
        let facts = match self.kernel.look_after_attachments() {
            Ok(changes) => changes.into_iter().map(|change| change.fact(self.interface.clone())).collect(),
            Err(error) => vec![Fact::NotMeasured(cannot_look(&error))],
        };
        for fact in facts {
            // What could not be attached again at once may be now.
            self.attachments.retain(|known| !is_same_removal(known, &fact));
            if !self.attachments.contains(&fact) {
                self.attachments.push(fact);
            }
        }
    }

    fn take(&mut self, gaps: Vec<SettledGap>) {
        for settled in gaps {
            if !self.is_observed(settled.session) {
                continue;
            }
            self.news.push(settled.gap);
            if settled.gap.may_be && self.doubts == MOST_DOUBTS {
                self.unlisted += 1;
                continue;
            }
            self.doubts += usize::from(settled.gap.may_be);
            self.told.insert((settled.session, settled.number), settled.gap);
        }
    }

    fn gap(&self, seen: &EchoGap) -> Gap {
        gaps::closed(seen, MonotonicNs(self.start.monotonic_ns))
    }

    fn sessions(&self) -> Result<Vec<Session>, ProbeError> {
        let sessions = self.kernel.sessions()?;
        Ok(sessions.into_iter().filter(|session| self.is_observed(session.id())).collect())
    }

    /// Whether a session is the observation's. Those of the pre-flight began before.
    const fn is_observed(&self, session: SessionId) -> bool {
        session.first_request_ns >= self.start.monotonic_ns
    }

    /// Retires the sessions that are over by `now`, and gives back the numbers of those that were retired a while ago.
    fn give_back(&mut self, now: MonotonicNs) -> Result<(), ProbeError> {
        let free = self.retired.take_over();
        let sessions = self.sessions()?;
        if !free.is_empty() {
            let pending = self.kernel.pending_gaps();
            self.take(pending);
        }
        let is_crowded = sessions.len() > ECHO_SESSIONS as usize / 2;
        for session in sessions {
            let id = session.id();
            if free.contains(&id) {
                let stream = self.stream(&session)?;
                self.ended.add(stream, session.state.gaps as usize);
                self.told.retain(|(of, _), _| *of != id);
                self.kernel.give_back(session.slot)?;
            } else if !self.retired.iter().any(|retired| *retired == id)
                && ended::is_over(&session.state, now, is_crowded)
            {
                self.kernel.retire(&session)?;
                self.retired.begin(id);
            }
        }
        Ok(())
    }

    /// What is known of a session.
    fn stream(&self, session: &Session) -> Result<Stream, ProbeError> {
        let echo = report::echo(session, &self.kernel.round_trips(session.slot)?);
        Ok(Stream { echo, gaps: self.gaps_of(session)? })
    }

    /// The observation as it is now.
    ///
    /// # Errors
    /// The kernel side cannot be read any more.
    pub fn live(&self) -> Result<Live, ProbeError> {
        let now = clock::now().map_err(host("read the clock"))?;
        let mut live = self.ended.sum();
        for session in self.sessions()? {
            let state = &session.state;
            live.sent += state.sent;
            live.answered += state.answered;
            live.gaps += state.gaps as usize;
            let silent_ns = silent_ns(state, now, nanoseconds(self.options.min_gap()));
            live.silent_ns = live.silent_ns.max(silent_ns);
        }
        Ok(live)
    }

    /// Stops sending, waits up to a second for the last replies, and reports.
    ///
    /// # Errors
    /// The kernel side cannot be read any more.
    pub async fn finish(mut self, end: End) -> Result<Report, ProbeError> {
        let duration_ns =
            clock::now().map_err(host("read the clock"))?.0.saturating_sub(self.start.monotonic_ns);
        self.stop().await?;
        let sent = self.sent.take();
        let (mut streams, unlisted) = std::mem::take(&mut self.ended).into_streams();
        for session in self.sessions()? {
            streams.push(self.stream(&session)?);
        }
        let refused = sent.as_ref().map_or(0, |sent| sent.refused);
        let mut not_measured = self.not_measured(&streams)?;
        not_measured.extend(refusal(sent.as_ref()));
        not_measured.extend(self.attachments.iter().filter_map(|fact| match fact {
            Fact::TcRemoved(removed) => {
                Some(removals::described(removed, MonotonicNs(self.start.monotonic_ns), "the observation"))
            }
            Fact::NotMeasured(entry) => Some(entry.clone()),
            _ => None,
        }));
        not_measured.extend((self.unlisted > 0).then(|| NotMeasured {
            what: "some silences that may have been".into(),
            why: format!("there were {} more than the {MOST_DOUBTS} that are listed", self.unlisted),
        }));
        not_measured.extend((unlisted > 0).then(|| NotMeasured {
            what: "some streams of requests that ended".into(),
            why: format!(
                "there were {unlisted} more than the {} that are listed, with fewer requests",
                ended::MOST_STREAMS
            ),
        }));
        Ok(Report {
            schema: SCHEMA.into(),
            migtrace: env!("CARGO_PKG_VERSION").into(),
            host: self.identity.host,
            kernel: self.identity.kernel,
            target: self.options.target,
            interface: self.interface,
            attach: self.attach,
            sending: self.options.interval.map(|interval| Sending {
                interval_ns: nanoseconds(interval),
                data_bytes: self.options.data_bytes,
                refused,
            }),
            min_gap_ns: nanoseconds(self.options.min_gap()),
            start: self.start,
            duration_ns,
            end,
            preflight: self.preflight,
            streams,
            not_measured,
        })
    }

    /// Stops sending, and waits up to a second for the last replies. Cancel-safe: called again, it waits anew.
    async fn stop(&mut self) -> Result<(), ProbeError> {
        if let Some(sender) = self.sender.take() {
            self.sent = Some(sender.stop().map_err(host("send echo requests"))?);
        }
        let deadline = Instant::now() + LINGER;
        while self.options.interval.is_some() && Instant::now() < deadline && self.is_waiting()? {
            tokio::time::sleep(LINGER_LOOK).await;
        }
        let pending = self.kernel.pending_gaps();
        self.take(pending);
        self.look_after_attachments();
        Ok(())
    }

    /// What is asked, and how: the first fact of an observation.
    pub(crate) fn started(&self) -> EchoStart {
        EchoStart {
            target: self.options.target,
            interface: self.interface.clone(),
            attach: self.attach,
            interval_ns: nanoseconds(self.options.interval.unwrap_or_default()),
            min_gap_ns: nanoseconds(self.options.min_gap()),
        }
    }

    /// Whether the address is silent now, or was just before and not all is known of that. Silences that may have been do
    /// not count: where messages are lost for other reasons there is always one.
    pub(crate) fn is_in_gap(&self) -> Result<bool, ProbeError> {
        let now = clock::now().map_err(host("read the clock"))?;
        let min_gap_ns = nanoseconds(self.options.min_gap());
        let in_gap =
            |state: &EchoSession| silent_ns(state, now, min_gap_ns).is_some() || state.gap.is_unsettled();
        Ok(self.sessions()?.iter().any(|session| in_gap(&session.state)))
    }

    /// Stops sending, waits up to a second for the last replies: the last facts of the observation. Cancel-safe.
    pub(crate) async fn end(&mut self) -> Result<Vec<Fact>, ProbeError> {
        self.stop().await?;
        let mut facts: Vec<_> = std::mem::take(&mut self.news).into_iter().map(Fact::EchoGap).collect();
        let session = self.sessions()?.pop();
        let mut end = EchoEnd { echo: None, open: None };
        let mut streams = Vec::new();
        if let Some(session) = &session {
            let state = &session.state;
            facts.extend(self.unsettled(state).map(Fact::EchoGap));
            end.open = self.open_gap(state)?.map(|(seen, _)| seen);
            let echo = report::echo(session, &self.kernel.round_trips(session.slot)?);
            end.echo = Some(echo.clone());
            streams.push(Stream { echo, gaps: Vec::new() });
        }
        let not_measured = self.not_measured(&streams)?.into_iter().chain(refusal(self.sent.as_ref()));
        facts.extend(not_measured.map(Fact::NotMeasured));
        facts.append(&mut self.attachments);
        facts.push(Fact::EchoEnd(end));
        Ok(facts)
    }

    fn is_waiting(&self) -> Result<bool, ProbeError> {
        Ok(self.sessions()?.iter().any(|session| session.state.answered < session.state.sent))
    }

    /// All gaps of a session: those that were told, those that were about to be, and the one that has not ended.
    fn gaps_of(&self, session: &Session) -> Result<Vec<Gap>, ProbeError> {
        let state = &session.state;
        let told = self.told.range((session.id(), 0)..=(session.id(), u64::MAX)).map(|(_, seen)| *seen);
        let ended = told.chain(self.unsettled(state));
        let mut gaps: Vec<Gap> = ended.map(|seen| self.gap(&seen)).filter(Gap::is_plausible).collect();
        gaps.extend(self.open_gap(state)?.map(|(_, gap)| gap));
        gaps.sort_by_key(|gap| gap.start.value_ns);
        Ok(gaps)
    }

    /// What the kernel was about to tell.
    fn unsettled(&self, state: &EchoSession) -> impl Iterator<Item = EchoGap> {
        state.unsettled(nanoseconds(self.options.min_gap())).map(EchoGap::from)
    }

    /// The gap that has not ended. It may be none: then the last requests wait for longer than replies take.
    fn open_gap(&self, state: &EchoSession) -> Result<Option<(EchoGap, Gap)>, ProbeError> {
        let now = clock::now().map_err(host("read the clock"))?;
        let min_gap_ns = nanoseconds(self.options.min_gap());
        let Some(seen) = open_gap(state) else { return Ok(None) };
        let gap = gaps::open(&seen, MonotonicNs(self.start.monotonic_ns));
        let is_one = gap.length.low_ns >= min_gap_ns || silent_ns(state, now, min_gap_ns).is_some();
        Ok(is_one.then_some((seen, gap)))
    }

    fn not_measured(&self, streams: &[Stream]) -> Result<Vec<NotMeasured>, ProbeError> {
        let mut list = Vec::new();
        let mut add = |what: &str, why: String| list.push(NotMeasured { what: what.into(), why });
        let (untracked, untold) = self.kernel.lost()?;
        if untracked > 0 {
            add(
                "some streams of requests",
                format!(
                    "{untracked} packets belong to more streams than can be followed at once ({ECHO_SESSIONS})"
                ),
            );
        }
        if untold > 0 {
            add("some gaps", format!("{untold} found no room in the ring buffer"));
        }
        if streams.iter().all(|stream| stream.echo.sent == 0) {
            let whose = if self.options.interval.is_some() { "" } else { " of anybody" };
            add("gaps", format!("no echo request{whose} to {} was seen", self.options.target));
        }
        for stream in streams.iter().filter(|stream| stream.echo.sent > 0 && stream.echo.answered == 0) {
            let (target, peer) = (stream.echo.target, stream.echo.peer);
            add("gaps", format!("{target} answered none of the requests of {peer}: it was never reached"));
        }
        Ok(list)
    }
}

/// What the kernel refused to send.
fn refusal(sent: Option<&Sent>) -> Option<NotMeasured> {
    let sent = sent?;
    let error = sent.last_refusal.as_ref()?;
    Some(NotMeasured {
        what: format!("{} of the requests", sent.refused),
        why: format!("the kernel refused to send them, the last one because: {error}"),
    })
}

/// For how long an address has been silent: since the first request that waits for longer than replies take.
fn silent_ns(state: &EchoSession, now: MonotonicNs, min_gap_ns: u64) -> Option<u64> {
    let patience_ns = state.longest_latest_round_trip_ns() + min_gap_ns;
    let silent_ns = now.0.saturating_sub(state.first_waiting_ns);
    (state.first_waiting_ns != 0 && silent_ns > patience_ns).then_some(silent_ns)
}

/// The silence at the end of a session; none when its last request was answered, or none ever.
fn open_gap(state: &EchoSession) -> Option<EchoGap> {
    let is_open = state.answered > 0 && state.first_waiting_ns > state.answered_request_ns;
    is_open.then(|| EchoGap {
        answered_request_ns: MonotonicNs(state.answered_request_ns),
        last_reply_ns: MonotonicNs(state.last_reply_ns),
        first_waiting_ns: MonotonicNs(state.first_waiting_ns),
        before_resumed_ns: MonotonicNs(state.last_request_ns),
        resuming_request_ns: MonotonicNs(state.last_request_ns),
        resumed_ns: MonotonicNs(state.last_request_ns),
        round_trip_before_ns: state.longest_latest_round_trip_ns(),
        round_trip_after_ns: 0,
        requests: state.sent.saturating_sub(state.answered_count),
        overtaken: 0,
        waited: 0,
        prompt: 0,
        duplicate: 0,
        worst_round_trip_ns: state.worst_round_trip_ns,
        may_be: false,
        shortest_round_trip_ns: 0,
        longest_interval_ns: 0,
        disordered: 0,
    })
}

fn is_same_removal(a: &Fact, b: &Fact) -> bool {
    matches!((a, b), (Fact::TcRemoved(a), Fact::TcRemoved(b)) if a.last_seen_ns == b.last_seen_ns)
}

/// The interface at which to watch.
struct Watched {
    name: String,
    index: u32,
}

fn interface_to(target: IpAddr, requested: Option<&str>) -> Result<Watched, ProbeError> {
    let all = links::list().map_err(host("list the network interfaces"))?;
    let link = match requested {
        Some(name) => {
            all.iter().find(|link| link.name == name).ok_or_else(|| ProbeError::NoSuchInterface {
                name: name.into(),
                present: all.iter().map(|link| link.name.clone()).collect(),
            })?
        }
        None => {
            let index = links::route_interface(target).map_err(host("find the way to the address"))?;
            all.iter().find(|link| link.index == index).ok_or_else(|| {
                let vanished = io::Error::new(io::ErrorKind::NotFound, "its interface has vanished");
                host("find the way to the address")(vanished)
            })?
        }
    };
    let unfit = |why| Err(ProbeError::Unfit { target, interface: link.name.clone(), why });
    if link.loopback {
        return unfit(
            "it is an address of this host itself; probe from another host, or from another namespace",
        );
    }
    if link.hardware_type != ETHERNET {
        return unfit(
            "its packets have no Ethernet header; name the Ethernet device below it with --interface",
        );
    }
    Ok(Watched { name: link.name.clone(), index: link.index })
}

fn open_socket(options: &Options, identifier: u16) -> Result<EchoSocket, ProbeError> {
    EchoSocket::open(options.target, identifier, options.data_bytes, options.interface.as_deref())
        .map_err(host("open a socket for ICMP echo requests (this needs CAP_NET_RAW)"))
}

/// Follows what this socket asks, and nobody else.
fn follow(kernel: &mut EchoKernel, target: IpAddr, socket: &EchoSocket) -> Result<(), ProbeError> {
    let cookie = socket.cookie().map_err(host("ask for the cookie of the socket"))?;
    Ok(kernel.follow(target, Some(socket.identifier()), Some(cookie))?)
}

/// An identifier that hardly anybody else uses now.
fn identifier() -> Result<u16, ProbeError> {
    let now_ns = clock::now().map_err(host("read the clock"))?.0;
    Ok((u64::from(std::process::id()) ^ (now_ns >> 10)) as u16)
}

fn start_now() -> Result<Start, ProbeError> {
    let sample = clock::sample().map_err(host("read the clocks"))?;
    let now = clock::now().map_err(host("read the clock"))?;
    Ok(Start { realtime_ns: sample.realtime_ns(now), error_ns: sample.error_ns, monotonic_ns: now.0 })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{block_on, in_new_netns, ip, ip_in, this_netns};

    #[test]
    fn an_error_keeps_its_cause_and_does_not_repeat_it() {
        let cause = io::Error::from_raw_os_error(1);
        let told = cause.to_string();
        let error = host("open a socket")(cause);
        assert_eq!(error.to_string(), "cannot open a socket");
        assert_eq!(std::error::Error::source(&error).map(ToString::to_string), Some(told));
    }

    /// Follows what two others ask, one of whom is gone for long and comes back.
    async fn follow_others() {
        let neighbour = IpAddr::from([192, 0, 2, 9]);
        let listening = Options { interval: None, preflight: false, ..Options::new(neighbour) };
        let mut prober = Prober::start(listening).await.unwrap();
        let mut askers = [7, 8].map(|identifier| EchoSocket::open(neighbour, identifier, 0, None).unwrap());
        let a_while = || tokio::time::sleep(Duration::from_millis(250));
        askers.iter_mut().for_each(|asker| asker.send(0).unwrap());
        a_while().await;
        let soon = clock::now().unwrap();
        prober.give_back(soon).unwrap();
        askers[1].send(1).unwrap();
        a_while().await;
        let state = |prober: &Prober, slot: usize| prober.sessions().unwrap()[slot].state;
        let later = MonotonicNs(state(&prober, 0).last_reply_ns + 300_000_000_000);
        prober.give_back(later).unwrap();
        assert!(prober.retired.iter().eq([&prober.sessions().unwrap()[0].id()]), "only who asks no more");
        a_while().await;
        prober.give_back(soon).unwrap();
        askers[0].send(1).unwrap();
        a_while().await;
        assert_eq!(state(&prober, 0).sent, 1, "the number is free, and its own once more");
        let live = prober.live().unwrap();
        assert_eq!((live.sent, live.answered), (4, 4));
        let report = prober.finish(End::Interrupted).await.unwrap();
        let told = report.streams.iter().map(|Stream { echo, .. }| (echo.identifier, echo.sent, echo.lost));
        assert_eq!(told.collect::<Vec<_>>(), [(7, 1, 0), (7, 1, 0), (8, 2, 0)]);
        assert_eq!(report.not_measured, []);
    }

    /// Observes a neighbour that is silent for a while, refuses to send for a while, and ends while it is silent once more.
    async fn observe_and_end(neighbour: &str) {
        let answers = |whether: &str| ip_in(neighbour, &format!("addr {whether} 192.0.2.9/24 dev answering"));
        let a_while = || tokio::time::sleep(Duration::from_millis(400));
        let options = Options {
            preflight: false,
            min_gap: Some(Duration::from_millis(150)),
            ..Options::new(IpAddr::from([192, 0, 2, 9]))
        };
        let mut prober = Prober::start(options).await.unwrap();
        a_while().await;
        answers("del");
        a_while().await;
        answers("add");
        a_while().await;
        ip("route del 192.0.2.0/24 dev asking");
        tokio::time::sleep(Duration::from_millis(50)).await;
        ip("route add 192.0.2.0/24 dev asking");
        a_while().await;
        answers("del");
        a_while().await;

        for patience_ms in [0, 1, 50] {
            let ending = tokio::time::timeout(Duration::from_millis(patience_ms), prober.end());
            assert!(ending.await.is_err(), "it waits for replies, and is dropped while it does");
        }
        let facts = prober.end().await.unwrap();
        let count = |is_it: fn(&Fact) -> bool| facts.iter().filter(|fact| is_it(fact)).count();
        assert_eq!(count(|fact| matches!(fact, Fact::EchoGap(_))), 1, "{facts:#?}");
        let refused =
            |fact: &Fact| matches!(fact, Fact::NotMeasured(told) if told.what.ends_with("of the requests"));
        assert_eq!(count(refused), 1, "{facts:#?}");
        assert_eq!(count(|fact| matches!(fact, Fact::EchoEnd(_))), 1, "{facts:#?}");
        let Some(Fact::EchoEnd(EchoEnd { echo: Some(echo), open: Some(_) })) = facts.last() else {
            panic!("{facts:#?}")
        };
        assert!(echo.answered > 0 && echo.lost > 0, "{echo:?}");
    }

    #[test]
    fn an_end_that_is_dropped_midway_and_asked_for_again_tells_everything_once() {
        beside_a_neighbour(|neighbour| block_on(observe_and_end(neighbour)));
    }

    #[test]
    fn a_stream_is_told_as_it_ended_when_its_number_is_another_s() {
        beside_a_neighbour(|_| block_on(follow_others()));
    }

    /// Runs a test in a network namespace whose neighbour, in another, has the address 192.0.2.9.
    fn beside_a_neighbour(test: impl FnOnce(&str) + Send) {
        in_new_netns(|| {
            let neighbour = this_netns();
            ip("link add answering type veth peer name asking");
            ip("link set answering up");
            ip("addr add 192.0.2.9/24 dev answering");
            in_new_netns(|| {
                ip_in(&neighbour, &format!("link set asking netns {}", this_netns()));
                ip("link set asking up");
                ip("addr add 192.0.2.1/24 dev asking");
                test(&neighbour);
            });
        });
    }
}
