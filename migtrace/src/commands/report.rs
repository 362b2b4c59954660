//! `migtrace report`: shows a record, or replays an event log.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use migtrace::event::{LogError, LogErrorKind, LogReader};
use migtrace::record::{self, Record};
use migtrace::report;
use migtrace::selection::Selection;
use migtrace::timeline::Timeline;

use super::Exit;
use super::destination::Destination;
use crate::cli::{Format, Report};

pub(super) fn run(options: &Report) -> Result<Exit> {
    let content = read(&options.file)?;
    let (records, broken) = records(options, &content)?;
    let destination = Destination::open(options.output.output.as_deref())?;
    destination.write(&render(&records, options.output.format())?)?;
    match broken {
        Some(broken) => {
            eprintln!("migtrace: {}: {broken}; what precedes it is reported", options.file.display());
            Ok(Exit::CouldNot)
        }
        None => Ok(Exit::Done),
    }
}

/// The file's content. A damaged one need not be text, and its first part is worth reading all the same.
fn read(path: &Path) -> Result<Vec<u8>> {
    if path == Path::new("-") {
        let mut content = Vec::new();
        io::stdin().read_to_end(&mut content).context("cannot read standard input")?;
        return Ok(content);
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The records of a file, and what is wrong with its last part.
fn records(options: &Report, content: &[u8]) -> Result<(Vec<Record>, Option<String>)> {
    // A record is one JSON value with its schema's name; an event log never is, not even with one line.
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(content)
        && value.get("event").is_none()
    {
        return Ok((vec![record(options, value)?], None));
    }
    let selection = Selection::new(options.vm.clone(), None);
    let mut timeline = Timeline::new(selection);
    let mut broken = None;
    let mut events = 0;
    for event in LogReader::new(content) {
        match event {
            Ok(event) => {
                timeline.push(&event);
                events += 1;
            }
            Err(LogError { what: LogErrorKind::NotALog(why), .. }) if events == 0 => {
                bail!(
                    "{} is neither a whole record nor an event log of migtrace: {why}",
                    options.file.display()
                );
            }
            Err(error) if events == 0 => {
                return Err(error).with_context(|| format!("cannot read {}", options.file.display()));
            }
            Err(error) => broken = Some(error.to_string()),
        }
    }
    let records = timeline.finish();
    if records.is_empty() {
        let why = broken.map(|broken| format!("; {broken}")).unwrap_or_default();
        let whose = options.vm.as_ref().map(|vm| format!(" of {vm}")).unwrap_or_default();
        bail!("{}: {events} events, but no migration{whose} among them{why}", options.file.display());
    }
    Ok((records, broken))
}

fn record(options: &Report, value: serde_json::Value) -> Result<Record> {
    match value.get("schema").and_then(serde_json::Value::as_str) {
        Some(record::SCHEMA) => serde_json::from_value(value)
            .with_context(|| format!("{} is no valid record", options.file.display())),
        Some(other) => bail!(
            "{} says that its schema is `{other}`, and this migtrace reads `{}` only",
            options.file.display(),
            record::SCHEMA
        ),
        None => bail!("{} is neither a record nor an event log of migtrace", options.file.display()),
    }
}

/// The reports of several records, one after the other; JSON gives one record a document.
pub(super) fn render(records: &[Record], format: Format) -> Result<String> {
    let rendered: Result<Vec<String>, _> = records
        .iter()
        .map(|record| match format {
            Format::Text => Ok(report::text::render(record)),
            Format::Json => report::json(record),
        })
        .collect();
    Ok(rendered.context("cannot write the record as JSON")?.join("\n"))
}
