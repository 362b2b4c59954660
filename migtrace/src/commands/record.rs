//! `migtrace record`: waits for the next migration and records it.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::time::Instant;

use migtrace::event::{EndReason, Fact, InstrumentStatus};
use migtrace::host::capabilities::Capability;
use migtrace::kernel::Settings;
use migtrace::probe::Prober;
use migtrace::record::{Outcome, Record};
use migtrace::recorder::Recorder;
use migtrace::selection::Selection;
use migtrace::tracer::Tracer;
use migtrace::vocabulary::NotMeasured;

use super::Exit;
use super::check_privileges;
use super::client::{Client, discard_events};
use super::destination::Destination;
use super::event_log::EventLog;
use super::limits;
use super::place::{Links, Place};
use super::probe;
use super::progress::Progress;
use super::report::render;
use super::signals::Signals;
use crate::cli::{self, Tunnel};
use crate::streams::{Stream, say};

/// How often the live line changes while a migration runs.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// How often it does while one is waited for.
const SHOW_WAITING_EVERY: Duration = Duration::from_secs(1);

pub(super) fn run(options: &cli::Record) -> Result<Exit> {
    check_privileges(&Capability::NEEDED)?;
    if options.probe.is_some() {
        check_privileges(&Capability::NEEDED_TO_PROBE)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let signals = {
        let _entered = runtime.enter();
        // Before there are files that a signal would leave behind.
        Signals::catch()?
    };
    let events = events_place(options)?;
    // Between the lines of an event log a report would be damage.
    let otherwise = if events == Some(Place::Stdout) { Stream::Error } else { Stream::Output };
    let destination = Destination::open(options.output.output.as_deref(), otherwise)?;
    let log = EventLog::open(events.as_ref())?;
    let recorded = runtime.block_on(record(options, log, signals))?;
    if recorded.records.is_empty() {
        bail!("no migration was seen{}", recorded.why_none());
    }
    destination.write(&render(&recorded.records, options.output.format())?)?;
    let verdict = Verdict::of(options, &recorded.records);
    for why in &verdict.why {
        say(&format!("migtrace: {why}"));
    }
    recorded.log_failure.map_or(Ok(verdict.exit), Err)
}

/// Where the events go. Two files that would write over each other are refused.
fn events_place(options: &cli::Record) -> Result<Option<Place>> {
    let Some(path) = &options.events else { return Ok(None) };
    let cannot = |path: &Path| format!("cannot write to {}", path.display());
    let events = Place::of(path, Links::Follow).with_context(|| cannot(path))?;
    if let Some(path) = &options.output.output {
        let output = Place::of(path, Links::Replace).with_context(|| cannot(path))?;
        if events == Place::Stdout && output == Place::Stdout {
            bail!("--output and --events both go to standard output: give one of them a file");
        }
        let others = output.names();
        if events == output || events.names().iter().any(|name| others.contains(name)) {
            bail!("--output and --events name the same file: give each its own");
        }
    }
    Ok(Some(events))
}

/// What a recording gave.
struct Recorded {
    records: Vec<Record>,
    reason: EndReason,
    /// Why the event log is not whole. The records are.
    log_failure: Option<anyhow::Error>,
}

impl Recorded {
    const fn why_none(&self) -> &'static str {
        match self.reason {
            EndReason::Interrupted => " before the recording was interrupted",
            EndReason::TimedOut => " within the time of --timeout",
            _ => "",
        }
    }
}

async fn record(options: &cli::Record, mut log: EventLog, mut signals: Signals) -> Result<Recorded> {
    let tracer = Tracer::builder()
        .settings(settings(options))
        .interfaces(options.interfaces.iter().cloned())
        .qemu_binaries(options.qemu_binaries.iter().cloned())
        .start()?;
    let selection = Selection::new(options.vm.clone(), options.pid);
    let present: Vec<_> = tracer.qemus().cloned().collect();
    selection.is_of_one_user(&present)?;
    let absent = match selection.of(&present) {
        // Whoever gets this number one day need not be the one that is meant.
        Err(absent) if absent.wanted.pid.is_some() => {
            match absent.wanted.pid.and_then(|pid| tracer.why_not_traced(pid)) {
                Some(why) => bail!("{absent}; {why}"),
                None => bail!("{absent}; only a VM can be waited for (--vm)"),
            }
        }
        present => present.err(),
    };
    let mut recorder = Recorder::new(tracer, selection);
    // Whatever keeps it from beginning is said before an earlier log or report is touched.
    let asked = start_probe(options, &mut recorder).await?;
    let mut client = match &options.qmp {
        Some(path) => Some(Client::connect(path, &mut recorder).await?),
        None => None,
    };
    let mut progress = Progress::new();
    // The first event is there at once, and shows that the log can be written before anybody waits for more.
    let first = recorder.next().await?;
    log.begin(first.as_ref())?;
    describe(&recorder, &progress);
    if let Some((absent, vm)) = absent.zip(options.vm.as_ref()) {
        progress.say(&format!("waiting for `{vm}`; {}", absent.others()));
    }
    if let Some((target, interface)) = asked {
        let whose = recorder.probed().map_or_else(String::new, |qemu| {
            format!(" of {} (pid {})", qemu.name.as_deref().unwrap_or("(no name)"), qemu.pid)
        });
        progress.say(&format!("asking {target}{whose} for echo replies at {interface}"));
    }
    progress.say("ready");

    let mut next_show = Instant::now();
    let limit = options.timeout.unwrap_or(Duration::MAX);
    let timeout = tokio::time::sleep(limit);
    tokio::pin!(timeout);
    let reason = loop {
        tokio::select! {
            event = recorder.next() => match event? {
                Some(event) => {
                    next_show = next_show.min(Instant::now() + SHOW_EVERY);
                    log.write(&event);
                    if let Fact::NotMeasured(NotMeasured { what, why }) = &event.fact {
                        progress.say(&format!("not measured: {what}: {why}"));
                    }
                    // Its manager is about to end it.
                    if let Some(client) = client.as_mut().filter(|_| recorder.has_ended()) {
                        client.ask_once(&mut recorder).await?;
                    }
                }
                None => break EndReason::MigrationEnded,
            },
            () = signals.any() => break EndReason::Interrupted,
            () = &mut timeout => break EndReason::TimedOut,
            () = discard_events(client.as_mut()) => {}
            () = tokio::time::sleep_until(next_show), if progress.is_seen() => {
                let live = recorder.live();
                next_show = Instant::now() + if live.is_some() { SHOW_EVERY } else { SHOW_WAITING_EVERY };
                progress.show(live);
            }
        }
    };
    progress.end();
    if let Some(client) = &mut client {
        client.ask_once(&mut recorder).await?;
    }
    recorder.end_probe().await?;
    let (events, records) = recorder.finish(reason)?;
    for event in &events {
        log.write(event);
    }
    Ok(Recorded { records: awaited(records), reason, log_failure: log.end() })
}

