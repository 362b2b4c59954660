//! The hosts that record together with this one.

use std::task::Poll;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use migtrace::event::{Fact, PeerRecording};
use migtrace::peer::{Command, News, Peer, PeerError, Reading, Said};
use migtrace::record::Outcome;
use migtrace::recorder::Recorder;
use migtrace::selection::Selection;
use migtrace::timeline::{Live, Timeline};
use migtrace::units::MonotonicNs;
use migtrace::vocabulary::NotMeasured;
use tokio::time::Instant;

use super::event_log::EventLog;
use crate::cli::{GuestProbeArgs, LibvirtArgs, RecordArgs, ScopeArgs};
use crate::commands::progress::Progress;

/// How long a peer may take to begin; somebody may have to type a password.
const BEGIN_PATIENCE: Duration = Duration::from_secs(60);
/// How many lines are kept of what a peer says before it begins.
const MOST_UNSAID: usize = 100;
/// After a look at what a peer has seen, the next one waits this many times as long as it took.
const LOOK_REST: u32 = 10;

/// The hosts that record together with this one.
pub(super) struct Peers {
    hosts: Vec<Host>,
}

/// A host that records together with this one.
struct Host {
    name: String,
    /// None once nothing more comes from it.
    peer: Option<Peer>,
    /// It was told to end.
    told: bool,
    timeline: Timeline,
    log: EventLog,
    /// Once its log has begun.
    recording: Option<PeerRecording>,
    /// The latest reading of its clock.
    reading: Option<Reading>,
    /// It has not been noted yet.
    is_new: bool,
    /// What it has said before it began.
    unsaid: Vec<String>,
    /// What was lost with it.
    failure: Option<NotMeasured>,
    /// That, once it is a fact of this host.
    noted: Option<NotMeasured>,
    seen: Seen,
}

/// What a peer has seen, according to the last look.
struct Seen {
    under_way: bool,
    /// How a migration has ended, if one has.
    ended: Option<Outcome>,
    looked: Instant,
    look_took: Duration,
}

impl Peers {
    /// Starts to record on all peers. What cannot be started is missing from then on; a message says so.
    pub(super) fn start(
        options: &RecordArgs,
        prober: Option<&str>,
        logs: Vec<EventLog>,
        progress: &Progress,
    ) -> Result<Self> {
        let remote_shell = shell_words::split(&options.peers.rsh)
            .with_context(|| format!("--rsh {} is not a command", options.peers.rsh))?;
        let mut peers = Self { hosts: Vec::new() };
        for (peer, log) in options.peers.peers.iter().zip(logs) {
            let probe = (prober == Some(peer.host.as_str())).then_some(&options.probe);
            let command = Command {
                remote_shell: remote_shell.iter().chain([&peer.given]).cloned().collect(),
                migtrace: options.peers.peer_command.clone(),
                arguments: arguments(&options.scope, probe, &options.libvirt),
            };
            let mut host = Host {
                name: peer.host.clone(),
                peer: None,
                told: false,
                timeline: Timeline::new(Selection::new(options.scope.vm.clone(), None)),
                log,
                recording: None,
                reading: None,
                is_new: false,
                unsaid: Vec::new(),
                failure: None,
                noted: None,
                seen: Seen {
                    under_way: false,
                    ended: None,
                    looked: Instant::now(),
                    look_took: Duration::ZERO,
                },
            };
            match Peer::start(&command) {
                Ok(peer) => host.peer = Some(peer),
                Err(why) => host.lose(&why, progress),
            }
            peers.hosts.push(host);
        }
        Ok(peers)
    }

    /// Waits until each peer records, or has failed to begin.
    pub(super) async fn begun(&mut self, progress: &Progress) -> Result<()> {
        let deadline = Instant::now() + BEGIN_PATIENCE;
        while self.hosts.iter().any(|host| host.peer.is_some() && host.recording.is_none()) {
            match tokio::time::timeout_at(deadline, self.next()).await {
                Ok((index, news)) => {
                    self.take(index, news, progress)?;
                }
                Err(_) => {
                    for host in self.hosts.iter_mut().filter(|host| host.recording.is_none()) {
                        let why =
                            PeerError::TooLate { seconds: BEGIN_PATIENCE.as_secs(), said: Said::default() };
                        host.lose(&why, progress);
                    }
                }
            }
        }
        Ok(())
    }

