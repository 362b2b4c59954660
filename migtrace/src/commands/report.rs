//! `migtrace report`: shows records, and replays event logs into their records.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use migtrace::event::{LogError, LogErrorKind, LogReader};
use migtrace::export;
use migtrace::record::{self, Record};
use migtrace::report;
use migtrace::schema::ReadError;
use migtrace::selection::Selection;
use migtrace::timeline::Timeline;
use serde_json::Value;

use super::Exit;
#[cfg(feature = "otlp")]
use super::otlp::{Export, News, json_lines};
use super::output::{Rendered, ReportOutput};
use crate::cli::{OtlpArgs, OutputArgs, RecordFormat, ReportArgs};
use crate::streams::{Stream, say};

pub(super) fn run(options: &ReportArgs) -> Result<Exit> {
    #[cfg(feature = "otlp")]
    let export = Export::start(&options.otlp, News::Old)?;
    let mut records = Vec::new();
    let mut broken = Vec::new();
    let mut empty = Vec::new();
    for file in &options.files {
        match read(file, options.vm.as_ref())? {
            Read::Records { records: read, broken: found } => {
                records.extend(read);
                broken.extend(found.map(|found| (file, found)));
            }
            Read::None(why) => empty.push(why),
        }
    }
    // Of several files, some may be of other VMs than the one that was asked for.
    if records.is_empty() || options.vm.is_none() && !empty.is_empty() {
        bail!("{}", empty.join("; "));
    }
    let output = open(&options.output, Stream::Output)?;
    output.write(&render(&records, options.output.format(), &options.otlp)?)?;
    for (file, broken) in &broken {
        say_broken(file, broken);
    }
    #[cfg(feature = "otlp")]
    if let Some(export) = export {
        export.finish(&records)?;
    }
    Ok(if broken.is_empty() { Exit::Done } else { Exit::CouldNot })
}

/// What was read of a file.
enum Read {
    Records {
        records: Vec<Record>,
        /// What is wrong with its last part.
        broken: Option<String>,
    },
    /// No record that was asked for: says what there is instead.
    None(String),
}

/// The records of a file. A log can be far larger than its record, so it is read line by line.
fn read(path: &Path, vm: Option<&String>) -> Result<Read> {
    let cannot = || format!("cannot read {}", path.display());
    let file: Box<dyn io::Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).with_context(cannot)?)
    };
    let mut file = BufReader::new(file);
    let mut head = Vec::new();
    (&mut file).take(LONGEST_HEAD_BYTES).read_until(b'\n', &mut head).with_context(cannot)?;
    let mut file = io::Cursor::new(head).chain(file);
    if !begins_record(file.get_ref().0.get_ref()) {
        return replayed_records(path, vm, file);
    }
    let mut content = Vec::new();
    file.read_to_end(&mut content).with_context(cannot)?;
    written_records(path, vm, &content)
}

/// Far longer than the first line of a log.
const LONGEST_HEAD_BYTES: u64 = 16 << 20;

/// Whether a first line is, or begins, a record. A record is a JSON value on one or several lines. A line of an event log is
/// complete, and has the key `event`.
fn begins_record(first_line: &[u8]) -> bool {
    match serde_json::Deserializer::from_slice(first_line).into_iter::<Value>().next() {
        Some(Ok(value)) => value.get("event").is_none(),
        Some(Err(error)) => error.is_eof() && first_line.ends_with(b"\n"),
        None => false,
    }
}

/// Records that follow each other, on one line each or indented.
fn written_records(path: &Path, vm: Option<&String>, content: &[u8]) -> Result<Read> {
    let mut records = Vec::new();
    let mut broken = None;
    for record in record::read(content) {
        match record {
            Ok(record) => records.push(record),
            Err(error) if records.is_empty() => bail!("{}", refusal(path, &error)),
            Err(error) => {
                broken = Some(format!("record {}: {error}", records.len() + 1));
                break;
            }
        }
    }
    let read = records.len();
    let selection = Selection::new(vm.cloned(), None);
    records.retain(|record| selection.matches_vm(record.vm.name.as_deref(), record.vm.uuid.as_deref()));
    if records.is_empty() {
        let why = broken.map(|broken| format!("; {broken}")).unwrap_or_default();
        return Ok(Read::None(format!("{}: {read} records, but none{}{why}", path.display(), whose(vm))));
    }
    Ok(Read::Records { records, broken })
}

