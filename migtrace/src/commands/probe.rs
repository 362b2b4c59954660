//! `migtrace probe`: pings an address and reports when it did not answer.

use std::net::{IpAddr, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use indicatif::ProgressBar;
use migtrace::host::capabilities::Capability;
use migtrace::probe::{ProbeEndReason, ProbeOptions, ProbeReport, ProbeStatus, ProbeStep, Prober};
use migtrace::report;

use super::output::ReportOutput;
use super::signals::Signals;
use super::{Exit, check_privileges, progress, runtime};
use crate::cli::{Format, ProbeArgs};
use crate::streams::{Stream, say};

pub(super) fn run(options: &ProbeArgs) -> Result<Exit> {
    check_privileges(if options.passive {
        &Capability::NEEDED_TO_LISTEN
    } else {
        &Capability::NEEDED_TO_PROBE
    })?;
    let target = resolve(&options.target, options.ipv6)?;
    let output = ReportOutput::open(options.output.output.as_deref(), Stream::Output)?;
    let report = runtime()?.block_on(probe(options, target))?;
    let text = match options.output.format() {
        Format::Text => report::probe::render(&report),
        Format::Json => report::json(&report).context("cannot write the report as JSON")?,
    };
    output.write(&text.into())?;
    let had_an_end = options.count.is_some() || options.duration.is_some() || options.until_gap;
    Ok(if report.end == ProbeEndReason::Interrupted && had_an_end {
        Exit::ProbeInterrupted
    } else {
        Exit::Done
    })
}

/// The first address of a name; with `ipv6`, its first IPv6 address.
pub(super) fn resolve(target: &str, ipv6: bool) -> Result<IpAddr> {
    let addresses: Vec<IpAddr> = match target.parse() {
        Ok(address) => vec![address],
        Err(_) => (target, 0)
            .to_socket_addrs()
            .with_context(|| format!("cannot find the address of {target}"))?
            .map(|address| address.ip())
            .collect(),
    };
    let wanted = addresses.iter().find(|address| !ipv6 || address.is_ipv6());
    wanted.copied().with_context(|| {
        if ipv6 { format!("{target} has no IPv6 address") } else { format!("{target} has no address") }
    })
}

async fn probe(options: &ProbeArgs, target: IpAddr) -> Result<ProbeReport> {
    let line = progress::line();
    line.set_message(format!("{target}: checking for loss and rate limits"));
    line.tick();
    let mut signals = Signals::catch()?;
    let started = tokio::select! {
        prober = Prober::start(settings(options, target)) => prober?,
        () = signals.any() => bail!("interrupted before the observation began"),
    };
    let mut prober = started;
    if let Some(preflight) = prober.preflight()
        && preflight.answered < preflight.sent
    {
        let (answered, sent) = (preflight.answered, preflight.sent);
        line.suspend(|| {
            say(&format!("{target} answered {answered} of {sent} requests before the observation"));
        });
    }
    line.suspend(|| say(&format!("ready: watching {target} at {}", prober.interface())));

    let timeout = tokio::time::sleep(options.duration.unwrap_or(Duration::MAX));
    tokio::pin!(timeout);
    let end = loop {
        tokio::select! {
            step = prober.next() => match step? {
                ProbeStep::Gap(_) if options.until_gap => break ProbeEndReason::Gap,
                ProbeStep::Sent => break ProbeEndReason::Count,
                _ => show(&line, target, &prober.status()?),
            },
            () = signals.any() => break ProbeEndReason::Interrupted,
            () = &mut timeout => break ProbeEndReason::Duration,
        }
    };
    line.finish_and_clear();
    Ok(prober.finish(end).await?)
}

fn settings(options: &ProbeArgs, target: IpAddr) -> ProbeOptions {
    let mut settings = ProbeOptions::new(target);
    settings.interval = (!options.passive).then_some(options.interval);
    settings.data_bytes = options.size;
    settings.count = options.count;
    settings.interface.clone_from(&options.interface);
    settings.min_gap = options.min_gap;
    settings.preflight = !options.no_preflight && !options.passive;
    settings.attach = options.attach.into();
    settings
}

fn show(line: &ProgressBar, target: IpAddr, status: &ProbeStatus) {
    let silent = status.silent_ns.map_or(String::new(), |silent_ns| {
        format!(", SILENT for {:.1} s", Duration::from_nanos(silent_ns).as_secs_f64())
    });
    let gaps = match status.gaps {
        1 => "1 gap".to_owned(),
        number => format!("{number} gaps"),
    };
    line.set_message(format!("{target}: {} sent, {} answered, {gaps}{silent}", status.sent, status.answered));
    line.tick();
}
