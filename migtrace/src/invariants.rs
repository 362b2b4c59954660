//! What holds for every record, whatever the events were. The tests and the fuzz targets share these checks.
//!
//! This is no part of the crate's interface: it may change with any version.

use std::collections::BTreeSet;

use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;
use uuid::Uuid;

use crate::record::{Disturbance, Estimate, Gap, Method, Outcome, Record};
use crate::report;
use crate::units::{Counters, Directions};
use crate::vocabulary::Lost;

pub mod inputs;

/// The names of the phases in which a migration ends, and the outcome of each.
const LAST_PHASES: [(&str, Outcome); 3] =
    [("completed", Outcome::Completed), ("failed", Outcome::Failed), ("cancelled", Outcome::Cancelled)];

/// The phase that precedes the start: a destination waits for its source.
const LISTENING: &str = "listening";

/// Checks a record whose events were coherent.
///
/// # Errors
/// Everything that is wrong with it, a line each.
pub fn record(record: &Record) -> Result<(), String> {
    let mut found = Violations::default();
    derived(record, &mut found);
    copied(record, &mut found);
    found.result()
}

/// What is wrong, a sentence each.
#[derive(Default)]
struct Violations(Vec<String>);

impl Violations {
    fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }

    fn result(self) -> Result<(), String> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0.join("\n")) }
    }
}

/// What the fold answers for, even when the events contradict each other.
fn derived(record: &Record, found: &mut Violations) {
    let json = match serde_json::to_value(record) {
        Ok(json) => json,
        Err(error) => return found.0.push(format!("it has no JSON form: {error}")),
    };
    bounds("", &json, found);
    identity(record, found);
    phases(record, &json, found);
    phase_bytes(record, found);
    traffic(record, found);
    order(record, found);
    times(record, &json, found);
    downtime(record, found);
    reasons(record, found);
    rendered(record, found);
}

/// Each value lies within its bounds, wherever in the record it stands.
fn bounds(path: &str, json: &Value, found: &mut Violations) {
    match json {
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                bounds(&format!("{path}/{index}"), item, found);
            }
        }
        // What QEMU replied is quoted, whatever is in it.
        Value::Object(_) if path == "/qemu/stats" => {}
        Value::Object(fields) => {
            if let (Some(value), Some(low)) = (whole(json, "value_ns"), whole(json, "low_ns")) {
                let high = whole(json, "high_ns");
                found.unless(low <= value && high.is_none_or(|high| value <= high), || {
                    format!("bounds: {path}: {value} is not within {low} and {high:?}")
                });
            }
            let unnamed = json["method"].as_str().is_some_and(str::is_empty);
            found.unless(!unnamed, || format!("bounds: {path}: no method"));
            for (name, field) in fields {
                bounds(&format!("{path}/{name}"), field, found);
            }
        }
        _ => {}
    }
}

