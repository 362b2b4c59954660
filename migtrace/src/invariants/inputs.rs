//! What migtrace reads from outside: bytes that a guest, a disk or a person may have changed.

#[cfg(feature = "trace")]
use serde_json::json;

use super::derived;
use super::rendering::rendered;
use super::traffic::{copied, echo_counts};
use super::violations::Violations;
use crate::event::{Event, Fact, FlowCounters, LogReader, LogWriter};
use crate::record::Record;
use crate::selection::Selection;
use crate::timeline::Timeline;
#[cfg(feature = "trace")]
use crate::tracer::messages::qmp_line as line;
use crate::units::{Flow, MonotonicNs};

/// A line that QEMU, or whoever has taken it over, wrote to its monitor.
///
/// # Errors
/// When one of its events reads back differently after it was written again, compact or pretty; when part of an event
/// behind it is not counted as unread, or spoils it.
#[cfg(feature = "trace")]
pub fn qmp_line(bytes: &[u8]) -> Result<(), String> {
    for event in line::parse(bytes).events {
        qmp_event(event)?;
    }
    Ok(())
}

/// An event of such a line.
#[cfg(feature = "trace")]
fn qmp_event(event: line::MigrationEvent) -> Result<(), String> {
    let (seconds, microseconds) =
        (event.realtime_us.div_euclid(1_000_000), event.realtime_us.rem_euclid(1_000_000));
    let stamp = json!({ "seconds": seconds, "microseconds": microseconds });
    // As QEMU orders and spaces them.
    let written = format!(r#"{{"timestamp": {stamp}, "event": "{}", "data": {}}}"#, event.name, event.data);
    let pretty = serde_json::from_str::<serde_json::Value>(&written)
        .and_then(|value| serde_json::to_string_pretty(&value))
        .map_err(|error| format!("{written} is not JSON: {error}"))?;
    let once = line::Parsed { events: vec![event], unread: 0 };
    for text in [&written, &pretty] {
        let read = line::parse(text.as_bytes());
        if read != once {
            return Err(format!("{text} is read as {read:?} and not as {once:?}"));
        }
        let again = line::parse(format!("{text}\r\n{{\"return\": {{}}}}\r\n{text}\r\n").as_bytes());
        if (again.events.len(), again.unread) != (2, 0) {
            return Err(format!("{text} twice, with a reply between, is read as {again:?}"));
        }
        for (cut, _) in text.char_indices().skip(1) {
            let read = line::parse(format!("{text}\r\n{}", &text[..cut]).as_bytes());
            if read.events != once.events || read.unread != 1 {
                return Err(format!("{text} and a part of it that ends at {cut} are read as {read:?}"));
            }
        }
    }
    Ok(())
}

/// An event log: what is readable of it is written again as it was read, and folds into sound records.
///
/// # Errors
/// Everything that is wrong with the records.
pub fn event_log(bytes: &[u8]) -> Result<(), String> {
    let events: Vec<Event> = LogReader::new(bytes).map_while(Result::ok).collect();
    if events.is_empty() { Ok(()) } else { fold(&events) }
}

/// The file of a record: if it is one, it can be shown.
///
/// # Errors
/// When its text does not fit or steers the terminal, or its JSON reads back as another record.
pub fn record_file(bytes: &[u8]) -> Result<(), String> {
    let Ok(record) = serde_json::from_slice::<Record>(bytes) else { return Ok(()) };
    let mut found = Violations::default();
    rendered(&record, &mut found);
    found.result()
}

/// Events, the first of them `log_start`: they give sound records, the same however they are asked for.
///
/// # Errors
/// Everything that is wrong.
pub fn fold(events: &[Event]) -> Result<(), String> {
    let mut found = Violations::default();
    let mut timeline = Timeline::new(Selection::default());
    for event in events {
        timeline.push(event);
        let _ = timeline.live(event.at_ns);
        let _ = timeline.ended();
    }
    let records = timeline.finish();
    found.unless(timeline.ended().is_none() || !records.is_empty(), || {
        "fold: a migration has ended, and there is no record".to_owned()
    });
    found.unless(finished(events) == records, || "fold: asking on the way changed the records".to_owned());
    match written_again(events) {
        Ok(again) => {
            found.unless(again == events, || "log: it reads back as other events".to_owned());
            found.unless(finished(&again) == records, || "fold: the log gives other records".to_owned());
        }
        Err(why) => found.0.push(why),
    }
    let coherent = coherent(events);
    for record in &records {
        derived(record, &mut found);
        if coherent {
            copied(record, &mut found);
        }
    }
    found.result()
}

fn finished(events: &[Event]) -> Vec<Record> {
    let mut timeline = Timeline::new(Selection::default());
    events.iter().for_each(|event| timeline.push(event));
    timeline.finish()
}

/// The events as a reader of their log gets them. A stamp that no clock shows ends a log.
fn written_again(events: &[Event]) -> Result<Vec<Event>, String> {
    let log = log(events)?;
    let mut read = Vec::new();
    for event in LogReader::new(&log[..]) {
        match event {
            Ok(event) => read.push(event),
            Err(error) if error.to_string().contains("not a time of a monotonic clock") => {
                return Ok(events.to_vec());
            }
            Err(error) => return Err(format!("log: it does not read back: {error}")),
        }
    }
    Ok(read)
}

/// The event log of events.
///
/// # Errors
/// When one of them has no JSON form.
pub fn log(events: &[Event]) -> Result<Vec<u8>, String> {
    let mut writer = LogWriter::new(Vec::new());
    for event in events {
        writer.write(event).map_err(|error| format!("log: {event:?} cannot be written: {error}"))?;
    }
    Ok(writer.into_inner())
}

/// Whether the facts are such as the kernel's counters can give: then the record must show them as such.
fn coherent(events: &[Event]) -> bool {
    let mut counted: Vec<(Flow, MonotonicNs, &FlowCounters)> = Vec::new();
    for event in events {
        match &event.fact {
            Fact::FlowCounters(counters) => counted.push((counters.flow, event.at_ns, counters)),
            Fact::EchoEnd(end) => {
                let mut found = Violations::default();
                end.echo.iter().for_each(|echo| echo_counts(echo, &mut found));
                if found.result().is_err() {
                    return false;
                }
            }
            _ => {}
        }
    }
    let stamped = counted.iter().all(|(_, at, c)| c.first_ns <= c.last_ns && c.last_ns <= *at);
    // Those of one instant stay as they came.
    counted.sort_by_key(|(flow, at, _)| (*flow, *at));
    let grows = |pair: &[(Flow, MonotonicNs, &FlowCounters)]| {
        let (before, after) = (pair[0].2, pair[1].2);
        let least = after.counters.since(&before.counters);
        pair[0].0 != pair[1].0 || {
            let mut sum = before.counters;
            sum += least;
            sum == after.counters
        }
    };
    stamped && counted.windows(2).all(grows)
}
