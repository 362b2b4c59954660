//! Every event that QEMU writes to its monitors is either read or counted as lost.

use crate::support::monitor_writer::{MonitorWriter, NUMBER, RecordedLines, event, pretty, record};
use crate::support::{GUEST_PATIENCE, MIGRATION_PORT, network};
use migtrace_lab::migtrace_command::Recording;
use migtrace_lab::{BareQemu, Connection, Host, Lab};
use nix::sys::signal::Signal;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

#[test]
fn every_shape_of_an_event_is_read() {
    assert_every_shape_is_read(network().source());
}

#[test]
fn a_flood_of_events_is_counted_and_hides_no_other_process() {
    assert_a_flood_is_counted_and_hides_no_other_process(network().source(), 100_000);
}

#[test]
fn each_event_on_a_pretty_monitor_is_read() {
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
    let recorded = RecordedLines::stop(recording);
    // Both monitors write each event, with one name and one stamp.
    let mut repeated = BTreeMap::<_, usize>::new();
    for event in recorded.of_kind("qmp").filter(|event| event["pid"] == pid) {
        *repeated.entry((event["name"].to_string(), event["qemu_realtime_us"].to_string())).or_default() += 1;
    }
    assert_eq!(repeated.len(), 20, "{repeated:?}");
    assert!(repeated.values().all(|&count| count == 2), "{repeated:?}");
    assert_eq!(recorded.lost("qmp_lines"), 0);
}

#[test]
fn a_process_never_lost_more_lines_than_all_processes_together() {
    let lab = network();
    let mut flood = MonitorWriter::start(lab.source());
    let pid = flood.pid();
    let recording = record(lab.source(), &[&flood]);
    // It still writes while both counters are read.
    flood.repeat(&event(NUMBER, 0), u64::MAX, Duration::ZERO);
    recording.wait_for_event(" lines were dropped so far", GUEST_PATIENCE).unwrap();
    let recorded = RecordedLines::stop(recording);
    let reasons = recorded.not_measured(pid);
    let in_all = reasons.last().unwrap().strip_suffix(" lines were dropped in all").unwrap();
    let of_process: u64 = in_all.rsplit_once(' ').unwrap().1.parse().unwrap();
    let of_all = recorded.lost("qmp_lines");
    assert!(of_process <= of_all, "{of_process} of {of_all}");
}

#[test]
fn events_on_a_connection_of_a_migration_are_ignored() {
    assert_events_on_a_connection_of_a_migration_are_ignored(network().source());
}

#[test]
fn lines_that_nobody_reads_push_no_other_messages_out() {
    assert_lines_push_no_other_messages_out(&network());
}

/// Events are read however they are written: whole or in pieces, one or several at once, with QEMU's spaces.
pub(crate) fn assert_every_shape_is_read(host: &Host) {
    let mut writer = MonitorWriter::start(host);
    let pid = writer.pid();
    let recording = record(host, &[&writer]);
    let mut numbers = 0..;
    let mut next = || numbers.next().unwrap();
    let reply = "{\"return\": {\"secret\": 1}}\r\n";

    writer.write(&[&event(next(), 0)]);
    // Two in one write.
    writer.write(&[&(event(next(), 0) + &event(next(), 0))]);
    // In pieces: the first is too short to recognise an event, and some are empty.
    for splits in [[1, 9], [5, 40], [14, 15]] {
        let text = event(next(), 100);
        writer.write(&[&text[..splits[0]], "", &text[splits[0]..splits[1]], &text[splits[1]..]]);
    }
    // Each piece of the longest length that the verifier has to assume.
    let (long, longer) = (event(next(), 1_900), event(next(), 1_900));
    writer.write(&[&long, &longer]);
    writer.write(&[&event(next(), 3_000)]);
    writer.write(&[&pretty(next())]);
    writer.write(&[&pretty(next()), &pretty(next())]);
    // As a monitor with `pretty=on` writes events and replies: line by line.
    for _ in 0..3 {
        for line in pretty(next()).split_inclusive('\n') {
            writer.write(&[line]);
        }
        for line in ["{\r\n", "    \"return\": {\r\n", "        \"secret\": 1\r\n", "    }\r\n", "}\r\n"] {
            writer.write(&[line]);
        }
    }
    // A reply, alone and between events.
    writer.write(&[reply]);
    writer.write(&[&(event(next(), 0) + reply + &event(next(), 0))]);
    let sound = next();

    // From here on a part of each write cannot be read; what precedes it still is.
    writer.write(&[&(event(sound, 0) + &event(7_000, 5_000))]);
    let text = event(next(), 0);
    writer.write(&[&text, "{", "\"timestamp\"", ": ", "{}}"]);
    writer.write(&[&(event(next(), 0) + "garbage\r\n" + &event(next(), 0))]);
    // A write that does not begin as an event does is not examined.
    writer.write(&[&(reply.to_owned() + &event(8_000, 0))]);
    let last = next();
    writer.write(&[&event(last, 0)]);

    let written = writer.finish();
    writer.end();
    assert_eq!(written.matches("MIGRATION_PASS").count() as u64, last + 1 + 2, "{written}");
    let recorded = RecordedLines::stop(recording);
    assert_eq!(recorded.numbers(pid), (0..=last).collect::<Vec<_>>());
    assert_eq!(recorded.lost("qmp_lines"), 3);
    assert_eq!((recorded.lost("ring_buffer"), recorded.lost("hook_calls")), (0, 0));
    assert!(!recorded.mentions("secret"));
    let reasons = recorded.not_measured(pid);
    assert_eq!(reasons.last(), Some(&"3 of its lines were too long or not QMP in all"), "{reasons:?}");
}