fn whole(json: &Value, field: &str) -> Option<i128> {
    let number = json.get(field)?;
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

fn identity(record: &Record, found: &mut Violations) {
    if let Some(id) = &record.migration.id {
        let is_uuid = Uuid::parse_str(id)
            .is_ok_and(|uuid| uuid.get_version_num() == 5 && uuid.hyphenated().to_string() == *id);
        found.unless(is_uuid, || format!("identity: {id:?} is no UUID of version 5"));
    } else {
        let may_still_come = record.migration.outcome == Outcome::Interrupted;
        found.unless(may_still_come, || "identity: the migration has ended, and has no id".to_owned());
    }
    let schema = &record.schema;
    found.unless(schema == crate::record::SCHEMA, || format!("identity: the schema is {schema:?}"));
    let start = &record.start;
    found.unless(start.realtime_ns.is_some() == start.error_ns.is_some(), || {
        format!("identity: the start's wall time and its error are not both known: {start:?}")
    });
    for observer in &record.observers {
        found.unless(observer.clock.is_some() == start.realtime_ns.is_some(), || {
            "identity: the start's wall time is known without a clock, or the reverse".to_owned()
        });
    }
}

/// The phases follow one another without holes from the start, but for the wait that may precede it.
fn phases(record: &Record, json: &Value, found: &mut Violations) {
    let Some(first) = record.phases.first() else {
        return found.0.push("phases: there is none".to_owned());
    };
    let begins = if phase_names(json)[0] == LISTENING {
        first.start_ns <= 0 && first.end_ns == 0
    } else {
        first.start_ns == 0
    };
    found.unless(begins, || format!("phases: the first is from {} to {}", first.start_ns, first.end_ns));
    for (index, phase) in record.phases.iter().enumerate() {
        found.unless(!phase.name.as_str().is_empty(), || format!("phases: number {index} has no name"));
        found.unless(phase.start_ns <= phase.end_ns, || {
            format!("phases: number {index} is from {} to {}", phase.start_ns, phase.end_ns)
        });
    }
    for (index, pair) in record.phases.windows(2).enumerate() {
        found.unless(pair[0].end_ns == pair[1].start_ns, || {
            let (end, start) = (pair[0].end_ns, pair[1].start_ns);
            format!("phases: number {index} ends at {end}, and the next begins at {start}")
        });
    }
}

/// As a reader of the record sees them.
fn phase_names(json: &Value) -> Vec<&str> {
    let phases = json["phases"].as_array().map_or(&[][..], Vec::as_slice);
    phases.iter().map(|phase| phase["name"].as_str().unwrap_or_default()).collect()
}

/// The bytes of the phases are no more than the total, and are the total when all are known.
fn phase_bytes(record: &Record, found: &mut Violations) {
    let known: Vec<_> = record.phases.iter().filter_map(|phase| phase.traffic).collect();
    let Some(total) = record.traffic.total else {
        return found.unless(known.is_empty(), || "phase bytes: known, and the total is not".to_owned());
    };
    let sums = sums(known.iter());
    for ((name, sum), (_, total)) in sums.into_iter().zip(self::sums([&total])) {
        found.unless(sum <= total, || format!("phase bytes: {name}: {sum} are more than the total {total}"));
        let all_known = !known.is_empty() && known.len() == record.phases.len();
        found.unless(!all_known || sum == total, || {
            format!("phase bytes: {name}: {sum} are not the total {total}, and every phase is known")
        });
    }
}

/// The sum of each counter, with its name.
fn sums<'a>(counts: impl IntoIterator<Item = &'a Directions<Counters>>) -> [(&'static str, u64); 8] {
    let mut sum = Directions::<Counters>::default();
    for count in counts {
        sum += *count;
    }
    [
        ("tx wire bytes", sum.tx.wire_bytes),
        ("tx payload bytes", sum.tx.payload_bytes),
        ("tx segments", sum.tx.segments),
        ("tx skbs", sum.tx.skbs),
        ("rx wire bytes", sum.rx.wire_bytes),
        ("rx payload bytes", sum.rx.payload_bytes),
        ("rx segments", sum.rx.segments),
        ("rx skbs", sum.rx.skbs),
    ]
}

fn traffic(record: &Record, found: &mut Violations) {
    let traffic = &record.traffic;
    found.unless(traffic.total.is_some() != traffic.flows.is_empty(), || {
        format!("traffic: the total of {} flows is {:?}", traffic.flows.len(), traffic.total)
    });
    found.unless(traffic.samples.is_empty() == traffic.flows.is_empty(), || {
        format!("traffic: {} flows and {} samples", traffic.flows.len(), traffic.samples.len())
    });
    if let Some(total) = &traffic.total {
        let flows = sums(traffic.flows.iter().map(|flow| &flow.counters));
        for ((name, sum), (_, total)) in flows.into_iter().zip(sums([total])) {
            found.unless(sum <= total, || format!("traffic: {name}: the flows have {sum} of {total}"));
        }
    }
    let resent: Option<Vec<u64>> = traffic.flows.iter().map(|flow| flow.retransmitted_segments).collect();
    let resent = resent.filter(|counts| !counts.is_empty());
    let resent = resent.map(|counts| counts.into_iter().fold(0, u64::saturating_add));
    found.unless(resent == traffic.retransmitted_segments, || {
        format!("traffic: {:?} were resent, and by the flows {resent:?}", traffic.retransmitted_segments)
    });
    let fragments = traffic.fragments.is_none_or(|seen| seen.tx.skbs > 0 || seen.rx.skbs > 0);
    found.unless(fragments, || "traffic: fragments were seen, and there are none".to_owned());
}

/// What has an order in time stands in it.
fn order(record: &Record, found: &mut Violations) {
    let mut in_order = |what: &str, times: Vec<i64>| {
        found.unless(times.is_sorted(), || format!("order: {what} are at {times:?}"));
    };
    in_order("samples", record.traffic.samples.iter().map(|sample| sample.at_ns).collect());
    in_order("marks", record.downtime.marks.iter().map(|mark| mark.at_ns).collect());
    in_order("gaps", record.gaps.iter().map(|gap| gap.start.value_ns).collect());
    let announcements = &record.downtime.announcements;
    in_order("announcements", announcements.iter().map(|announced| announced.first_ns).collect());
    let counted = announcements.iter().all(|announced| announced.count > 0);
    found.unless(counted, || format!("order: announcements that never came: {announcements:?}"));
}

/// The total, the setup, the phases and the outcome are about the same migration.
fn times(record: &Record, json: &Value, found: &mut Violations) {
    let outcome = record.migration.outcome;
    let names = phase_names(json);
    let total = record.total_time.as_ref().map(|total| i128::from(total.value_ns));
    found.unless(outcome != Outcome::Interrupted || total.is_none(), || {
        "times: a total, and the recording ended before the migration".to_owned()
    });
    let end = record.phases.last().map_or(0, |phase| i128::from(phase.end_ns));
    found.unless(total.is_none_or(|total| total <= end), || {
        format!("times: the total is {total:?}, and the phases end at {end}")
    });
    for (index, name) in names.iter().enumerate() {
        let Some((_, means)) = LAST_PHASES.iter().find(|(last, _)| last == name) else { continue };
        found.unless(index + 1 == names.len(), || format!("times: a phase follows {name}"));
        found.unless(outcome == *means, || format!("times: {name}, and the outcome is {outcome:?}"));
        let start = i128::from(record.phases[index].start_ns);
        found.unless(total.is_none_or(|total| total == start), || {
            format!("times: {name} at {start}, and the total is {total:?}")
        });
    }
    let first = |name| names.iter().position(|other| *other == name);
    if let (Some(setup), Some(from), Some(to)) = (&record.setup_time, first("setup"), first("active")) {
        let between = i128::from(record.phases[to].start_ns) - i128::from(record.phases[from].start_ns);
        found.unless(i128::from(setup.value_ns) == between, || {
            format!("times: the setup took {}, and by its phases {between}", setup.value_ns)
        });
    }
}

fn downtime(record: &Record, found: &mut Violations) {
    let downtime = &record.downtime;
    let agree = |stop: &Estimate, reachability: &Estimate| {
        reachability.high_ns.is_none_or(|high_ns| high_ns >= stop.low_ns)
    };
    let both = downtime.stop.as_ref().zip(downtime.reachability.as_ref());
    found.unless(downtime.tail.is_some() == both.is_some_and(|(stop, gap)| agree(stop, gap)), || {
        "downtime: the tail follows from a stop and a reachability that agree, and from nothing else"
            .to_owned()
    });
    if let Some(reachability) = &downtime.reachability {
        // Without a gap it may have been nothing at all, or what the lost requests allow. What may have been no gap may
        // not be the downtime either: then what is possible without it widens the upper bound.
        let without_gap =
            reachability.low_ns == 0 && matches!(reachability.method, Method::NoGap | Method::LostRequests);
        let is_widened = |gap: &Gap| {
            let Estimate { high_ns, .. } = gap.length;
            !gap.is_sure()
                && high_ns.zip(reachability.high_ns).is_some_and(|(gap, told)| gap <= told)
                && gap.length == Estimate { high_ns, ..reachability.clone() }
        };
        let is_told = |gap: &Gap| gap.length == *reachability || is_widened(gap);
        found.unless(without_gap || record.gaps.iter().any(is_told), || {
            "downtime: reachability is that of no gap".to_owned()
        });
    }
    if let Some(brownout) = &downtime.brownout {
        found.unless(downtime.reachability.is_some() && record.echo.is_some(), || {
            "downtime: nobody asked how well the guest answered".to_owned()
        });
        let unseen = |seen: &Disturbance| seen.worst_round_trip_ns == Some(0);
        found.unless(!unseen(&brownout.before) && !unseen(&brownout.after), || {
            "downtime: a round trip that took no time stands for one that was not seen".to_owned()
        });
    }
}

/// What is unknown is listed with its reason.
fn reasons(record: &Record, found: &mut Violations) {
    let listed = &record.not_measured;
    let distinct: BTreeSet<_> = listed.iter().collect();
    found.unless(distinct.len() == listed.len(), || "reasons: one is listed twice".to_owned());
    let said = |what: &str| listed.iter().any(|entry| entry.what.starts_with(what));
    let mut because = |unknown: bool, names: &[&str]| {
        found.unless(!unknown || names.iter().any(|name| said(name)), || {
            format!("reasons: {} is unknown without one", names[0])
        });
    };
    let (traffic, downtime) = (&record.traffic, &record.downtime);
    because(traffic.total.is_none(), &["traffic", "the bytes of"]);
    let hidden = traffic.total.is_some() && record.phases.iter().any(|phase| phase.traffic.is_none());
    because(hidden, &["the bytes of some phases"]);
    because(record.start.realtime_ns.is_none(), &["wall time"]);
    // A guest that was not stopped was not unreachable for that.
    because(downtime.reachability.is_none() && downtime.stopped != Some(false), &["reachability"]);
    let moved = record.migration.outcome == Outcome::Completed;
    because(moved && downtime.stop.is_none(), &["stop"]);
    because(moved && downtime.network.is_none(), &["network"]);
    because(record.lost != Lost::default(), &["everything"]);
}

/// A person and a program can read it.
fn rendered(record: &Record, found: &mut Violations) {
    let text = report::text::render(record);
    for line in text.lines() {
        found.unless(line.width() <= usize::from(report::text::WIDTH), || {
            format!("text: {} columns: {line:?}", line.width())
        });
        found.unless(!line.chars().any(steers), || format!("text: it would steer the terminal: {line:?}"));
    }
    let again = report::json(record).and_then(|json| serde_json::from_str::<Record>(&json));
    match again {
        Ok(again) => found.unless(again == *record, || "JSON: it reads back as another record".to_owned()),
        Err(error) => found.0.push(format!("JSON: it does not read back: {error}")),
    }
}

/// Whether a terminal would not show a character in its place: controls, breaks of lines, marks that turn the direction.
fn steers(c: char) -> bool {
    let breaks_line = matches!(c, '\u{2028}' | '\u{2029}');
    let turns =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || breaks_line || turns
}

/// What stands in the record as it was observed, and so holds if the facts were coherent.
fn copied(record: &Record, found: &mut Violations) {
    for flow in &record.traffic.flows {
        found.unless(flow.first_ns <= flow.last_ns, || {
            format!("facts: {} began at {} and ended at {}", flow.flow, flow.first_ns, flow.last_ns)
        });
    }
    for (index, pair) in record.traffic.samples.windows(2).enumerate() {
        let (before, after) = (pair[0].wire_bytes, pair[1].wire_bytes);
        found.unless(before.tx <= after.tx && before.rx <= after.rx, || {
            format!("facts: sample {index} has {before:?}, and the next {after:?}")
        });
    }
    if let (Some(last), Some(total)) = (record.traffic.samples.last(), &record.traffic.total) {
        let within = last.wire_bytes.tx <= total.tx.wire_bytes && last.wire_bytes.rx <= total.rx.wire_bytes;
        found.unless(within, || format!("facts: the last sample is above the total: {last:?}"));
    }
    if let Some(echo) = &record.echo {
        echo_counts(echo, found);
    }
}

fn echo_counts(echo: &crate::vocabulary::Echo, found: &mut Violations) {
    let counts = echo.sent == echo.answered.saturating_add(echo.lost) && echo.late <= echo.answered;
    found.unless(counts, || format!("facts: the echo requests do not add up: {echo:?}"));
    let known = echo.interval_ns.is_some() == (echo.sent > 1);
    found.unless(known, || format!("facts: an interval of {} echo requests", echo.sent));
    let none_seen = echo.answered == 0 && echo.round_trip.is_some();
    found.unless(!none_seen, || "facts: a round trip without a reply".to_owned());
    let sorted = echo.round_trip.is_none_or(|trip| trip.p50_ns <= trip.p99_ns && trip.p99_ns <= trip.max_ns);
    found.unless(sorted, || format!("facts: {:?}", echo.round_trip));
    let seen = echo.worst_since_last_gap_ns != Some(0);
    found.unless(seen, || "facts: 0 stands for a round trip that was not seen".to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, LogReader};
    use crate::timeline::Timeline;

    /// The record of a canned log, as `change` makes it.
    fn violations(change: impl FnOnce(&mut Record)) -> String {
        let log = include_bytes!("../tests/logs/probed.jsonl");
        let events: Vec<Event> = LogReader::new(&log[..]).map(Result::unwrap).collect();
        let mut timeline = Timeline::default();
        events.iter().for_each(|event| timeline.push(event));
        let mut changed = timeline.finish().remove(0);
        change(&mut changed);
        record(&changed).err().unwrap_or_default()
    }

    #[test]
    fn a_sound_record_is_left_alone() {
        assert_eq!(violations(|_| {}), "");
    }

    #[test]
    fn each_kind_of_violation_is_found() {
        type Change = fn(&mut Record);
        let cases: [(&str, Change); 23] = [
            ("bounds", |r| r.total_time.as_mut().unwrap().high_ns = Some(1)),
            ("bounds", |r| r.downtime.stop.as_mut().unwrap().low_ns = u64::MAX),
            ("bounds", |r| r.gaps[0].start.low_ns = i64::MAX),
            ("bounds", |r| r.gaps[0].length.method = "".into()),
            ("identity", |r| r.migration.id = Some("00000000-0000-0000-0000-000000000000".to_owned())),
            ("identity", |r| r.start.error_ns = None),
            ("phases: there is none", |r| r.phases.clear()),
            ("phases: the first", |r| r.phases[0].start_ns = -1),
            ("has no name", |r| r.phases[1].name = "".into()),
            ("and the next begins", |r| r.phases[1].end_ns += 1),
            ("are not the total", |r| r.phases[1].traffic.as_mut().unwrap().rx.skbs -= 1),
            ("are more than the total", |r| r.phases[1].traffic.as_mut().unwrap().tx.wire_bytes += 1),
            ("phase bytes: known", |r| r.traffic.total = None),
            ("traffic: the total", |r| r.traffic.total = None),
            ("were resent", |r| r.traffic.retransmitted_segments = None),
            ("order: marks", |r| r.downtime.marks.reverse()),
            ("times: completed, and the outcome", |r| r.migration.outcome = Outcome::Failed),
            ("and the total is", |r| r.phases.last_mut().unwrap().start_ns -= 1),
            ("the setup took", |r| r.setup_time.as_mut().unwrap().value_ns += 1),
            ("that of no gap", |r| r.gaps.clear()),
            ("reasons", |r| r.downtime.reachability = None),
            ("facts: sample", |r| r.traffic.samples.last_mut().unwrap().wire_bytes.tx = 0),
            ("do not add up", |r| r.echo.as_mut().unwrap().lost += 1),
        ];
        for (says, change) in cases {
            let found = violations(change);
            assert!(found.contains(says), "{says}: {found}");
        }
    }

    #[test]
    fn wide_letters_and_long_addresses_fit_the_page() {
        let wide = violations(|r| r.vm.name = Some("仮想マシン".repeat(30)));
        assert_eq!(wide, "");
        let sign = violations(|r| r.migration.error = Some("\u{2764}\u{fe0f}".repeat(200)));
        assert_eq!(sign, "");
        let long = violations(|r| {
            let echo = r.echo.as_mut().unwrap();
            echo.target = "2001:db8:1111:2222:3333:4444:5555:6666".parse().unwrap();
            echo.peer = "2001:db8:1111:2222:3333:4444:5555:7777".parse().unwrap();
        });
        assert_eq!(long, "");
    }

    #[test]
    fn a_text_that_steers_the_terminal_is_found() {
        let mut found = Violations::default();
        for c in ['\u{1b}', '\u{202e}', '\u{2066}', '\u{200f}', '\u{2028}', '\u{85}'] {
            found.unless(!steers(c), || c.escape_unicode().to_string());
        }
        assert_eq!(found.0.len(), 6);
        assert!(!"Größe: 仮想 ± 1 µs █·●".chars().any(steers));
    }
}
