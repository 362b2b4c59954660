//! Sends what a command has found to an OpenTelemetry collector.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use migtrace::export::otlp::queue::{Limits, Queue};
use migtrace::export::otlp::send::{Settings, Target};
use migtrace::export::otlp::{
    ExportCounts, Exporter, Origin, ThisHost, TraceContext, json_line, trace_request,
};
use migtrace::record::Record;

use crate::cli::OtlpArgs;
use crate::streams::say;

/// What the records of a command are to a collector.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum News {
    /// Migrations that have just ended: they are counted, too.
    New,
    /// Migrations that may have been sent before.
    Old,
}

/// What sends.
pub(super) struct Export {
    exporter: Exporter,
    news: News,
    endpoint: String,
    /// How long a command that has done all else waits for the collector.
    patience: Duration,
    is_kept: bool,
}

impl Export {
    /// Begins to send, if that was asked for. What is wrong with the settings shows here, before anything is waited for.
    pub(super) fn start(options: &OtlpArgs, news: News) -> Result<Option<Self>> {
        let Some(given) = &options.otlp else { return Ok(None) };
        let given = Some(given.as_str()).filter(|given| !given.is_empty());
        let mut settings = Settings::read(variable, given)?;
        for ignored in &settings.ignored {
            say(&format!("migtrace: {ignored}"));
        }
        if news == News::Old {
            settings.metrics = None;
        }
        let Some(target) = settings.traces.as_ref().or(settings.metrics.as_ref()) else { return Ok(None) };
        let (endpoint, patience) = (shown(target), target.timeout);
        let origin = origin(options, news, &settings)?;
        let queue = match &options.otlp_queue {
            Some(directory) => Queue::in_directory(directory, Limits::default())?,
            None => Queue::in_memory(Limits::default()),
        };
        let is_kept = queue.is_kept();
        let exporter =
            Exporter::start(&settings, origin, queue, |line| say(&format!("migtrace: OTLP: {line}")))?;
        Ok(Some(Self { exporter, news, endpoint, patience, is_kept }))
    }

    /// Sends the records, and waits until that is done, but not for long.
    pub(super) fn finish(self, records: &[Record]) -> Result<()> {
        let without = records.iter().filter(|record| !self.send(record)).count();
        let ended = self.end();
        let lost = ended.lost() + without as u64;
        if lost > 0 {
            bail!(
                "{} {}; nothing else is lost: `migtrace report FILE --otlp` sends the traces of records and event \
                 logs, and --otlp-queue keeps what cannot be sent now",
                counted(lost, "did not reach", "did not reach"),
                ended.endpoint
            );
        }
        Ok(())
    }

    /// Hands a record over to what sends it. Returns whether it has a trace; a message says why not.
    pub(super) fn send(&self, record: &Record) -> bool {
        let sent = match self.news {
            News::New => self.exporter.send(record),
            News::Old => self.exporter.send_again(record),
        };
        if let Err(why) = &sent {
            say(&format!("migtrace: no trace of a migration of {}: {why}", vm(record)));
        }
        sent.is_ok()
    }

    /// Waits until everything is sent, but not for long, and says what still waits for the next time.
    pub(super) fn end(self) -> Ended {
        let Self { exporter, endpoint, patience, is_kept, .. } = self;
        let ended = Ended { counts: exporter.shutdown(patience), endpoint, is_kept };
        if ended.counts.queued > 0 && is_kept {
            let waiting = counted(ended.counts.queued, "waits", "wait");
            say(&format!("migtrace: {waiting} in --otlp-queue for {}", ended.endpoint));
        }
        ended
    }
}

/// What has become of the traces.
pub(super) struct Ended {
    pub(super) counts: ExportCounts,
    endpoint: String,
    is_kept: bool,
}

impl Ended {
    /// How many traces the collector will never have.
    pub(super) const fn lost(&self) -> u64 {
        let ExportCounts { failed, dropped, queued, .. } = self.counts;
        failed + dropped + if self.is_kept { 0 } else { queued }
    }
}

/// So many traces, and what it does or they do.
fn counted(number: u64, it: &str, they: &str) -> String {
    if number == 1 { format!("a trace {it}") } else { format!("{number} traces {they}") }
}

/// An endpoint without its query, which may be a secret.
fn shown(target: &Target) -> String {
    target.endpoint.to_string().split('?').next().unwrap_or_default().to_owned()
}

fn vm(record: &Record) -> &str {
    record.vm.name.as_deref().unwrap_or("a VM without a name")
}

/// A variable of the environment. One that is no text is as if it were not set.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// What is sent beside the records.
fn origin(options: &OtlpArgs, news: News, settings: &Settings) -> Result<Origin> {
    Ok(Origin {
        service_name: settings.service_name.clone(),
        attributes: settings.attributes.clone(),
        this_host: Some(ThisHost::read().context("cannot read this host's name")?),
        caller: options.traceparent.clone().or_else(|| inherited(news)),
    })
}

/// The context that the environment carries, if this process makes the migration's record: who replays an old one is no part of
/// what the migration was.
fn inherited(news: News) -> Option<TraceContext> {
    let traceparent = Some(news).filter(|news| *news == News::New).and_then(|_| variable("TRACEPARENT"))?;
    match TraceContext::parse(traceparent.trim()) {
        Ok(context) => Some(context.with_state(&variable("TRACESTATE").unwrap_or_default())),
        Err(why) => {
            say(&format!("migtrace: TRACEPARENT is ignored: {why}"));
            None
        }
    }
}

/// The trace of each record, on a line of its own.
pub(super) fn json_lines(records: &[Record], options: &OtlpArgs) -> Result<String> {
    let origin = Origin { caller: options.traceparent.clone(), ..Origin::default() };
    let mut lines = String::new();
    for record in records {
        match trace_request(record, &origin) {
            Ok(request) => lines += &(json_line(&request).context("cannot write the trace as JSON")? + "\n"),
            Err(why) => say(&format!("migtrace: no trace of a migration of {}: {why}", vm(record))),
        }
    }
    if lines.is_empty() {
        bail!("no trace can be made of {} records", records.len());
    }
    Ok(lines)
}