    /// The next news, and the peer's place. Never ends if there is none to come. Cancel-safe.
    pub(super) async fn next(&mut self) -> (usize, News) {
        std::future::poll_fn(|context| {
            for (index, host) in self.hosts.iter_mut().enumerate() {
                let Some(peer) = &mut host.peer else { continue };
                if let Poll::Ready(news) = peer.poll_next(context) {
                    return Poll::Ready((index, news.unwrap_or(News::Ended(None))));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Takes in news of a peer.
    pub(super) fn take(&mut self, index: usize, news: News, progress: &Progress) -> Result<()> {
        let host = &mut self.hosts[index];
        match news {
            News::Event(event) => {
                if let Fact::LogStart(observation) = &event.fact {
                    host.recording = Some(PeerRecording::new(observation.host.clone(), event.at_ns));
                    host.log.begin(Some(&event))?;
                    for line in std::mem::take(&mut host.unsaid) {
                        host.say(&line, progress);
                    }
                } else {
                    host.log.write(&event);
                }
                if let Fact::NotMeasured(NotMeasured { what, why }) = &event.fact {
                    host.say(&format!("not measured: {what}: {why}"), progress);
                }
                host.timeline.push(&event);
            }
            News::Clock(reading) => (host.reading, host.is_new) = (Some(reading), true),
            News::Said(line) if host.recording.is_some() => host.say(&line, progress),
            // If it cannot begin, the last of them are the reason.
            News::Said(line) if host.unsaid.len() < MOST_UNSAID => host.unsaid.push(line),
            News::Ended(why) => {
                host.peer = None;
                if let Some(why) = why.or((!host.told).then_some(PeerError::EndedThere)) {
                    host.lose(&why, progress);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Looks what the peers have seen so far.
    pub(super) fn look(&mut self) {
        for host in &mut self.hosts {
            host.look();
        }
    }

    /// Whether a migration is under way on any of them.
    pub(super) fn is_under_way(&self) -> bool {
        self.hosts.iter().any(|host| host.seen.under_way)
    }

    /// Whether a migration has ended on any of them.
    pub(super) fn has_ended(&self) -> bool {
        self.hosts.iter().any(|host| host.seen.ended.is_some())
    }

    /// Whether a migration that may be that of this VM has ended on one of them, and has failed.
    pub(super) fn has_failed(&self, vm: Option<&str>) -> bool {
        let failed = |host: &&Host| matches!(host.seen.ended, Some(Outcome::Failed | Outcome::Cancelled));
        let may_be_its = |host: &Host| {
            let there = host.timeline.live(MonotonicNs(0)).and_then(|live| live.vm);
            there.as_deref().zip(vm).is_none_or(|(there, here)| there == here)
        };
        self.hosts.iter().filter(failed).any(may_be_its)
    }

    /// The clocks are read often from now on.
    pub(super) fn read_clocks(&self) {
        self.live_peers().for_each(Peer::read_clock);
    }

    fn live_peers(&self) -> impl Iterator<Item = &Peer> {
        self.hosts.iter().filter_map(|host| host.peer.as_ref())
    }

    /// The readings of the peers' clocks that are new, as facts of this host.
    pub(super) fn new_readings(&mut self) -> Vec<(MonotonicNs, Fact)> {
        let fact = |host: &mut Host| {
            let peer = host.recording.clone()?;
            let Reading { asked, showed, answered, .. } =
                host.reading.filter(|_| std::mem::take(&mut host.is_new))?;
            Some((answered, Fact::PeerClock { peer, asked_ns: asked, showed_ns: showed }))
        };
        self.hosts.iter_mut().filter_map(fact).collect()
    }

    /// The peers that have seen the migration are to end once nothing more of it is awaited there. A peer that sees it only
    /// later needs to be told later.
    pub(super) fn conclude_its_hosts(&mut self) {
        self.conclude(Host::has_seen_it);
    }

    /// So are all of them.
    pub(super) fn conclude_all(&mut self) {
        self.conclude(|_| true);
    }

    fn conclude(&mut self, is_meant: impl Fn(&Host) -> bool) {
        for host in self.hosts.iter_mut().filter(|host| !host.told && is_meant(host)) {
            host.told = true;
            host.peer.iter().for_each(Peer::conclude);
        }
    }

    /// Whether a peer that has seen the migration still records.
    pub(super) fn awaits_its_hosts(&self) -> bool {
        self.hosts.iter().any(|host| host.peer.is_some() && host.has_seen_it())
    }

    /// All peers end now.
    pub(super) fn stop(&mut self) {
        for host in &mut self.hosts {
            host.told = true;
            host.peer.iter_mut().for_each(Peer::stop);
        }
    }

    /// Whether there never were any.
    pub(super) const fn are_none(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Whether no peer records any more.
    pub(super) fn are_over(&self) -> bool {
        self.live_peers().next().is_none()
    }

    /// Whatever is missing of the peers becomes a fact of this host.
    pub(super) fn note_failures(&mut self, recorder: &mut Recorder) -> Result<()> {
        for host in &mut self.hosts {
            if let Some(failure) = host.failure.take() {
                recorder.note(Fact::NotMeasured(failure.clone()))?;
                host.noted = Some(failure);
            }
        }
        Ok(())
    }

    /// Whether this is missing of a peer. A message has said so.
    pub(super) fn have_said(&self, entry: &NotMeasured) -> bool {
        self.hosts.iter().any(|host| host.noted.as_ref() == Some(entry))
    }

    /// The migrations on the peers as they are now, with the peers' names.
    pub(super) fn live(&self, now: MonotonicNs) -> Vec<(&str, Live)> {
        let live = |host: &Host| host.timeline.live(host.now(now)?);
        self.hosts.iter().filter_map(|host| Some((host.name.as_str(), live(host)?))).collect()
    }

    /// What the peers have seen, with their names; and why a log of theirs is incomplete.
    pub(super) fn finish(self) -> (Vec<(String, Timeline)>, Option<anyhow::Error>) {
        let (mut timelines, mut failure) = (Vec::new(), None);
        for host in self.hosts {
            if host.recording.is_some() {
                timelines.push((host.name, host.timeline));
            }
            failure = failure.or(host.log.end());
        }
        (timelines, failure)
    }
}

impl Host {
    fn say(&self, line: &str, progress: &Progress) {
        progress.say(&format!("{}: {line}", self.name));
    }

    /// Nothing more comes from it.
    fn lose(&mut self, why: &PeerError, progress: &Progress) {
        self.peer = None;
        self.say(&format!("{why}; the recording goes on without it"), progress);
        let what = if self.recording.is_some() {
            format!("what {} saw after its recording broke off", self.name)
        } else {
            format!("what {} sees", self.name)
        };
        self.failure = Some(NotMeasured { what, why: why.to_string() });
    }

    /// Whether it has seen a migration, according to the last look.
    const fn has_seen_it(&self) -> bool {
        self.seen.under_way || self.seen.ended.is_some()
    }

    fn look(&mut self) {
        let begun = Instant::now();
        if begun < self.seen.looked + self.seen.look_took * LOOK_REST {
            return;
        }
        self.seen.under_way = self.timeline.is_under_way();
        self.seen.ended = self.timeline.ended().map(|end| end.outcome);
        self.seen.looked = Instant::now();
        self.seen.look_took = self.seen.looked - begun;
    }

    /// What its clock shows, about, when this host's shows `now`.
    fn now(&self, now: MonotonicNs) -> Option<MonotonicNs> {
        let Reading { showed, answered, .. } = self.reading?;
        Some(MonotonicNs(showed.0.saturating_add(now.0.saturating_sub(answered.0))))
    }
}

/// The arguments of migtrace on a peer.
fn arguments(scope: &ScopeArgs, probe: Option<&GuestProbeArgs>, libvirt: &LibvirtArgs) -> Vec<String> {
    let mut arguments = vec!["serve".to_owned(), format!("--ports={}", scope.ports)];
    arguments.extend(scope.vm.iter().map(|vm| format!("--vm={vm}")));
    arguments.extend(scope.decapsulate.iter().map(|tunnel| format!("--decapsulate={}", tunnel.name())));
    arguments.push(format!("--flow-capacity={}", scope.flow_capacity));
    let attach = scope.attach.to_possible_value();
    arguments.extend(attach.map(|attach| format!("--attach={}", attach.get_name())));
    if let Some(probe) = probe {
        arguments.extend(probe.probe.iter().map(|target| format!("--probe={target}")));
        arguments.push(format!("--probe-interval={}ns", probe.probe_interval.as_nanos()));
    }
    if libvirt.domjobinfo {
        arguments.extend(["--domjobinfo".to_owned(), format!("--virsh={}", libvirt.virsh)]);
    }
    arguments
}
