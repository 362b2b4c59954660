//! The event log: one JSON object a line, the first of them [`Fact::LogStart`].

use std::io::{self, BufRead, Read, Write};

use super::{Event, Fact, SCHEMA};
use crate::terminal;
use crate::units::MonotonicNs;

/// The kinds of [`Fact`], by the names that they have in a log.
const KINDS: [&str; 30] = [
    "log_start",
    "clock",
    "qemu_seen",
    "qemu_gone",
    "flow_seen",
    "flow_owner",
    "flow_purpose",
    "flow_counters",
    "flow_gone",
    "fragments",
    "qmp",
    "guest_run",
    "guest_run_void",
    "dirty_log",
    "guest_frame",
    "guest_frames",
    "announcement",
    "query_migrate",
    "query_migrate_parameters",
    "interface_added",
    "interface_gone",
    "tc_removed",
    "echo_start",
    "echo_owner",
    "echo_gap",
    "echo_end",
    "lost",
    "not_measured",
    "not_understood",
    "log_end",
];

/// No fact is near this long; a longer line is damage, and reading it whole could exhaust the memory.
const LONGEST_LINE_BYTES: u64 = 1 << 20;

/// Writes an event log, line by line.
///
/// Every line reaches the writer below and is flushed before [`LogWriter::write`] returns, so that the log
/// holds whatever was seen when the process dies.
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
    /// The writer's own error. After one, part of a line may stand at the end of the log; every later call
    /// fails too, so that nothing is appended to a torn line and what precedes it stays readable.
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

    /// Gives the writer back.
    pub fn into_inner(self) -> W {
        self.inner
    }
}

/// Reads an event log: an iterator of events that ends after the first error.
///
/// The events before the error are whole and usable; the error names the line. An event of a kind that this version does
/// not know is no error: [`Fact::NotUnderstood`] stands for it.
#[derive(Debug)]
pub struct LogReader<R> {
    inner: R,
    line: u64,
    ended: bool,
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
    #[error("this is no event log: the first line must be the `log_start` event of `{SCHEMA}`: {0}")]
    NotALog(String),
    /// It was written by another version of migtrace.
    #[error(
        "the event log says that its schema is `{0}`, and this migtrace reads `{SCHEMA}` only: \
         read it with the version that wrote it"
    )]
    UnknownSchema(String),
    /// The last line has no end: the recording was killed in the middle of a write, or the disk was full.
    #[error("the last line is cut off, so the recording did not end in order; all lines before it are whole")]
    Truncated,
    /// The line is whole, and is no event.
    #[error("not an event: {0}")]
    Corrupt(String),
}

impl<R: BufRead> LogReader<R> {
    /// Reads from `inner`.
    pub const fn new(inner: R) -> Self {
        Self { inner, line: 0, ended: false }
    }

    fn read(&mut self) -> Result<Option<Event>, LogErrorKind> {
        let mut line = Vec::new();
        self.line += 1;
        (&mut self.inner).take(LONGEST_LINE_BYTES + 1).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return if self.line == 1 { Err(LogErrorKind::Empty) } else { Ok(None) };
        }
        if line.len() as u64 > LONGEST_LINE_BYTES {
            let why = format!("longer than {LONGEST_LINE_BYTES} bytes");
            return Err(if self.line == 1 { LogErrorKind::NotALog(why) } else { LogErrorKind::Corrupt(why) });
        }
        let whole = line.last() == Some(&b'\n');
        if self.line == 1 {
            return start(&line, whole).map(Some);
        }
        match serde_json::from_slice::<Event>(&line) {
            Ok(Event { fact: Fact::LogStart(_), .. }) => Err(LogErrorKind::Corrupt(
                "a second `log_start`: each recording needs a file of its own".to_owned(),
            )),
            Ok(event) => Ok(Some(event)),
            Err(_) if !whole => Err(LogErrorKind::Truncated),
            Err(error) => match not_understood(&line) {
                Some(event) => Ok(Some(event)),
                None => Err(LogErrorKind::Corrupt(without_place(&error))),
            },
        }
    }
}

/// What is wrong with a line; where in it would be read as where in the log.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&place).unwrap_or(&text).to_owned()
}

/// What stands for a whole line of a kind that this version does not know; `None` when its kind is known, or it is no
/// event at all.
fn not_understood(line: &[u8]) -> Option<Event> {
    #[derive(serde::Deserialize)]
    struct Head {
        at_ns: MonotonicNs,
        event: String,
    }
    let Head { at_ns, event: kind } = serde_json::from_slice(line).ok()?;
    (!KINDS.contains(&kind.as_str())).then_some(Event { at_ns, fact: Fact::NotUnderstood { kind } })
}

