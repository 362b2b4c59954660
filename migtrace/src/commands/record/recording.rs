//! One recording: from attaching to the record of the migration that was waited for.

use std::time::Duration;

use anyhow::{Result, bail};
use migtrace::event::{EndReason, Event, Fact};
use migtrace::host::clock;
use migtrace::record::{Outcome, Record};
use migtrace::recorder::Recorder;
use migtrace::timeline::{self, NotTogether, Timeline};
use migtrace::units::Directions;
use migtrace::vocabulary::{LIBVIRT_FIGURES, NotMeasured};
use tokio::time::Instant;

use super::event_log::EventLog;
use super::libvirt_figures::{LibvirtFigures, News};
use super::logs::Logs;
use super::peers::Peers;
use super::qemu_figures::{QemuFigures, discard_events};
use super::setup::{self, Begun};
use crate::cli::{LOCAL, RecordArgs};
use crate::commands::progress::Progress;
use crate::commands::signals::Signals;
use crate::streams::say;

/// How often the live line changes during a migration.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// How often it changes before a migration.
const SHOW_WAITING_EVERY: Duration = Duration::from_secs(1);
/// How often to look what the peers have seen.
const LOOK_AT_PEERS_EVERY: Duration = Duration::from_millis(100);
/// How long nothing has crossed of a migration that waits for what can come no more.
const QUIET: Duration = Duration::from_secs(10);
/// How long the last events of peers may take after an interruption.
const LAST_EVENTS: Duration = Duration::from_secs(5);

/// What a recording gave.
pub(super) struct Recorded {
    pub(super) records: Vec<Record>,
    reason: EndReason,
    /// Why the event log is incomplete. The records are complete.
    pub(super) log_failure: Option<anyhow::Error>,
}

impl Recorded {
    pub(super) const fn why_none(&self) -> &'static str {
        match self.reason {
            EndReason::Interrupted => " before the recording was interrupted",
            EndReason::TimedOut => " within the time of --timeout",
            _ => "",
        }
    }
}

pub(super) async fn record(
    options: &RecordArgs,
    prober: Option<&str>,
    logs: Logs,
    mut signals: Signals,
) -> Result<Recorded> {
    let mut libvirt = LibvirtFigures::new(&options.libvirt)?;
    // Beside peers this host may have no part in the migration, and no libvirt.
    if options.peers.peers.is_empty() {
        libvirt.check().await?;
    }
    let mut progress = Progress::new();
    let mut log = logs.local;
    let mut peers = Peers::start(options, prober, logs.peers, &progress)?;
    tokio::select! {
        begun = peers.begun(&progress) => begun?,
        () = signals.any() => bail!("interrupted before the recording began"),
    }
    let mut begun =
        setup::begin(&options.scope, Some(&options.probe).filter(|_| prober == Some(LOCAL))).await?;
    // Whatever can fail comes before an earlier log or report is replaced.
    let mut figures = match &options.qmp {
        Some(path) => Some(QemuFigures::connect(path, &mut begun.recorder).await?),
        None => None,
    };
    // The first event is there at once, and shows that the log can be written before the wait.
    let first = begun.recorder.next().await?;
    log.begin(first.as_ref())?;
    peers.note_failures(&mut begun.recorder)?;
    setup::describe(&begun, &progress);
    progress.say("ready");

    let timeout = options.timeout.unwrap_or(Duration::MAX);
    let Begun { mut recorder, .. } = begun;
    let mut running = Running {
        recorder: &mut recorder,
        log: &mut log,
        figures: &mut figures,
        libvirt: &mut libvirt,
        peers: &mut peers,
        progress: &mut progress,
        stage: Stage::Recording,
        here_over: false,
        activity: Activity { carried: None, since: Instant::now() },
    };
    let reason = running.until_the_end(&mut signals, timeout).await?;
    if reason != EndReason::MigrationEnded {
        running.stop_peers(&mut signals).await?;
    }
    progress.end();
    if let Some(figures) = &mut figures {
        figures.ask_once(&mut recorder).await?;
    }
    libvirt.give_up(&mut recorder)?;
    recorder.end_probe().await?;
    let (events, timeline) = recorder.finish(reason)?;
    for event in &events {
        log.write(event);
    }
    let (peers, peer_log_failure) = peers.finish();
    let records = awaited(merged(timeline, peers));
    Ok(Recorded { records, reason, log_failure: log.end().or(peer_log_failure) })
}

