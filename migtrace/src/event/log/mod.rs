//! The event log: one JSON object a line, the first of them [`Fact::LogStart`].

use std::io::{self, BufRead, Read, Write};

use super::fact::{Event, Fact};
use crate::schema::{self, ReadError};
use crate::terminal;
use crate::units::MonotonicNs;

#[cfg(test)]
mod tests;

/// The schema name that the first line of every event log carries.
pub const SCHEMA: &str = "migtrace.events/1";

/// No fact is nearly this long. A longer line is damage, and reading all of it could exhaust the memory.
pub(crate) const LONGEST_LINE_BYTES: u64 = 1 << 20;

/// Writes an event log, line by line.
///
/// Every line reaches the writer below and is flushed before [`LogWriter::write`] returns, so the log holds
/// everything that was seen if the process dies.
#[derive(Debug)]
pub struct LogWriter<W> {
    inner: W,
    lines: u64,
    broken: bool,
}

impl<W: Write> LogWriter<W> {
    /// Writes to `inner`, which need not be buffered.
    pub const fn new(inner: W) -> Self {
        Self { inner, lines: 0, broken: false }
    }

    /// Appends one event.
    ///
    /// # Errors
    /// The writer's own error. After one, the log may end with part of a line. Every later call fails too, so nothing
    /// is appended to a torn line, and the lines before it stay readable.
    pub fn write(&mut self, event: &Event) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other(format!(
                "the event log ends after line {}: an earlier write failed",
                self.lines
            )));
        }
        let mut line = terminal::clean_json(&serde_json::to_string(event)?).into_owned();
        line.push('\n');
        let written = self.inner.write_all(line.as_bytes()).and_then(|()| self.inner.flush());
        match written {
            Ok(()) => self.lines += 1,
            Err(_) => self.broken = true,
        }
        written
    }

    /// The number of lines that were written whole.
    pub const fn lines(&self) -> u64 {
        self.lines
    }

    /// The writer below.
    pub(crate) const fn get_mut(&mut self) -> &mut W {
        &mut self.inner
    }

    /// Gives the writer back.
    pub fn into_inner(self) -> W {
        self.inner
    }
}

/// Reads an event log: an iterator of events that ends after the first error.
///
/// The events before the error are whole and usable; the error names the line. An event of a kind that this version
/// does not know is not an error: [`Fact::NotUnderstood`] stands for it.
#[derive(Debug)]
pub struct LogReader<R> {
    inner: R,
    lines: Lines,
    ended: bool,
}

/// Understands the lines of an event log, wherever they come from.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    /// The number of the latest line, counted from 1.
    latest: u64,
}

/// What is wrong with an event log, and in which line.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct LogError {
    /// The line, counted from 1.
    pub line: u64,
    /// What is wrong with it.
    pub what: LogErrorKind,
}

/// What can be wrong with an event log.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum LogErrorKind {
    /// It cannot be read.
    #[error("cannot read the event log: {0}")]
    Io(#[from] io::Error),
    /// There is not a single line.
    #[error("the event log is empty")]
    Empty,
    /// It does not begin as an event log does.
    #[error("this is not an event log: the first line must be the `log_start` event of `{SCHEMA}`: {0}")]
    NotALog(String),
    /// It was written by another version of migtrace.
    #[error(
        "this is an event log, but its schema is `{0}`, and this migtrace reads only `{SCHEMA}`: \
         read the log with the version that wrote it"
    )]
    UnknownSchema(String),
    /// The last line has no end: the recording was killed in the middle of a write, or the disk was full.
    #[error("the last line is cut off, so the recording did not end properly; all lines before it are whole")]
    Truncated,
    /// The line is whole, but not an event.
    #[error("not an event: {0}")]
    Corrupt(String),
}

impl<R: BufRead> LogReader<R> {
    /// Reads from `inner`.
    pub const fn new(inner: R) -> Self {
        Self { inner, lines: Lines { latest: 0 }, ended: false }
    }

