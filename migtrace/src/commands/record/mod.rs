//! `migtrace record`: waits for the next migration and records it, with peers or alone.

mod event_log;
mod libvirt_figures;
mod logs;
mod peers;
mod qemu_figures;
mod recording;
pub(super) mod serve;
mod setup;
mod time_limits;
mod verdict;

use anyhow::{Result, bail};
use migtrace::host::capabilities::Capability;

use self::logs::{Logs, Places};
pub(super) use self::setup::{absent, describe_host, start_tracer};
use self::verdict::Verdict;
#[cfg(feature = "otlp")]
use super::otlp::{Export, News};
use super::output::OutputPath;
use super::report::{open, render};
use super::signals::Signals;
use super::{Exit, check_privileges, runtime_that_catches};
use crate::cli::{LOCAL, RecordArgs};
use crate::streams::{Stream, say};

pub(super) fn run(options: &RecordArgs) -> Result<Exit> {
    let prober = prober(options)?;
    check_needed(prober == Some(LOCAL))?;
    #[cfg(feature = "otlp")]
    let export = Export::start(&options.otlp, News::New)?;
    // Before there are files that a signal would leave behind.
    let (runtime, signals) = runtime_that_catches(Signals::catch)?;
    let places = Places::of(options)?;
    // A report among the lines of an event log would damage it.
    let otherwise = if places.local == Some(OutputPath::Stdout) { Stream::Error } else { Stream::Output };
    let output = open(&options.output, otherwise)?;
    let logs = Logs::open(&places)?;
    let recorded = runtime.block_on(recording::record(options, prober, logs, signals));
    // A peer may still have its connection.
    runtime.shutdown_background();
    let recorded = recorded?;
    if recorded.records.is_empty() {
        bail!("no migration was seen{}", recorded.why_none());
    }
    output.write(&render(&recorded.records, options.output.format(), &options.otlp)?)?;
    let verdict = Verdict::of(options, &recorded.records);
    for why in &verdict.why {
        say(&format!("migtrace: {why}"));
    }
    #[cfg(feature = "otlp")]
    if let Some(export) = export {
        export.finish(&recorded.records)?;
    }
    recorded.log_failure.map_or(Ok(verdict.exit), Err)
}

/// Checks that this process may record and, if it has to, ping.
fn check_needed(probes: bool) -> Result<()> {
    check_privileges(&Capability::NEEDED)?;
    if probes { check_privileges(&Capability::NEEDED_TO_PROBE) } else { Ok(()) }
}

/// The host that pings the guest, if one does: a peer's name, or [`LOCAL`].
fn prober(options: &RecordArgs) -> Result<Option<&str>> {
    if options.probe.probe.is_none() {
        return Ok(None);
    }
    let peers = &options.peers.peers;
    let Some(wanted) = &options.probe_from else {
        // The two ends are this host and one peer. Who names more adds observers, the last of them last.
        let last = peers.last().filter(|_| peers.len() > 1);
        return Ok(Some(last.map_or(LOCAL, |peer| peer.host.as_str())));
    };
    let named = peers.iter().find(|peer| peer.given == *wanted || peer.host == *wanted);
    match named {
        Some(peer) => Ok(Some(&peer.host)),
        None if wanted == LOCAL => Ok(Some(LOCAL)),
        None => bail!("--probe-from {wanted}: there is no --peer {wanted}; name one of them, or `{LOCAL}`"),
    }
}