/// One process writes `flooded` events without pause, another writes as a QEMU does: all of the other's are read.
pub(crate) fn assert_a_flood_is_counted_and_hides_no_other_process(host: &Host, flooded: u64) {
    const QUIET: u64 = 200;
    let (mut flood, mut quiet) = (MonitorWriter::start(host), MonitorWriter::start(host));
    let (flood_pid, quiet_pid) = (flood.pid(), quiet.pid());
    let recording = record(host, &[&flood, &quiet]);
    flood.repeat(&event(NUMBER, 0), flooded, Duration::ZERO);
    quiet.repeat(&event(NUMBER, 0), QUIET, Duration::from_millis(10));
    quiet.finish();
    flood.finish();
    flood.end();
    let recorded = RecordedLines::stop(recording);
    quiet.end();

    let skipped = recorded.lost("hook_calls");
    assert_eq!(recorded.lost("ring_buffer"), 0);
    let others = recorded.numbers(quiet_pid);
    assert_eq!(others, (0..QUIET).collect::<Vec<_>>(), "and {skipped} were skipped");
    let read = recorded.numbers(flood_pid);
    assert!(read.is_sorted_by(|a, b| a < b), "{read:?}");
    // At least the first burst was read, completely and in order.
    assert_eq!(read[..1_000], (0..1_000).collect::<Vec<_>>());
    let dropped = recorded.lost("qmp_lines");
    let reasons = recorded.not_measured(flood_pid);
    let in_all = format!(": {dropped} lines were dropped in all");
    assert!(reasons.last().is_some_and(|why| why.ends_with(&in_all)), "{dropped}: {reasons:?}");
    assert!(dropped > flooded / 2, "{dropped}");
    assert_eq!(recorded.not_measured(quiet_pid), [""; 0]);
    let known = read.len() as u64 + dropped;
    assert!(known <= flooded && known + skipped >= flooded, "{} + {dropped}, {skipped} skipped", read.len());
}

/// A guest decides what is in the memory that its QEMU sends, so what looks like an event on a migration's connection is
/// ignored. On another TCP connection it counts: that may be a monitor.
pub(crate) fn assert_events_on_a_connection_of_a_migration_are_ignored(host: &Host) {
    let (mut monitor, mut migration) =
        (MonitorWriter::start_at_port(host, 4444), MonitorWriter::start_at_port(host, MIGRATION_PORT));
    let (monitor_pid, migration_pid) = (monitor.pid(), migration.pid());
    let recording = record(host, &[&monitor, &migration]);
    for writer in [&mut monitor, &mut migration] {
        writer.write(&[&event(0, 0)]);
        for line in pretty(1).split_inclusive('\n') {
            writer.write(&[line]);
        }
    }
    assert_eq!(monitor.finish(), migration.finish());
    let recorded = RecordedLines::stop(recording);
    monitor.end();
    migration.end();
    assert_eq!((recorded.numbers(monitor_pid), recorded.numbers(migration_pid)), (vec![0, 1], vec![]));
}

/// Lines that are not read in time fill a ring buffer of their own: connections that open meanwhile are still seen.
pub(crate) fn assert_lines_push_no_other_messages_out(lab: &Lab) {
    // What the budget of each process allows at once. Together they do not fit.
    const LINES: u64 = 900;
    let mut writers = [(); 5].map(|()| MonitorWriter::start(lab.source()));
    let recording = record(lab.source(), &writers.each_ref());
    recording.signal(Signal::SIGSTOP).unwrap();
    let pids = writers.each_ref().map(MonitorWriter::pid);
    for writer in &mut writers {
        writer.repeat(&event(NUMBER, 0), LINES, Duration::ZERO);
    }
    for writer in &mut writers {
        writer.finish();
    }
    // With only one ring buffer, these would not fit into what the last line left free.
    let mut ends = BTreeSet::new();
    for _ in 0..20 {
        let connection =
            Connection::open(lab.source(), lab.destination(), false, MIGRATION_PORT, 64 << 10).unwrap();
        ends.insert(connection.local().unwrap().to_string());
        connection.close().unwrap();
    }
    recording.signal(Signal::SIGCONT).unwrap();
    let recorded = RecordedLines::stop(recording);
    writers.into_iter().for_each(MonitorWriter::end);
    let read: u64 = pids.iter().map(|pid| recorded.numbers(*pid).len() as u64).sum();
    let lost = pids.len() as u64 * LINES - read;
    assert!(lost > 0);
    assert_eq!(recorded.lost("ring_buffer"), lost, "more than lines was lost");
    let seen = recorded.of_kind("flow_seen").map(|seen| seen["flow"]["local"].as_str().unwrap().to_owned());
    assert_eq!(seen.collect::<BTreeSet<_>>(), ends);
}
