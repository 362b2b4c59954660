//! `migtrace record`: waits for the next migration and records it.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use migtrace::event::{EndReason, Event, LogWriter, ProbeStatus};
use migtrace::host::capabilities::Capability;
use migtrace::kernel::Settings;
use migtrace::probe::Prober;
use migtrace::record::{Outcome, Record};
use migtrace::recorder::Recorder;
use migtrace::selection::Selection;
use migtrace::tracer::Tracer;
use tokio::signal::unix::{SignalKind, signal};

use super::Exit;
use super::check_privileges;
use super::client::{Client, discard_events};
use super::destination::{self, Destination};
use super::probe;
use super::progress::Progress;
use super::report::render;
use crate::cli::{self, Tunnel};

/// How often the live line changes.
const SHOW_EVERY: Duration = Duration::from_millis(100);

pub(super) fn run(options: &cli::Record) -> Result<Exit> {
    check_privileges(&Capability::NEEDED)?;
    if options.probe.is_some() {
        check_privileges(&Capability::NEEDED_TO_PROBE)?;
    }
    if options.events.is_some() && options.events == options.output.output {
        bail!("--output and --events name the same file: give each its own");
    }
    let destination = Destination::open(options.output.output.as_deref())?;
    let log = EventLog::create(options.events.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let recorded = runtime.block_on(record(options, log));
    match recorded {
        Ok(recorded) if recorded.records.is_empty() => {
            destination.abandon();
            bail!("no migration was seen{}", recorded.why_none())
        }
        Ok(recorded) => {
            destination.write(&render(&recorded.records, options.output.format())?)?;
            let verdict = Verdict::of(options, &recorded.records);
            if let Some(why) = &verdict.why {
                eprintln!("migtrace: {why}");
            }
            recorded.log_failure.map_or(Ok(verdict.exit), Err)
        }
        Err(error) => {
            destination.abandon();
            Err(error)
        }
    }
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
            EndReason::MigrationEnded => "",
        }
    }
}

