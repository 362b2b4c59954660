//! One recording: from attaching to the record of the migration that was waited for.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, bail};
use migtrace::event::{EndReason, Event, Fact, InstrumentStatus};
use migtrace::kernel::Settings;
use migtrace::probe::{ProbeOptions, Prober};
use migtrace::record::{Outcome, Record};
use migtrace::recorder::Recorder;
use migtrace::selection::{NoSuchVm, Selection};
use migtrace::tracer::Tracer;
use migtrace::vocabulary::NotMeasured;
use tokio::time::Instant;

use super::event_log::EventLog;
use super::qemu_figures::{QemuFigures, discard_events};
use crate::cli::RecordArgs;
use crate::commands::probe;
use crate::commands::progress::Progress;
use crate::commands::signals::Signals;

/// How often the live line changes during a migration.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// How often it changes before a migration.
const SHOW_WAITING_EVERY: Duration = Duration::from_secs(1);

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
    mut log: EventLog,
    mut signals: Signals,
) -> Result<Recorded> {
    let tracer = start_tracer(options)?;
    let selection = Selection::new(options.vm.clone(), options.pid);
    let absent = absent(&tracer, &selection)?;
    let mut recorder = Recorder::new(tracer, selection);
    // Whatever can fail comes before an earlier log or report is replaced.
    let probed = start_probe(options, &mut recorder).await?;
    let mut figures = match &options.qmp {
        Some(path) => Some(QemuFigures::connect(path, &mut recorder).await?),
        None => None,
    };
    let mut progress = Progress::new();
    // The first event is there at once, and shows that the log can be written before the wait.
    let first = recorder.next().await?;
    log.begin(first.as_ref())?;
    describe(&recorder, &progress);
    if let Some((absent, vm)) = absent.zip(options.vm.as_ref()) {
        progress.say(&format!("waiting for `{vm}`; {}", absent.others()));
    }
    if let Some((target, interface)) = probed {
        describe_probe(target, &interface, &recorder, &progress);
    }
    progress.say("ready");

    let timeout = options.timeout.unwrap_or(Duration::MAX);
    let running = Running { recorder: &mut recorder, log: &mut log, figures: &mut figures };
    let reason = running.until_the_end(&mut progress, &mut signals, timeout).await?;
    progress.end();
    if let Some(figures) = &mut figures {
        figures.ask_once(&mut recorder).await?;
    }
    recorder.end_probe().await?;
    let (events, records) = recorder.finish(reason)?;
    for event in &events {
        log.write(event);
    }
    Ok(Recorded { records: awaited(records), reason, log_failure: log.end() })
}

fn start_tracer(options: &RecordArgs) -> Result<Tracer> {
    let settings = Settings::default()
        .ports(options.ports.clone())
        .tunnels(options.decapsulate.clone())
        .flow_capacity(options.flow_capacity)
        .attach(options.attach.into());
    let tracer = Tracer::builder()
        .settings(settings)
        .interfaces(options.interfaces.iter().cloned())
        .qemu_binaries(options.qemu_binaries.iter().cloned())
        .start()?;
    Ok(tracer)
}

/// Checks that the selected VM is here, or can be waited for. Returns the one to wait for.
fn absent(tracer: &Tracer, selection: &Selection) -> Result<Option<NoSuchVm>> {
    let present: Vec<_> = tracer.qemus().cloned().collect();
    selection.is_of_one_user(&present)?;
    match selection.of(&present) {
        // A later process with this number need not be the one that is meant.
        Err(absent) if absent.wanted.pid.is_some() => {
            match absent.wanted.pid.and_then(|pid| tracer.why_not_traced(pid)) {
                Some(why) => bail!("{absent}; {why}"),
                None => bail!("{absent}; only a VM can be waited for (--vm)"),
            }
        }
        present => Ok(present.err()),
    }
}

/// Begins to ping the guest, if that was requested. Returns the address, and the interface at which it is watched.
async fn start_probe(options: &RecordArgs, recorder: &mut Recorder) -> Result<Option<(IpAddr, String)>> {
    let Some(target) = &options.probe else { return Ok(None) };
    let target = probe::resolve(target, false)?;
    let mut wanted = ProbeOptions::new(target);
    wanted.interval = Some(options.probe_interval);
    wanted.attach = options.attach.into();
    let prober = Prober::start(wanted).await?;
    let interface = prober.interface().to_owned();
    recorder.probe(prober).await?;
    Ok(Some((target, interface)))
}

/// A recording that has begun.
struct Running<'a> {
    recorder: &'a mut Recorder,
    log: &'a mut EventLog,
    figures: &'a mut Option<QemuFigures>,
}

impl Running<'_> {
    /// Records until the migration has ended, a signal comes or the time is over.
    async fn until_the_end(
        mut self,
        progress: &mut Progress,
        signals: &mut Signals,
        timeout: Duration,
    ) -> Result<EndReason> {
        let mut next_show = Instant::now();
        let timeout = tokio::time::sleep(timeout);
        tokio::pin!(timeout);
        loop {
            tokio::select! {
                event = self.recorder.next() => match event? {
                    Some(event) => {
                        next_show = next_show.min(Instant::now() + SHOW_EVERY);
                        self.take(&event, progress).await?;
                    }
                    None => return Ok(EndReason::MigrationEnded),
                },
                () = signals.any() => return Ok(EndReason::Interrupted),
                () = &mut timeout => return Ok(EndReason::TimedOut),
                () = discard_events(self.figures.as_mut()) => {}
                () = tokio::time::sleep_until(next_show), if progress.is_seen() => {
                    let live = self.recorder.live();
                    next_show = Instant::now() + if live.is_some() { SHOW_EVERY } else { SHOW_WAITING_EVERY };
                    progress.show(live);
                }
            }
        }
    }

    async fn take(&mut self, event: &Event, progress: &Progress) -> Result<()> {
        self.log.write(event);
        if let Fact::NotMeasured(NotMeasured { what, why }) = &event.fact {
            progress.say(&format!("not measured: {what}: {why}"));
        }
        // Now, because whoever manages the source's QEMU is about to end it.
        if let Some(figures) = self.figures.as_mut().filter(|_| self.recorder.has_ended()) {
            figures.ask_once(self.recorder).await?;
        }
        Ok(())
    }
}

/// Prints counted interfaces and traced VMs.
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

fn describe_probe(target: IpAddr, interface: &str, recorder: &Recorder, progress: &Progress) {
    let whose = recorder.probed().map_or_else(String::new, |qemu| {
        format!(" of {} (pid {})", qemu.name.as_deref().unwrap_or("(no name)"), qemu.pid)
    });
    progress.say(&format!("pinging {target}{whose} at {interface}"));
}

/// The migration that was waited for: the first that ended, or else the one that still runs.
fn awaited(mut records: Vec<Record>) -> Vec<Record> {
    let ended = records.iter().position(|record| record.migration.outcome != Outcome::Interrupted);
    match ended.or_else(|| records.len().checked_sub(1)) {
        Some(index) => vec![records.swap_remove(index)],
        None => Vec::new(),
    }
}
