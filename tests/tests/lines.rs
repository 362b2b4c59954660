//! The events that QEMU writes to its monitors: all of them are read, or counted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

mod talking;

use migtrace_lab::migtrace_command::Recording;
use migtrace_lab::{BareQemu, Lab};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use talking::{Heard, NUMBER, PATIENCE, Talker, event, record};

fn network() -> Lab {
    Lab::builder().without_guests().start().unwrap()
}

#[test]
fn every_shape_of_an_event_is_read() {
    talking::every_shape_of_an_event_is_read(network().source());
}

#[test]
fn a_flood_is_counted_and_leaves_room_for_the_others() {
    talking::a_flood_is_counted_and_leaves_room_for_the_others(network().source(), 100_000);
}

#[test]
fn each_event_is_read_from_a_pretty_monitor_too() {
    let lab = network();
    let mut qemu = BareQemu::start(lab.source(), "pretty").unwrap();
    let pid = qemu.pid();
    let recording = Recording::start(lab.source(), &[]).unwrap();
    let mut client = UnixStream::connect(qemu.pretty_qmp_socket()).unwrap();
    client.write_all(b"{\"execute\": \"qmp_capabilities\"}\n").unwrap();
    let mut answers = BufReader::new(client).lines().map(Result::unwrap);
    assert!(answers.any(|line| line == "    \"return\": {"));
    for _ in 0..10 {
        qemu.qmp().execute("stop", json!({})).unwrap();
        qemu.qmp().execute("cont", json!({})).unwrap();
    }
    let found = Heard::of(recording);
    // By its name and QEMU's stamp.
    let mut echoes = BTreeMap::<_, usize>::new();
    for event in found.of_kind("qmp").filter(|event| event["pid"] == pid) {
        *echoes.entry((event["name"].to_string(), event["qemu_realtime_us"].to_string())).or_default() += 1;
    }
    assert_eq!(echoes.len(), 20, "{echoes:?}");
    assert!(echoes.values().all(|&count| count == 2), "{echoes:?}");
    assert_eq!(found.lost("qmp_lines"), 0);
}

#[test]
fn what_a_process_lost_is_never_more_than_what_all_lost() {
    let lab = network();
    let mut flood = Talker::start(lab.source());
    let pid = flood.pid();
    let recording = record(lab.source(), &[&flood]);
    // It goes on while both are read.
    flood.repeat(&event(NUMBER, 0), u64::MAX, Duration::ZERO);
    recording.wait_for_event(" lines were dropped so far", PATIENCE).unwrap();
    let found = Heard::of(recording);
    let told = found.not_measured(pid);
    let in_all = told.last().unwrap().strip_suffix(" lines were dropped in all").unwrap();
    let of_process: u64 = in_all.rsplit_once(' ').unwrap().1.parse().unwrap();
    let of_all = found.lost("qmp_lines");
    assert!(of_process <= of_all, "{of_process} of {of_all}");
}

#[test]
fn events_on_a_connection_of_a_migration_are_none() {
    talking::events_on_a_connection_of_a_migration_are_none(network().source());
}

#[test]
fn lines_push_no_other_messages_out() {
    talking::lines_push_no_other_messages_out(&network());
}