/// Reads the first line. The schema's name is looked at before everything else, because the lines of another
/// version need not parse.
fn start(line: &[u8], whole: bool) -> Result<Event, LogErrorKind> {
    let value: serde_json::Value = serde_json::from_slice(line).map_err(|error| {
        if whole { LogErrorKind::NotALog(error.to_string()) } else { LogErrorKind::Truncated }
    })?;
    if value["event"] != "log_start" {
        return Err(LogErrorKind::NotALog("it is something else".to_owned()));
    }
    match value["schema"].as_str() {
        Some(SCHEMA) => serde_json::from_value(value).map_err(|e| LogErrorKind::Corrupt(e.to_string())),
        Some(other) => Err(LogErrorKind::UnknownSchema(other.to_owned())),
        None => Err(LogErrorKind::NotALog("it names no schema".to_owned())),
    }
}

impl<R: BufRead> Iterator for LogReader<R> {
    type Item = Result<Event, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.read().map_err(|what| LogError { line: self.line, what }).transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EndReason, Lost, Observation};
    use crate::units::MonotonicNs;

    fn log() -> Vec<Event> {
        let start = Observation {
            schema: SCHEMA.to_owned(),
            migtrace: "0.1.0".to_owned(),
            host: "host-a".to_owned(),
            kernel: "6.1.0".to_owned(),
            interfaces: Vec::new(),
            ports: "49152-49215".to_owned(),
            instruments: Vec::new(),
        };
        vec![
            Event { at_ns: MonotonicNs(1), fact: Fact::LogStart(start) },
            Event { at_ns: MonotonicNs(2), fact: Fact::Lost { so_far: Lost::default(), since_ns: None } },
            Event { at_ns: MonotonicNs(3), fact: Fact::LogEnd { reason: EndReason::Interrupted } },
        ]
    }

    fn written() -> String {
        let mut writer = LogWriter::new(Vec::new());
        for event in log() {
            writer.write(&event).unwrap();
        }
        String::from_utf8(writer.into_inner()).unwrap()
    }

    /// The events before the first error, and the error.
    fn read(text: &[u8]) -> (Vec<Event>, Option<LogError>) {
        let mut events = Vec::new();
        let mut error = None;
        for item in LogReader::new(text) {
            assert!(error.is_none(), "the reader went on after {error:?}");
            match item {
                Ok(event) => events.push(event),
                Err(e) => error = Some(e),
            }
        }
        (events, error)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (events, error) = read(written().as_bytes());
        assert_eq!(events, log());
        assert!(error.is_none());
    }

    #[test]
    fn a_whole_last_line_needs_no_newline() {
        let (events, error) = read(written().trim_end().as_bytes());
        assert_eq!(events.len(), 3);
        assert!(error.is_none());
    }

    #[test]
    fn a_log_cut_anywhere_in_a_line_is_truncated_there_and_usable_before() {
        let text = written();
        let last = text.trim_end().rfind('\n').unwrap() + 1;
        for cut in last + 1..text.len() - 1 {
            let (events, error) = read(&text.as_bytes()[..cut]);
            let error = error.unwrap();
            assert_eq!((events.len(), error.line), (2, 3), "cut at {cut}");
            assert!(matches!(error.what, LogErrorKind::Truncated), "cut at {cut}: {error}");
        }
    }

    #[test]
    fn a_tail_of_zeros_as_a_crash_leaves_it_is_truncated() {
        let mut text = written().into_bytes();
        text.extend([0; 100]);
        let (events, error) = read(&text);
        assert_eq!(events.len(), 3);
        assert!(matches!(error.unwrap().what, LogErrorKind::Truncated));
    }

    #[test]
    fn a_corrupt_line_is_named_and_told_from_a_truncated_one() {
        let text = written().replacen("\"ring_buffer\":0", "\"ring_buffer\":-1", 1);
        let (events, error) = read(text.as_bytes());
        let error = error.unwrap();
        assert_eq!((events.len(), error.line), (1, 2));
        assert!(matches!(error.what, LogErrorKind::Corrupt(_)));
        assert!(
            error.to_string().starts_with("line 2: not an event: invalid value: integer `-1`"),
            "{error}"
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_corrupt() {
        let mut text = written().into_bytes();
        let second = text.iter().position(|&b| b == b'\n').unwrap() + 1;
        text[second + 3] = 0xff;
        let (events, error) = read(&text);
        assert_eq!((events.len(), error.unwrap().line), (1, 2));
    }

    #[test]
    fn an_endless_line_is_refused_before_it_fills_the_memory() {
        let mut text = written().into_bytes();
        text.extend(std::iter::repeat_n(b' ', 3 << 20));
        let (events, error) = read(&text);
        assert_eq!(events.len(), 3);
        assert!(error.unwrap().to_string().contains("longer than 1048576 bytes"));
    }

    #[test]
    fn another_schema_is_refused_in_clear_words() {
        let text = written().replace(SCHEMA, "migtrace.events/7");
        let (events, error) = read(text.as_bytes());
        assert!(events.is_empty());
        let error = error.unwrap().to_string();
        assert!(
            error.contains("`migtrace.events/7`") && error.contains("`migtrace.events/1` only"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_no_log_is_refused() {
        let lost = written().lines().nth(1).unwrap().to_owned() + "\n";
        for text in ["{}\n", "[1]\n", "hello\n", "{\"event\":\"log_start\",\"at_ns\":1}\n", &lost] {
            let error = read(text.as_bytes()).1.unwrap();
            assert!(matches!(error.what, LogErrorKind::NotALog(_)), "{text}: {error}");
            assert_eq!(error.line, 1);
        }
        assert!(matches!(read(b"").1.unwrap().what, LogErrorKind::Empty));
    }

    #[test]
    fn an_event_of_a_later_version_is_skipped_and_named() {
        let later = r#"{"at_ns": 5, "event": "cpu_throttle", "pid": 1, "percent": 20}"#.to_owned() + "\n";
        let mut lines: Vec<&str> = vec![];
        let log = written();
        lines.extend(log.split_inclusive('\n'));
        lines.insert(1, &later);
        let (events, error) = read(lines.concat().as_bytes());
        assert!(error.is_none(), "{error:?}");
        assert_eq!(events.len(), 4);
        assert_eq!(
            events[1],
            Event { at_ns: MonotonicNs(5), fact: Fact::NotUnderstood { kind: "cpu_throttle".to_owned() } }
        );
        // One of a known kind that lacks something is damage all the same.
        let damaged = log.lines().next().unwrap().to_owned() + "\n{\"at_ns\": 5, \"event\": \"qemu_gone\"}\n";
        assert_eq!(read(damaged.as_bytes()).1.unwrap().line, 2);
    }

    #[test]
    fn the_list_of_kinds_is_that_of_the_facts() {
        let schema = serde_json::to_value(schemars::schema_for!(Fact)).unwrap();
        let kinds: Vec<_> = schema["oneOf"]
            .as_array()
            .unwrap()
            .iter()
            .map(|kind| kind["properties"]["event"]["const"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, KINDS);
    }

    #[test]
    fn a_time_that_no_clock_shows_is_refused_in_its_line() {
        let log = written().replace("\"at_ns\":2,", "\"at_ns\":18446744073709551000,");
        let error = read(log.as_bytes()).1.unwrap();
        assert_eq!(error.line, 2);
        assert!(error.to_string().contains("no time of a monotonic clock"), "{error}");
    }

    #[test]
    fn two_logs_in_one_file_are_refused_at_the_second() {
        let (events, error) = read((written() + &written()).as_bytes());
        assert_eq!((events.len(), error.unwrap().line), (3, 4));
    }

    /// A disk with room for some bytes.
    struct Disk {
        room_bytes: usize,
        held: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room_bytes - self.held.len());
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.held.extend(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_an_error_and_leaves_the_earlier_lines_readable() {
        let first = written().find('\n').unwrap() + 1;
        let mut writer = LogWriter::new(Disk { room_bytes: first + 10, held: Vec::new() });
        let log = log();
        writer.write(&log[0]).unwrap();
        assert_eq!(writer.write(&log[1]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        let mut writer = LogWriter { inner: Disk { room_bytes: 1 << 20, ..writer.inner }, ..writer };
        let again = writer.write(&log[2]).unwrap_err();
        assert!(again.to_string().contains("ends after line 1"), "{again}");
        let (events, error) = read(&writer.into_inner().held);
        assert_eq!(events.len(), 1);
        assert!(matches!(error.unwrap().what, LogErrorKind::Truncated));
    }

    #[test]
    fn every_line_is_flushed() {
        let mut writer = LogWriter::new(io::BufWriter::with_capacity(1 << 20, Vec::new()));
        for event in log() {
            writer.write(&event).unwrap();
            assert!(writer.inner.buffer().is_empty());
        }
    }
}
