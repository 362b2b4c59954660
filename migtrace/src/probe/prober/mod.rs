//! An observation while it runs: from attaching the programs to the last gap that they report.

mod ended_streams;
mod ending;
mod error;
mod figures;
mod interface;
mod options;
mod preflight;
mod seen_gaps;
mod sender;
mod session;
mod socket;
#[cfg(test)]
mod testing;

use std::net::IpAddr;
use std::time::Duration;

use migtrace_ebpf::abi::{ECHO_SESSIONS, EchoSession};
use tokio::time::{Instant, Interval};

use super::report::{EchoStream, Preflight, ProbeStart};
use crate::event::{EchoGap, EchoStart, Fact};
use crate::host::clock;
use crate::identity::Identity;
use crate::kernel::GracePeriod;
use crate::kernel::echo::{EchoKernel, Session, SessionId, SettledGap};
use crate::record::Gap;
use crate::tc_changes::cannot_look;
use crate::ticks::ticks;
use crate::timeline::gaps;
use crate::units::MonotonicNs;
use crate::vocabulary::AttachMode;
use ended_streams::EndedStreams;
pub use error::ProbeError;
use error::host;
use interface::Interface;
pub use options::{MIN_INTERVAL, ProbeOptions};
use seen_gaps::SeenGaps;
use sender::{Schedule, Sender, Sent};
use session::{open_gap, silent_ns};
use socket::{follow, open_socket};

/// [`Prober::next`] returns at least this often.
const TICK: Duration = Duration::from_millis(100);
/// How often to check that the programs are still attached.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What [`Prober::next`] reports.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ProbeStep {
    /// A gap has ended that certainly lasted for the minimum.
    Gap(EchoGap),
    /// A silence has ended that may have been a gap.
    MayBe(EchoGap),
    /// All requests were sent.
    Sent,
    /// Nothing happened for a while: time to show [`Prober::status`].
    Tick,
}

/// An observation as it is now, for a display.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct ProbeStatus {
    /// Requests.
    pub sent: u64,
    /// Requests that were answered.
    pub answered: u64,
    /// Gaps that have ended.
    pub gaps: usize,
    /// For how long the address has been silent, if it is.
    pub silent_ns: Option<u64>,
}

/// Probes an address from the network namespace of the thread that starts it. Dropping it detaches everything and stops
/// sending.
pub struct Prober {
    kernel: EchoKernel,
    options: ProbeOptions,
    identity: Identity,
    interface: String,
    attach: AttachMode,
    preflight: Option<Preflight>,
    sender: Option<Sender>,
    /// What became of the sending, once it has stopped.
    sent: Option<Sent>,
    /// Sessions without further requests, until their slots are free.
    retired: GracePeriod<SessionId>,
    /// The streams whose slots were given back.
    ended: EndedStreams,
    seen: SeenGaps,
    start: ProbeStart,
    tick: Interval,
    sending_over: bool,
    /// When to check the attachments again.
    next_look: Instant,
    /// What became of the attachments.
    attachments: Vec<Fact>,
}

impl Prober {
    /// Attaches, checks for loss, and begins to send. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// The address cannot be watched from here, does not answer, or not reliably.
    pub async fn start(options: ProbeOptions) -> Result<Self, ProbeError> {
        let Interface { name: interface, index } =
            interface::find(options.target, options.interface.as_deref())?;
        let sessions = if options.interval.is_some() { preflight::SESSIONS + 1 } else { ECHO_SESSIONS };
        let mut kernel = EchoKernel::load(sessions, options.min_gap_ns())?;
        let attach = kernel.attach(&interface, index, options.attach)?;
        let identity = Identity::read().map_err(host("read this host's name"))?;
        let identifier = identifier()?;
        let preflight = match options.interval {
            Some(interval) if options.preflight => {
                let route = preflight::Route { interface: &interface, options: &options, identifier };
                Some(preflight::check(&mut kernel, &route, interval).await?)
            }
            _ => None,
        };
        let tick = ticks(TICK);
        let mut prober = Self {
            kernel,
            identity,
            interface,
            attach,
            preflight,
            sender: None,
            sent: None,
            retired: GracePeriod::default(),
            ended: EndedStreams::default(),
            seen: SeenGaps::default(),
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

    /// What was asked for: the first fact of an observation.
    pub(crate) fn started(&self) -> EchoStart {
        EchoStart {
            target: self.options.target,
            interface: self.interface.clone(),
            attach: self.attach,
            interval_ns: nanoseconds(self.options.interval.unwrap_or_default()),
            min_gap_ns: self.options.min_gap_ns(),
            mac: None,
            vm: None,
        }
    }

    /// The next step; waits until there is one, at most a tenth of a second. Cancel-safe.
    ///
    /// # Errors
    /// The kernel side cannot be read any more.
    pub async fn next(&mut self) -> Result<ProbeStep, ProbeError> {
        loop {
            if let Some(seen) = self.seen.next_new() {
                let is_sure = self.gap(&seen).length.low_ns >= self.options.min_gap_ns();
                return Ok(if is_sure { ProbeStep::Gap(seen) } else { ProbeStep::MayBe(seen) });
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
                        return Ok(ProbeStep::Sent);
                    }
                    return Ok(ProbeStep::Tick);
                }
            }
        }
    }