async fn record(options: &cli::Record, mut log: EventLog) -> Result<Recorded> {
    let tracer = Tracer::builder()
        .settings(settings(options))
        .interfaces(options.interfaces.iter().cloned())
        .start()?;
    let selection = Selection::new(options.vm.clone(), options.pid);
    let present: Vec<_> = tracer.qemus().cloned().collect();
    selection.of(&present)?;
    let mut recorder = Recorder::new(tracer, selection);
    let prober = start_probe(options).await?;
    let mut client = match &options.qmp {
        Some(path) => Some(Client::connect(path, &mut recorder).await?),
        None => None,
    };
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut progress = Progress::new();
    // The first event is there at once, and shows that the log can be written before anybody waits for more.
    if let Some(event) = recorder.next().await? {
        log.write(&event);
    }
    if let Some(failure) = log.failure.take() {
        return Err(failure);
    }
    describe(&recorder, &progress);
    if let Some(prober) = prober {
        let (target, interface) = (prober.target(), prober.interface());
        progress.say(&format!("asking {target} for echo replies at {interface}"));
        recorder.probe(prober)?;
    }
    progress.say("ready");

    let mut show = tokio::time::interval(SHOW_EVERY);
    let limit = options.timeout.unwrap_or(Duration::MAX);
    let timeout = tokio::time::sleep(limit);
    tokio::pin!(timeout);
    let reason = loop {
        tokio::select! {
            event = recorder.next() => match event? {
                Some(event) => {
                    log.write(&event);
                    // Its manager is about to end it.
                    if let Some(client) = client.as_mut().filter(|_| recorder.has_ended()) {
                        client.ask_once(&mut recorder).await?;
                    }
                }
                None => break EndReason::MigrationEnded,
            },
            _ = interrupt.recv() => break EndReason::Interrupted,
            _ = terminate.recv() => break EndReason::Interrupted,
            () = &mut timeout => break EndReason::TimedOut,
            () = discard_events(client.as_mut()) => {}
            _ = show.tick() => progress.show(|| recorder.live()),
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
    Ok(Recorded { records: awaited(records), reason, log_failure: log.failure })
}

/// Begins to ask the guest for echo replies, if that is wanted.
async fn start_probe(options: &cli::Record) -> Result<Option<Prober>> {
    let Some(target) = &options.probe else { return Ok(None) };
    let target = probe::resolve(target, false)?;
    let mut wanted = migtrace::probe::Options::new(target);
    wanted.interval = Some(options.probe_interval);
    wanted.attach = options.attach.into();
    Ok(Some(Prober::start(wanted).await?))
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
        progress.say(&format!("tracing {name} (pid {}{uuid})", qemu.pid));
    }
    for probe in observation.probes.iter().filter(|probe| probe.status == ProbeStatus::Missing) {
        let lost = probe.lost.as_deref().unwrap_or(&probe.observes);
        progress.say(&format!("not measured here: {lost} (`migtrace doctor` tells why)"));
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
    why: Option<String>,
}

impl Verdict {
    fn of(options: &cli::Record, records: &[Record]) -> Self {
        let not_completed = |why: String| Self { exit: Exit::MigrationDidNotComplete, why: Some(why) };
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
        match records.iter().find_map(|record| exceeded(options, record)) {
            Some(why) => Self { exit: Exit::LimitExceeded, why: Some(why) },
            None => Self { exit: Exit::Done, why: None },
        }
    }
}

/// The first limit that a migration exceeded, or may have. What is not known is not below any limit.
fn exceeded(options: &cli::Record, record: &Record) -> Option<String> {
    let downtime = &record.downtime;
    let limits = [
        (options.max_total, "--max-total", "the migration", &record.total_time),
        (options.max_stop, "--max-stop", "the stop", &downtime.stop),
        (options.max_reachability, "--max-reachability", "the reachability gap", &downtime.reachability),
    ];
    limits.into_iter().find_map(|(limit, option, what, measured)| {
        let limit = limit?;
        let Some(measured) = measured else {
            return Some(format!("{what} was not measured (the report says why), so {option} is not met"));
        };
        let took = Duration::from_nanos(measured.value_ns);
        if took > limit {
            return Some(format!("{what} took {took:.3?}, more than the {limit:?} of {option}"));
        }
        measured.high_ns.is_none().then(|| {
            format!(
                "{what} took {took:.3?} or longer (the report says why), so {option} is not known to be met"
            )
        })
    })
}

/// The event log, if one is wanted. When it cannot be written any more, the recording goes on without it.
struct EventLog {
    writer: Option<LogWriter<File>>,
    name: String,
    failure: Option<anyhow::Error>,
}

impl EventLog {
    fn create(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else {
            return Ok(Self { writer: None, name: String::new(), failure: None });
        };
        let name = path.display().to_string();
        let create = || {
            let mut file = File::create(path)?;
            if file.metadata()?.is_file() {
                destination::prove_room(&mut file)?;
            }
            Ok::<_, io::Error>(file)
        };
        let file = create().with_context(|| format!("cannot write to {name}"))?;
        Ok(Self { writer: Some(LogWriter::new(file)), name, failure: None })
    }

    fn write(&mut self, event: &Event) {
        let Some(writer) = &mut self.writer else { return };
        if let Err(error) = writer.write(event) {
            let lines = writer.lines();
            self.fail(error, lines);
        }
    }

    fn fail(&mut self, error: io::Error, lines: u64) {
        let what = if lines == 0 {
            format!("cannot write to {}", self.name)
        } else {
            eprintln!(
                "migtrace: cannot write to {}: {error}; it ends after {lines} events, the recording goes on",
                self.name
            );
            format!("the event log {} is not whole", self.name)
        };
        self.failure = Some(anyhow::Error::new(error).context(what));
        self.writer = None;
    }
}