/// A recording that has begun.
struct Running<'a> {
    recorder: &'a mut Recorder,
    log: &'a mut EventLog,
    figures: &'a mut Option<QemuFigures>,
    libvirt: &'a mut LibvirtFigures,
    peers: &'a mut Peers,
    progress: &'a mut Progress,
    stage: Stage,
    /// Nothing more is awaited on this host.
    here_over: bool,
    activity: Activity,
}

/// What a migration has carried on this host, and since when.
struct Activity {
    carried: Option<Directions<u64>>,
    since: Instant,
}

impl Activity {
    /// Whether it is long ago that more was carried.
    fn is_quiet(&mut self, carried: Option<Directions<u64>>) -> bool {
        let now = Instant::now();
        if self.carried != carried {
            *self = Self { carried, since: now };
        }
        now >= self.since + QUIET
    }
}

/// How far a recording on several hosts is. Each goes on until nothing more is awaited there.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Stage {
    /// The migration is not over yet.
    Recording,
    /// It is over on one of its hosts, and the others have yet to end.
    Ending,
    /// Those that have only observed it end.
    Last,
}

impl Running<'_> {
    /// Records until the migration has ended, a signal comes or the time is over.
    async fn until_the_end(&mut self, signals: &mut Signals, timeout: Duration) -> Result<EndReason> {
        let (mut next_show, mut next_look) = (Instant::now(), Instant::now());
        let timeout = tokio::time::sleep(timeout);
        tokio::pin!(timeout);
        loop {
            if self.here_over && self.peers.are_over() && !self.libvirt.is_awaited() {
                return Ok(EndReason::MigrationEnded);
            }
            tokio::select! {
                event = self.recorder.next(), if !self.here_over => match event? {
                    Some(event) => {
                        next_show = next_show.min(Instant::now() + SHOW_EVERY);
                        self.take(&event).await?;
                    }
                    None => {
                        self.here_over = true;
                        self.libvirt.conclude(self.recorder);
                    }
                },
                (index, news) = self.peers.next() => {
                    self.peers.take(index, news, self.progress)?;
                    self.peers.note_failures(self.recorder)?;
                }
                () = tokio::time::sleep_until(next_look), if !self.peers.are_none() => {
                    next_look = Instant::now() + LOOK_AT_PEERS_EVERY;
                    self.advance();
                }
                () = signals.any() => return Ok(EndReason::Interrupted),
                () = &mut timeout => return Ok(EndReason::TimedOut),
                news = self.libvirt.next() => match news {
                    News::Trouble(why) => self.progress.say(&why),
                    News::Answer(fact) => self.note_of_libvirt(*fact)?,
                },
                () = discard_events(self.figures.as_mut()) => {}
                () = tokio::time::sleep_until(next_show), if self.progress.is_seen() => {
                    next_show = Instant::now() + if self.show() { SHOW_EVERY } else { SHOW_WAITING_EVERY };
                }
            }
        }
    }

    /// Looks how far the migration is on all hosts, and tells the peers.
    fn advance(&mut self) {
        self.peers.look();
        let is_under_way = self.recorder.is_under_way();
        if is_under_way || self.recorder.has_ended() || self.peers.is_under_way() || self.peers.has_ended() {
            self.peers.read_clocks();
            for (at, reading) in self.peers.new_readings() {
                self.recorder.note_at(at, reading);
            }
        }
        if is_under_way && self.waits_in_vain() {
            self.here_over = true;
        }
        let is_elsewhere = !is_under_way && !self.recorder.has_ended();
        if self.stage == Stage::Recording && (self.here_over || (is_elsewhere && self.peers.has_ended())) {
            self.stage = Stage::Ending;
        }
        if self.stage == Stage::Ending {
            self.peers.conclude_its_hosts();
        }
        if self.stage == Stage::Ending && !self.peers.awaits_its_hosts() {
            self.stage = Stage::Last;
            self.peers.conclude_all();
            if !self.here_over {
                self.recorder.conclude();
            }
        }
    }

    /// Whether the migration has failed on another host, and nothing crosses here any more. A destination that has lost its
    /// source without a word would wait for it for ever.
    fn waits_in_vain(&mut self) -> bool {
        let live = self.recorder.live();
        let is_quiet = self.activity.is_quiet(live.as_ref().and_then(|live| live.wire_bytes));
        is_quiet && self.peers.has_failed(live.as_ref().and_then(|live| live.vm.as_deref()))
    }

    /// Ends the recording on the peers, and takes in their last events, unless another signal comes.
    async fn stop_peers(&mut self, signals: &mut Signals) -> Result<()> {
        self.peers.stop();
        let deadline = Instant::now() + LAST_EVENTS;
        while !self.peers.are_over() {
            tokio::select! {
                (index, news) = self.peers.next() => self.peers.take(index, news, self.progress)?,
                () = signals.any() => break,
                () = tokio::time::sleep_until(deadline) => break,
            }
        }
        self.peers.note_failures(self.recorder)
    }

    async fn take(&mut self, event: &Event) -> Result<()> {
        self.log.write(event);
        self.libvirt.observe(event, self.recorder);
        if let Fact::NotMeasured(entry) = &event.fact
            && !self.peers.have_said(entry)
        {
            self.say_not_measured(entry);
        }
        // Now, because whoever manages the source's QEMU is about to end it.
        if let Some(figures) = self.figures.as_mut().filter(|_| self.recorder.has_ended()) {
            figures.ask_once(self.recorder).await?;
        }
        Ok(())
    }

    /// Takes in what libvirt has said. The recorder gives no more events by now, so nobody else says what is missing.
    fn note_of_libvirt(&mut self, fact: Fact) -> Result<()> {
        if let Fact::NotMeasured(entry) = &fact {
            self.say_not_measured(entry);
        }
        Ok(self.recorder.note(fact)?)
    }

    fn say_not_measured(&self, NotMeasured { what, why }: &NotMeasured) {
        self.progress.say(&format!("not measured: {what}: {why}"));
    }

    /// Shows the migration as it is now. Returns whether there is one.
    fn show(&mut self) -> bool {
        if self.here_over && self.libvirt.is_awaited() {
            self.progress.show_wait(LIBVIRT_FIGURES);
            return true;
        }
        let here = self.recorder.live();
        let there = clock::now().map(|now| self.peers.live(now)).unwrap_or_default();
        let is_one = here.is_some() || !there.is_empty();
        self.progress.show(here, there);
        is_one
    }
}