    fn read(&mut self) -> Result<Option<Event>, LogErrorKind> {
        let mut line = Vec::new();
        (&mut self.inner).take(LONGEST_LINE_BYTES + 1).read_until(b'\n', &mut line)?;
        self.lines.event(&line)
    }
}

impl Lines {
    /// The event in the next line, which has its line end unless it is cut off; none in the empty line at the end. A reader
    /// need not read a line further than one byte beyond [`LONGEST_LINE_BYTES`].
    pub(crate) fn event(&mut self, line: &[u8]) -> Result<Option<Event>, LogErrorKind> {
        self.latest += 1;
        if line.is_empty() {
            return if self.latest == 1 { Err(LogErrorKind::Empty) } else { Ok(None) };
        }
        if line.len() as u64 > LONGEST_LINE_BYTES {
            let why = format!("longer than {LONGEST_LINE_BYTES} bytes");
            return Err(if self.latest == 1 {
                LogErrorKind::NotALog(why)
            } else {
                LogErrorKind::Corrupt(why)
            });
        }
        let whole = line.last() == Some(&b'\n');
        if self.latest == 1 {
            return start(line, whole).map(Some);
        }
        match serde_json::from_slice::<Event>(line) {
            Ok(Event { fact: Fact::LogStart(_), .. }) => Err(LogErrorKind::Corrupt(
                "a second `log_start`: each recording needs its own file".to_owned(),
            )),
            Ok(event) => Ok(Some(event)),
            Err(_) if !whole => Err(LogErrorKind::Truncated),
            Err(error) => match not_understood(line) {
                Some(event) => Ok(Some(event)),
                None => Err(LogErrorKind::Corrupt(without_place(&error))),
            },
        }
    }

    /// An error about the latest line.
    pub(crate) const fn error(&self, what: LogErrorKind) -> LogError {
        LogError { line: self.latest, what }
    }
}

/// What is wrong with a line, without the position in it, which would be taken for a position in the log.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

/// The event that stands for a whole line of a kind that this version does not know; `None` when its kind is known,
/// or when it is not an event at all.
fn not_understood(line: &[u8]) -> Option<Event> {
    #[derive(serde::Deserialize)]
    struct Head {
        at_ns: MonotonicNs,
        event: String,
    }
    let Head { at_ns, event: kind } = serde_json::from_slice(line).ok()?;
    (!is_known(&kind)).then_some(Event { at_ns, fact: Fact::NotUnderstood { kind } })
}

/// Whether this version knows a kind of [`Fact`], whatever else the line holds. One that has nothing but its kind is asked
/// for, since that needs no more code than reading logs does.
fn is_known(kind: &str) -> bool {
    let only_kind = serde_json::json!({ "at_ns": 0, "event": kind }).to_string();
    let refusal = serde_json::from_str::<Event>(&only_kind).err();
    !refusal.is_some_and(|refusal| refusal.to_string().starts_with("unknown variant"))
}

/// Reads the first line.
fn start(line: &[u8], whole: bool) -> Result<Event, LogErrorKind> {
    let value: serde_json::Value = serde_json::from_slice(line).map_err(|error| {
        if whole { LogErrorKind::NotALog(error.to_string()) } else { LogErrorKind::Truncated }
    })?;
    if value["event"] != "log_start" {
        return Err(LogErrorKind::NotALog("it is another kind of line".to_owned()));
    }
    schema::read_value(value, SCHEMA).map_err(|error| match error {
        ReadError::OtherSchema { found, .. } => LogErrorKind::UnknownSchema(found),
        ReadError::Invalid(error) => LogErrorKind::Corrupt(error.to_string()),
        other => LogErrorKind::NotALog(other.to_string()),
    })
}

impl<R: BufRead> Iterator for LogReader<R> {
    type Item = Result<Event, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.read().map_err(|what| self.lines.error(what)).transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}