/// Of which VM there should have been a migration.
pub(super) fn whose(vm: Option<&String>) -> String {
    vm.map(|vm| format!(" of {vm}")).unwrap_or_default()
}

/// Says that the end of a file is damaged.
pub(super) fn say_broken(file: &Path, broken: &str) {
    say(&format!("migtrace: {}: {broken}; what precedes it is reported", file.display()));
}

/// An event log, folded.
pub(super) struct Replayed {
    pub(super) timeline: Timeline,
    pub(super) events: u64,
    /// What is wrong with its last part.
    pub(super) broken: Option<String>,
}

/// Folds an event log. The error says why there is not a single event.
pub(super) fn replay(vm: Option<String>, content: impl BufRead) -> Result<Replayed, LogError> {
    let timeline = Timeline::new(Selection::new(vm, None));
    let mut replayed = Replayed { timeline, events: 0, broken: None };
    for event in LogReader::new(content) {
        match event {
            Ok(event) => {
                replayed.timeline.push(&event);
                replayed.events += 1;
            }
            Err(error) if replayed.events == 0 => return Err(error),
            Err(error) => replayed.broken = Some(error.to_string()),
        }
    }
    Ok(replayed)
}

/// The records that an event log replays into.
fn replayed_records(path: &Path, vm: Option<&String>, content: impl BufRead) -> Result<Read> {
    let replayed = replay(vm.cloned(), content).map_err(|error| match error.what {
        LogErrorKind::NotALog(why) => {
            anyhow!("{} is neither a complete record nor an event log of migtrace: {why}", path.display())
        }
        _ => anyhow::Error::new(error).context(format!("cannot read {}", path.display())),
    });
    let Replayed { timeline, events, broken } = replayed?;
    let records = timeline.finish();
    if records.is_empty() {
        let why = broken.map(|broken| format!("; {broken}")).unwrap_or_default();
        let whose = whose(vm);
        let none = format!("{}: {events} events, but no migration{whose} among them{why}", path.display());
        return Ok(Read::None(none));
    }
    Ok(Read::Records { records, broken })
}

/// Why nothing of a file is shown.
fn refusal(path: &Path, error: &ReadError) -> String {
    let path = path.display();
    match error {
        ReadError::NoJson(error) => {
            format!("{path} is neither a complete record nor an event log of migtrace: {error}")
        }
        ReadError::NoSchema => format!("{path} is neither a record nor an event log of migtrace"),
        ReadError::Invalid(error) => format!("{path} is not a valid record: {error}"),
        other => format!("{path} says that {other}"),
    }
}

/// Where the report of records goes. A format that is not text goes to no terminal.
pub(super) fn open(options: &OutputArgs<RecordFormat>, otherwise: Stream) -> Result<ReportOutput> {
    let output = ReportOutput::open(options.output.as_deref(), otherwise)?;
    match options.format() {
        #[cfg(feature = "perfetto")]
        RecordFormat::Perfetto => output.refuse_terminal(),
        _ => Ok(output),
    }
}

/// The reports of several records, one after the other. As JSON, several are JSON Lines; as a page or a trace, they are one.
pub(super) fn render(
    records: &[Record],
    format: RecordFormat,
    #[cfg_attr(not(feature = "otlp"), expect(unused_variables, reason = "it is empty"))] otlp: &OtlpArgs,
) -> Result<Rendered> {
    Ok(Rendered::Text(match format {
        RecordFormat::Text => records.iter().map(report::text::render).collect::<Vec<_>>().join("\n"),
        RecordFormat::Html => report::html::render(records),
        RecordFormat::Json => {
            let json = if records.len() == 1 { report::json } else { report::json_line };
            let rendered: Result<String, _> = records.iter().map(json).collect();
            rendered.context("cannot write the record as JSON")?
        }
        #[cfg(feature = "otlp")]
        RecordFormat::OtlpJson => json_lines(records, otlp)?,
        #[cfg(feature = "openmetrics")]
        RecordFormat::Openmetrics => export::openmetrics::past(records)?,
        #[cfg(feature = "perfetto")]
        RecordFormat::Perfetto => return Ok(Rendered::Binary(export::perfetto::render(records))),
        RecordFormat::Chrome => export::chrome::render(records),
    }))
}