    /// Notes what others have done to the programs. Those that were removed are attached again.
    fn look_after_attachments(&mut self) {
        self.next_look = Instant::now() + LOOK_EVERY;
        let facts = match self.kernel.look_after_attachments() {
            Ok(changes) => changes.into_iter().map(|change| change.fact(self.interface.clone())).collect(),
            Err(error) => vec![Fact::NotMeasured(cannot_look(&error))],
        };
        for fact in facts {
            // A removal is reported again once its program could be attached again.
            self.attachments.retain(|known| !is_same_removal(known, &fact));
            if !self.attachments.contains(&fact) {
                self.attachments.push(fact);
            }
        }
    }

    fn take(&mut self, gaps: Vec<SettledGap>) {
        for settled in gaps {
            if self.is_observed(settled.session) {
                self.seen.add(settled);
            }
        }
    }

    fn gap(&self, seen: &EchoGap) -> Gap {
        gaps::closed(seen, MonotonicNs(self.start.monotonic_ns))
    }

    fn sessions(&self) -> Result<Vec<Session>, ProbeError> {
        let sessions = self.kernel.sessions()?;
        Ok(sessions.into_iter().filter(|session| self.is_observed(session.id())).collect())
    }

    /// Whether a session belongs to the observation. Those of the pre-flight began earlier.
    const fn is_observed(&self, session: SessionId) -> bool {
        session.first_request_ns >= self.start.monotonic_ns
    }

    /// Retires the sessions that are over by `now`, and gives back the slots of those retired a while ago.
    fn give_back(&mut self, now: MonotonicNs) -> Result<(), ProbeError> {
        let free = self.retired.take_free();
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
                self.seen.forget(id);
                self.kernel.free(session.slot)?;
            } else if !self.retired.iter().any(|retired| *retired == id)
                && ended_streams::is_over(&session.state, now, is_crowded)
            {
                self.kernel.retire(&session)?;
                self.retired.begin(id);
            }
        }
        Ok(())
    }

    /// What is known of a session.
    fn stream(&self, session: &Session) -> Result<EchoStream, ProbeError> {
        let echo = figures::echo(session, &self.kernel.round_trips(session.slot)?);
        Ok(EchoStream { echo, gaps: self.gaps_of(session)? })
    }

    /// All gaps of a session: those that were reported, those that were about to be, and the one that has not ended.
    fn gaps_of(&self, session: &Session) -> Result<Vec<Gap>, ProbeError> {
        let state = &session.state;
        let ended = self.seen.of(session.id()).copied().chain(self.unsettled(state));
        let mut gaps: Vec<Gap> = ended.map(|seen| self.gap(&seen)).filter(Gap::is_plausible).collect();
        gaps.extend(self.open_gap(state)?.map(|(_, gap)| gap));
        gaps.sort_by_key(|gap| gap.start.value_ns);
        Ok(gaps)
    }

    /// The gaps that the kernel was about to report.
    fn unsettled(&self, state: &EchoSession) -> impl Iterator<Item = EchoGap> {
        state.unsettled(self.options.min_gap_ns()).map(EchoGap::from)
    }

    /// The gap that has not ended. It counts if it certainly is one, or if the last requests have waited longer than
    /// replies take.
    fn open_gap(&self, state: &EchoSession) -> Result<Option<(EchoGap, Gap)>, ProbeError> {
        let now = clock::now().map_err(host("read the clock"))?;
        let min_gap_ns = self.options.min_gap_ns();
        let Some(seen) = open_gap(state) else { return Ok(None) };
        let gap = gaps::open(&seen, MonotonicNs(self.start.monotonic_ns));
        let is_one = gap.length.low_ns >= min_gap_ns || silent_ns(state, now, min_gap_ns).is_some();
        Ok(is_one.then_some((seen, gap)))
    }

    /// The observation as it is now.
    ///
    /// # Errors
    /// The kernel side cannot be read any more.
    pub fn status(&self) -> Result<ProbeStatus, ProbeError> {
        let now = clock::now().map_err(host("read the clock"))?;
        let mut status = self.ended.sum();
        for session in self.sessions()? {
            let state = &session.state;
            status.sent += state.sent;
            status.answered += state.answered;
            status.gaps += state.gaps as usize;
            let silent_ns = silent_ns(state, now, self.options.min_gap_ns());
            status.silent_ns = status.silent_ns.max(silent_ns);
        }
        Ok(status)
    }

    /// Whether the address is silent now, or was a moment ago and the kernel has not reported that yet. Doubtful silences
    /// do not count: on a lossy path there is always one.
    pub(crate) fn is_in_gap(&self) -> Result<bool, ProbeError> {
        let now = clock::now().map_err(host("read the clock"))?;
        let min_gap_ns = self.options.min_gap_ns();
        let in_gap =
            |state: &EchoSession| silent_ns(state, now, min_gap_ns).is_some() || state.gap.is_unsettled();
        Ok(self.sessions()?.iter().any(|session| in_gap(&session.state)))
    }
}