/// Begins to ask the guest for echo replies, if that is wanted: which address, and at which interface.
async fn start_probe(options: &cli::Record, recorder: &mut Recorder) -> Result<Option<(IpAddr, String)>> {
    let Some(target) = &options.probe else { return Ok(None) };
    let target = probe::resolve(target, false)?;
    let mut wanted = migtrace::probe::Options::new(target);
    wanted.interval = Some(options.probe_interval);
    wanted.attach = options.attach.into();
    let prober = Prober::start(wanted).await?;
    let interface = prober.interface().to_owned();
    recorder.probe(prober).await?;
    Ok(Some((target, interface)))
}

fn settings(options: &cli::Record) -> Settings {
    Settings::default()
        .ports(options.ports.clone())
        .vxlan(options.decapsulate.contains(&Tunnel::Vxlan))
        .geneve(options.decapsulate.contains(&Tunnel::Geneve))
        .flow_capacity(options.flow_capacity)
        .attach(options.attach.into())
}

/// Says on standard error where is counted and who is traced.
fn describe(recorder: &Recorder, progress: &Progress) {
    let observation = recorder.tracer().observation();
    let interfaces: Vec<_> = observation.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    progress.say(&format!("counting TCP ports {} at {}", observation.ports, interfaces.join(", ")));
    for qemu in recorder.tracer().qemus() {
        let name = qemu.name.as_deref().unwrap_or("(no name)");
        let uuid = qemu.uuid.as_ref().map(|uuid| format!(", {uuid}")).unwrap_or_default();
        let uid = qemu.uid.map(|uid| format!(", user id {uid}")).unwrap_or_default();
        progress.say(&format!("tracing {name} (pid {}{uid}{uuid})", qemu.pid));
    }
    for instrument in
        observation.instruments.iter().filter(|instrument| instrument.status == InstrumentStatus::Missing)
    {
        let lost = instrument.lost.as_deref().unwrap_or(&instrument.observes);
        progress.say(&format!("not measured here: {lost} (`migtrace doctor` says why)"));
    }
}

/// The one migration that was waited for: the first that ended, or else the one that still runs.
fn awaited(mut records: Vec<Record>) -> Vec<Record> {
    let ended = records.iter().position(|record| record.migration.outcome != Outcome::Interrupted);
    match ended.or_else(|| records.len().checked_sub(1)) {
        Some(index) => vec![records.swap_remove(index)],
        None => Vec::new(),
    }
}

/// How the command ends, and why if that is not with success.
struct Verdict {
    exit: Exit,
    why: Vec<String>,
}

impl Verdict {
    fn of(options: &cli::Record, records: &[Record]) -> Self {
        let not_completed = |why: String| Self { exit: Exit::MigrationDidNotComplete, why: vec![why] };
        for record in records {
            match record.migration.outcome {
                Outcome::Completed | Outcome::Unknown => {}
                Outcome::Failed => {
                    let error = record.migration.error.as_ref().map(|error| format!(": {error}"));
                    return not_completed(format!("the migration failed{}", error.unwrap_or_default()));
                }
                Outcome::Cancelled => return not_completed("the migration was cancelled".into()),
                Outcome::Interrupted => {
                    return not_completed("the recording ended before the migration did".into());
                }
            }
        }
        let why: Vec<_> = records.iter().flat_map(|record| limits::not_met(options, record)).collect();
        Self { exit: if why.is_empty() { Exit::Done } else { Exit::LimitNotMet }, why }
    }
}