/// The records of what this host and its peers have seen. A host whose facts do not belong to those of the others has seen
/// nothing of the migration; a message says so of a peer.
fn merged(own: Timeline, peers: Vec<(String, Timeline)>) -> Vec<Record> {
    let (mut names, mut hosts): (Vec<_>, Vec<_>) = peers.into_iter().unzip();
    names.insert(0, LOCAL.to_owned());
    hosts.insert(0, own);
    let mut left_out = Vec::new();
    let records = loop {
        match timeline::merged(&hosts) {
            Ok(records) => break records,
            Err(NotTogether { host, why, .. }) => {
                hosts.remove(host);
                left_out.push((names.remove(host), why));
            }
        }
    };
    let of_peers = left_out.iter().filter(|(name, _)| name != LOCAL && !records.is_empty());
    for (name, why) in of_peers {
        say(&format!("migtrace: what {name} has seen is left out: {why}"));
    }
    records
}

/// The migration that was waited for: the first that ended, or else the one that still runs.
fn awaited(mut records: Vec<Record>) -> Vec<Record> {
    let ended = records.iter().position(|record| record.migration.outcome != Outcome::Interrupted);
    match ended.or_else(|| records.len().checked_sub(1)) {
        Some(index) => vec![records.swap_remove(index)],
        None => Vec::new(),
    }
}