fn is_same_removal(a: &Fact, b: &Fact) -> bool {
    matches!((a, b), (Fact::TcRemoved(a), Fact::TcRemoved(b)) if a.last_seen_ns == b.last_seen_ns)
}

/// An identifier that hardly anybody else uses now.
fn identifier() -> Result<u16, ProbeError> {
    let now_ns = clock::now().map_err(host("read the clock"))?.0;
    Ok((u64::from(std::process::id()) ^ (now_ns >> 10)) as u16)
}

fn start_now() -> Result<ProbeStart, ProbeError> {
    let sample = clock::sample().map_err(host("read the clocks"))?;
    let now = clock::now().map_err(host("read the clock"))?;
    Ok(ProbeStart { realtime_ns: sample.realtime_ns(now), error_ns: sample.error_ns, monotonic_ns: now.0 })
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::block_on;
    use crate::probe::ProbeEndReason;
    use crate::probe::prober::testing::beside_a_neighbour;

    /// Follows the pings of two others. One pauses for long and comes back.
    async fn follow_others() {
        let neighbour = IpAddr::from([192, 0, 2, 9]);
        let listening = ProbeOptions { interval: None, preflight: false, ..ProbeOptions::new(neighbour) };
        let mut prober = Prober::start(listening).await.unwrap();
        let pinging = ProbeOptions::new(neighbour);
        let mut senders = [7, 8].map(|identifier| open_socket(&pinging, identifier).unwrap());
        let a_while = || tokio::time::sleep(Duration::from_millis(250));
        senders.iter_mut().for_each(|sender| sender.send(0).unwrap());
        a_while().await;
        let soon = clock::now().unwrap();
        prober.give_back(soon).unwrap();
        senders[1].send(1).unwrap();
        a_while().await;
        let state = |prober: &Prober, slot: usize| prober.sessions().unwrap()[slot].state;
        let later = MonotonicNs(state(&prober, 0).last_reply_ns + 300_000_000_000);
        prober.give_back(later).unwrap();
        assert!(prober.retired.iter().eq([&prober.sessions().unwrap()[0].id()]), "only the idle one");
        a_while().await;
        prober.give_back(soon).unwrap();
        senders[0].send(1).unwrap();
        a_while().await;
        assert_eq!(state(&prober, 0).sent, 1, "the slot was free, and is taken anew");
        let status = prober.status().unwrap();
        assert_eq!((status.sent, status.answered), (4, 4));
        let report = prober.finish(ProbeEndReason::Interrupted).await.unwrap();
        let listed =
            report.streams.iter().map(|EchoStream { echo, .. }| (echo.identifier, echo.sent, echo.lost));
        assert_eq!(listed.collect::<Vec<_>>(), [(7, 1, 0), (7, 1, 0), (8, 2, 0)]);
        assert_eq!(report.not_measured, []);
    }

    #[test]
    fn a_stream_is_reported_as_it_ended_after_its_slot_was_reused() {
        beside_a_neighbour(|_| block_on(follow_others()));
    }
}
