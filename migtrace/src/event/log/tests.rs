//! What is written can be read, and what is damaged is named.

use super::*;
use crate::event::{EndReason, Observation};
use crate::vocabulary::Lost;

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
fn a_corrupt_line_is_named_and_differs_from_a_truncated_one() {
    let text = written().replacen("\"ring_buffer\":0", "\"ring_buffer\":-1", 1);
    let (events, error) = read(text.as_bytes());
    let error = error.unwrap();
    assert_eq!((events.len(), error.line), (1, 2));
    assert!(matches!(error.what, LogErrorKind::Corrupt(_)));
    assert!(error.to_string().starts_with("line 2: not an event: invalid value: integer `-1`"), "{error}");
}

#[test]
fn bytes_that_are_not_text_are_corrupt() {
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
fn another_schema_is_refused_and_both_are_named() {
    let text = written().replace(SCHEMA, "migtrace.events/7");
    let (events, error) = read(text.as_bytes());
    assert!(events.is_empty());
    let error = error.unwrap().to_string();
    assert!(
        error.contains("`migtrace.events/7`") && error.contains("reads only `migtrace.events/1`"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_not_a_log_is_refused() {
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
fn every_kind_of_the_schema_is_known_and_no_other() {
    let schema = serde_json::to_value(schemars::schema_for!(Fact)).unwrap();
    let kinds = schema["oneOf"].as_array().unwrap();
    for kind in kinds {
        assert!(is_known(kind["properties"]["event"]["const"].as_str().unwrap()), "{kind}");
    }
    assert!(kinds.len() >= 30 && !is_known("cpu_throttle") && !is_known(""));
}

#[test]
fn a_time_beyond_the_clocks_range_is_refused_in_its_line() {
    let log = written().replace("\"at_ns\":2,", "\"at_ns\":18446744073709551000,");
    let error = read(log.as_bytes()).1.unwrap();
    assert_eq!(error.line, 2);
    assert!(error.to_string().contains("not a time of a monotonic clock"), "{error}");
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
