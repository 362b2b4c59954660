//! The checks leave a sound record alone, and find each kind of violation.

use super::rendering::steers;
use super::*;
use crate::event::{Event, LogReader};
use crate::record::Outcome;
use crate::timeline::Timeline;

/// The record of a canned log, as `change` makes it.
fn violations(change: impl FnOnce(&mut Record)) -> String {
    let log = include_bytes!("../../tests/logs/probed.jsonl");
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
    let cases: [(&str, Change); 24] = [
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
        ("the disks took more", |r| {
            let all = r.traffic.samples[0].wire_bytes;
            r.traffic.samples[0].disk_wire_bytes = Some(all.map(|bytes| bytes + 1));
        }),
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
