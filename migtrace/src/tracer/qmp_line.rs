//! A line of QMP as QEMU writes it, and which of them are about migration.

use serde::Deserialize;
use serde_json::Value;

/// The events that tell something about a migration (QEMU's qapi/); all others are dropped unread.
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

/// An event as it stands in its line.
#[derive(Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) data: Value,
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

/// The event of a line; `None` when it is not about migration, or no event at all.
pub(crate) fn parse(line: &[u8]) -> Option<Line> {
    let raw: Raw = serde_json::from_slice(line).ok()?;
    let realtime_us =
        raw.timestamp.seconds.checked_mul(1_000_000)?.checked_add(raw.timestamp.microseconds)?;
    let known = MIGRATION_EVENTS.contains(&raw.event.as_str());
    known.then_some(Line { name: raw.event, data: raw.data, realtime_us })
}

/// Whether a line that was cut off, and so cannot be parsed, may have been about migration.
pub(crate) fn may_matter(cut_line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(cut_line);
    MIGRATION_EVENTS.iter().any(|name| text.contains(&format!("\"event\": \"{name}\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_event_keeps_its_name_data_and_stamp() {
        let line = br#"{"timestamp": {"seconds": 1766000000, "microseconds": 250123}, "event": "MIGRATION", "data": {"status": "active"}}"#;
        let parsed = parse(line).unwrap();
        assert_eq!(parsed.name, "MIGRATION");
        assert_eq!(parsed.data["status"], "active");
        assert_eq!(parsed.realtime_us, 1_766_000_000_250_123);
    }

    #[test]
    fn other_events_replies_and_garbage_are_dropped() {
        for line in [
            br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RTC_CHANGE", "data": {}}"#
                .as_slice(),
            br#"{"return": {}}"#,
            br#"{"timestamp": {"seconds": 1, "micro"#,
            b"\xff\xfe",
        ] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn a_cut_line_matters_only_if_its_event_does() {
        assert!(may_matter(
            br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "BLOCK_JOB_ERROR", "da"#
        ));
        assert!(!may_matter(
            br#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "GUEST_PANICKED", "da"#
        ));
    }
}
