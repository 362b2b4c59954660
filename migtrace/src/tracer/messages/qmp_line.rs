//! Reads what QEMU writes to a monitor, and picks the events that are about migration.

use serde::Deserialize;
use serde_json::Value;

/// The events about migrations (QEMU's qapi/). All others are dropped.
const MIGRATION_EVENTS: [&str; 15] = [
    "MIGRATION",
    "MIGRATION_PASS",
    "STOP",
    "RESUME",
    "SHUTDOWN",
    "BLOCK_JOB_READY",
    "BLOCK_JOB_PENDING",
    "BLOCK_JOB_COMPLETED",
    "BLOCK_JOB_CANCELLED",
    "BLOCK_JOB_ERROR",
    "BLOCK_EXPORT_DELETED",
    "JOB_STATUS_CHANGE",
    "UNPLUG_PRIMARY",
    "COLO_EXIT",
    "VFIO_MIGRATION",
];

/// An event about a migration, as it was written.
#[derive(Debug, PartialEq)]
pub(crate) struct MigrationEvent {
    pub(crate) name: String,
    pub(crate) data: Value,
    /// QEMU's own stamp.
    pub(crate) realtime_us: i64,
}

#[derive(Deserialize)]
struct Raw {
    timestamp: Timestamp,
    event: String,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
struct Timestamp {
    seconds: i64,
    microseconds: i64,
}

/// What a write was found to consist of.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Parsed {
    /// The events that are about migration, in order.
    pub(crate) events: Vec<MigrationEvent>,
    /// How many stretches of it are not QMP, or are events that cannot be read.
    pub(crate) unread: u64,
}

/// Reads a write: events one after the other, with replies between them if QEMU had both to write.
pub(crate) fn parse(mut bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    loop {
        let mut messages = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
        loop {
            match messages.next() {
                Some(Ok(Value::Object(message))) => match event(message) {
                    Ok(event) => parsed.events.extend(event),
                    Err(Unreadable) => parsed.unread += 1,
                },
                Some(Ok(_)) => parsed.unread += 1,
                Some(Err(_)) => break,
                None => return parsed,
            }
        }
        parsed.unread += 1;
        // Only the first line of a message begins like this, however the message is spaced.
        let rest = &bytes[messages.byte_offset()..];
        let Some(next) = rest.windows(2).position(|pair| pair == b"\n{") else { return parsed };
        bytes = &rest[next + 1..];
    }
}

/// It has the key of an event, and is not a valid one.
struct Unreadable;

/// The event in a message; `None` when the message is not an event, or not one about migration.
fn event(message: serde_json::Map<String, Value>) -> Result<Option<MigrationEvent>, Unreadable> {
    if !message.contains_key("event") {
        return Ok(None);
    }
    let Raw { timestamp, event, data } =
        serde_json::from_value(Value::Object(message)).map_err(|_error| Unreadable)?;
    let microseconds = timestamp.seconds.checked_mul(1_000_000);
    let realtime_us = microseconds.and_then(|us| us.checked_add(timestamp.microseconds)).ok_or(Unreadable)?;
    let is_known = MIGRATION_EVENTS.contains(&event.as_str());
    Ok(is_known.then_some(MigrationEvent { name: event, data, realtime_us }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const STOP: &str = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#;
    const RTC_CHANGE: &str =
        r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RTC_CHANGE", "data": {"offset": 1}}"#;

    /// The names of the events, and how much was unread.
    fn read(text: &str) -> (Vec<String>, u64) {
        let Parsed { events, unread } = parse(text.as_bytes());
        (events.into_iter().map(|event| event.name).collect(), unread)
    }

    fn stops(count: usize, unread: u64) -> (Vec<String>, u64) {
        (vec!["STOP".to_owned(); count], unread)
    }

    #[test]
    fn a_migration_event_keeps_its_name_data_and_stamp() {
        let line = br#"{"timestamp": {"seconds": 1766000000, "microseconds": 250123}, "event": "MIGRATION", "data": {"status": "active"}}"#;
        let Parsed { events, unread } = parse(line);
        let expected = MigrationEvent {
            name: "MIGRATION".into(),
            data: json!({ "status": "active" }),
            realtime_us: 1_766_000_000_250_123,
        };
        assert_eq!((events, unread), (vec![expected], 0));
    }

    #[test]
    fn other_events_and_replies_are_dropped() {
        for text in [RTC_CHANGE, r#"{"return": {}}"#, "", "\r\n", r#"{"error": {"class": "x"}, "id": 1}"#] {
            assert_eq!(read(text), stops(0, 0), "{text}");
        }
    }

    #[test]
    fn every_event_of_a_write_is_read() {
        assert_eq!(read(&format!("{STOP}\r\n{STOP}\r\n")), stops(2, 0));
        assert_eq!(read(&format!("{STOP}{STOP}")), stops(2, 0));
        assert_eq!(
            read(&format!("{STOP}\r\n{{\"return\": {{}}}}\r\n{RTC_CHANGE}\r\n{STOP}\r\n")),
            stops(2, 0)
        );
    }

    #[test]
    fn an_event_over_several_lines_is_one_event() {
        let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(STOP).unwrap()).unwrap();
        let pretty = pretty.replace('\n', "\r\n");
        assert_eq!(read(&format!("{pretty}\r\n{pretty}\r\n")), stops(2, 0));
    }

    #[test]
    fn an_event_that_is_cut_off_is_counted_and_those_before_it_are_read() {
        for cut in 1..STOP.len() {
            assert_eq!(read(&format!("{STOP}\r\n{}", &STOP[..cut])), stops(1, 1), "{cut}");
        }
    }

    #[test]
    fn garbage_is_counted_and_an_event_on_a_line_of_its_own_after_it_is_read() {
        assert_eq!(read(&format!("{STOP}\r\n\u{1}garbage\r\nmore of it\r\n{STOP}\r\n")), stops(2, 1));
        assert_eq!(read(&format!("{STOP}\r\n{{\"timestamp\": {{\r\n{STOP}")), stops(2, 1));
        assert_eq!(read(&format!("}}\n{{]\n{{]\n{STOP}")), stops(1, 3));
        assert_eq!(read("7 \"x\" [1]"), stops(0, 3));
        assert_eq!(parse(b"\xff\xfe").unread, 1);
    }

    #[test]
    fn an_event_that_cannot_be_read_is_counted() {
        for text in [
            r#"{"event": "STOP"}"#,
            r#"{"timestamp": 5, "event": "STOP"}"#,
            r#"{"timestamp": {"seconds": 9223372036854775807, "microseconds": 0}, "event": "STOP"}"#,
            r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": 7}"#,
        ] {
            assert_eq!(read(&format!("{text}\r\n{STOP}")), stops(1, 1), "{text}");
        }
    }
}
