//! `migtrace record`: waits for the next migration and records it.

mod event_log;
mod qemu_figures;
mod recording;
mod time_limits;
mod verdict;

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use migtrace::host::capabilities::Capability;

use self::event_log::EventLog;
use self::verdict::Verdict;
use super::output::{Links, OutputPath, ReportOutput};
use super::report::render;
use super::signals::Signals;
use super::{Exit, check_privileges};
use crate::cli::RecordArgs;
use crate::streams::{Stream, say};

pub(super) fn run(options: &RecordArgs) -> Result<Exit> {
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
    let events = events_path(options)?;
    // A report among the lines of an event log would damage it.
    let otherwise = if events == Some(OutputPath::Stdout) { Stream::Error } else { Stream::Output };
    let output = ReportOutput::open(options.output.output.as_deref(), otherwise)?;
    let log = EventLog::open(events.as_ref())?;
    let recorded = runtime.block_on(recording::record(options, log, signals))?;
    if recorded.records.is_empty() {
        bail!("no migration was seen{}", recorded.why_none());
    }
    output.write(&render(&recorded.records, options.output.format())?)?;
    let verdict = Verdict::of(options, &recorded.records);
    for why in &verdict.why {
        say(&format!("migtrace: {why}"));
    }
    recorded.log_failure.map_or(Ok(verdict.exit), Err)
}

/// Where the events are written to. Two files that would overwrite each other are refused.
fn events_path(options: &RecordArgs) -> Result<Option<OutputPath>> {
    let Some(path) = &options.events else { return Ok(None) };
    let cannot = |path: &Path| format!("cannot write to {}", path.display());
    let events = OutputPath::of(path, Links::Follow).with_context(|| cannot(path))?;
    if let Some(path) = &options.output.output {
        let output = OutputPath::of(path, Links::Replace).with_context(|| cannot(path))?;
        if events == OutputPath::Stdout && output == OutputPath::Stdout {
            bail!("--output and --events both go to standard output: give one of them a file");
        }
        let others = output.names();
        if events == output || events.names().iter().any(|name| others.contains(name)) {
            bail!("--output and --events name the same file: give each its own");
        }
    }
    Ok(Some(events))
}
