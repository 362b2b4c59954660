//! The traces of records, as those see them for whom they are made: Perfetto's own messages, its page in a browser, and its
//! `trace_processor`, which answers SQL.
//!
//! After a change that is meant: `UPDATE_GOLDEN=1 cargo test -p migtrace --test traces`, and read the difference.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::trace_viewer::TraceViewer;
use common::{demo, merged};
use migtrace::export::{chrome, perfetto};
use migtrace::record::{MarkName, Record, Vantage};
use migtrace_lab::Download;
use serde_json::Value;

/// Name, start and length of a slice, and how often there is one.
type Slices = BTreeMap<(String, i64, i64), usize>;

fn end(from_ns: i64, ns: u64) -> i64 {
    from_ns + i64::try_from(ns).unwrap()
}

/// What a record says that a trace must show, with times since its start.
fn said(record: &Record) -> Vec<(String, i64, i64)> {
    let mut said = Vec::new();
    for phase in &record.phases {
        let name = phase.pass.map_or(phase.name.to_string(), |pass| format!("pass {pass}"));
        said.push((name, phase.start_ns, phase.end_ns));
    }
    for part in &record.downtime.parts {
        said.push((part.name.to_string(), part.start_ns, end(part.start_ns, part.length.value_ns)));
    }
    for gap in &record.gaps {
        let name = if gap.length.low_ns > 0 { "no answer" } else { "possibly no answer" };
        said.push((name.to_owned(), gap.start.value_ns, end(gap.start.value_ns, gap.length.value_ns)));
    }
    said.extend(record.downtime.marks.iter().map(|mark| (mark.name.to_string(), mark.at_ns, mark.at_ns)));
    for flow in &record.traffic.flows {
        let carried = match serde_json::to_value(flow.purpose).unwrap().as_str().unwrap() {
            "ram" => "memory",
            "nbd" => "disk",
            other => panic!("{other}"),
        };
        said.push((format!("{carried}: {}", flow.flow), flow.first_ns, flow.last_ns));
    }
    let total_ns = record.total_time.as_ref().unwrap().value_ns;
    said.push((format!("{:?}", record.migration.outcome).to_lowercase(), 0, end(0, total_ns)));
    let begins: [(_, _, &[MarkName]); 3] = [
        ("stop", &record.downtime.stop, &[MarkName::AllVcpusStopped, MarkName::Stop]),
        ("network gap", &record.downtime.network, &[MarkName::LastGuestFrame]),
        ("reachability gap", &record.downtime.reachability, &[MarkName::LastAnsweredRequest]),
    ];
    for (name, figure, marks) in begins {
        let all = &record.downtime.marks;
        let mark = marks.iter().find_map(|name| all.iter().rfind(|mark| mark.name == *name));
        if let (Some(figure), Some(mark)) = (figure, mark) {
            said.push((name.to_owned(), mark.at_ns, end(mark.at_ns, figure.value_ns)));
        }
    }
    said
}

/// The slices of a trace; `origin_ns` is the time at which it begins to count.
fn slices(viewer: &mut TraceViewer, origin_ns: i64) -> Slices {
    let mut slices = Slices::new();
    for row in viewer.query("SELECT name, ts, dur FROM slice") {
        let number = |column: &str| row[column].as_str().unwrap().parse::<i64>().unwrap();
        let name = row["name"].as_str().unwrap().to_owned();
        *slices.entry((name, number("ts") - origin_ns, number("dur"))).or_default() += 1;
    }
    slices
}

/// Everything that is wrong with a loaded trace; its times count from `origin_ns` before the start of the record.
fn faults(viewer: &mut TraceViewer, records: &[Record], origin_ns: i64) -> Vec<String> {
    let mut faults = Vec::new();
    let troubles = "SELECT name, value FROM stats WHERE severity IN ('error', 'data_loss') AND value > 0";
    faults.extend(viewer.query(troubles).iter().map(|row| format!("trace_processor complains: {row}")));
    let mut shown = slices(viewer, origin_ns);
    for record in records {
        let start_ns = record.start.realtime_ns.unwrap() - records[0].start.realtime_ns.unwrap();
        for (name, from_ns, to_ns) in said(record) {
            let slice = (name, from_ns + start_ns, to_ns - from_ns);
            match shown.get_mut(&slice) {
                Some(left) if *left > 0 => *left -= 1,
                _ => faults.push(format!("not shown: {slice:?}")),
            }
        }
    }
    let sums = "SELECT max(value) AS sum FROM counter JOIN track ON track.id = track_id \
                WHERE name GLOB 'sent* so far*' GROUP BY track_id ORDER BY track_id";
    let sums: Vec<_> = viewer.query(sums).iter().map(|row| row["sum"].as_f64().unwrap()).collect();
    let sent: u64 = records.iter().filter_map(|record| Some(record.traffic.total?.tx.wire_bytes)).sum();
    if sums.iter().sum::<f64>().to_bits() != (sent as f64).to_bits() {
        faults.push(format!("{sums:?} bytes are shown, and {sent} were sent"));
    }
    let flows = "SELECT a.name || ' > ' || b.name AS flow FROM flow \
                 JOIN slice a ON slice_out = a.id JOIN slice b ON slice_in = b.id ORDER BY 1";
    let flows: Vec<_> =
        viewer.query(flows).iter().map(|row| row["flow"].as_str().unwrap().to_owned()).collect();
    let mut expected: Vec<_> = records.iter().flat_map(arrows).collect();
    expected.sort();
    if flows != expected {
        faults.push(format!("these arrows are shown: {flows:?}, and not {expected:?}"));
    }
    faults
}

/// From which mark of the source, or the destination, an arrow goes to which of the destination.
fn arrows(record: &Record) -> Vec<String> {
    let last = |role, names: &[&str]| {
        let marks = &record.downtime.marks;
        names
            .iter()
            .find_map(|name| marks.iter().rfind(|mark| mark.role == role && mark.name.as_str() == *name))
    };
    let (source, destination) = (Vantage::Source, Vantage::Destination);
    let run = last(destination, &["first-vcpu-run", "resume"]);
    let pairs = [
        (last(source, &["all-vcpus-stopped", "stop"]), run),
        (last(source, &["last-byte"]), last(destination, &["last-byte"])),
        (last(destination, &["last-byte"]), run),
        (last(source, &["last-guest-frame"]), last(destination, &["first-guest-frame"])),
    ];
    let both = pairs.into_iter().filter_map(|(from, to)| Some((from?, to?)));
    both.filter(|(from, to)| from.at_ns <= to.at_ns)
        .map(|(from, to)| format!("{} > {}", from.name, to.name))
        .collect()
}

/// Of both sides: with a disk, in post-copy, and several in one trace.
fn shown() -> Vec<(&'static str, Vec<Record>)> {
    let merged = |name| merged::merge(&merged::all(name)).unwrap();
    let several = ["precopy-7.2", "cancelled-7.2"].into_iter().flat_map(merged).collect();
    vec![
        ("demo", demo()),
        ("disk-copy-7.2", merged("disk-copy-7.2")),
        ("postcopy-recovered-10.0", merged("postcopy-recovered-10.0")),
        ("several", several),
    ]
}

/// The wall time at which a trace begins.
fn begin_ns(records: &[Record]) -> i64 {
    let begin = |record: &Record| {
        let start_ns = record.start.realtime_ns.unwrap();
        let first = said(record).into_iter().map(|(_, from_ns, _)| from_ns).min().unwrap();
        start_ns + first
    };
    records.iter().map(begin).min().unwrap()
}

/// The question that the documentation asks a trace.
fn question() -> String {
    let page = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/perfetto.md");
    let page = fs::read_to_string(page).unwrap();
    page.split("```sql\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap()
        .trim_end_matches([';', '\n'])
        .to_owned()
}

#[test]
fn perfetto_answers_the_question_of_the_documentation() {
    let mut viewer = TraceViewer::start();
    let records = demo();
    viewer.load(&perfetto::render(&records));
    let mut parts: Vec<_> = records[0].downtime.parts.iter().collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.length.value_ns));
    let rows = viewer.query(&question());
    assert_eq!(rows.len(), parts.len());
    for (row, part) in rows.iter().zip(parts) {
        assert_eq!(row["vm"], records[0].vm.name.as_deref().unwrap());
        assert_eq!(row["part"], part.name.as_str());
        assert!(row["host"].as_str().unwrap().ends_with(&part.host), "{row}");
    }
}

#[test]
fn perfetto_shows_what_the_record_says() {
    let mut viewer = TraceViewer::start();
    for (name, records) in shown() {
        viewer.load(&perfetto::render(&records));
        // Its times are the wall clock's.
        let found = faults(&mut viewer, &records, records[0].start.realtime_ns.unwrap());
        assert!(found.is_empty(), "{name}: {found:#?}");
        let clock = &viewer.query("SELECT trace_start() AS start, to_realtime(trace_start()) AS real")[0];
        assert_eq!(clock["real"], begin_ns(&records).to_string(), "{name}");
        assert_eq!(clock["start"], clock["real"], "{name}");
        let folders = "SELECT count(*) AS n FROM track AS a JOIN track AS b ON b.parent_id = a.id \
                       WHERE a.parent_id IS NULL AND b.name = 'guest'";
        assert_eq!(viewer.query(folders)[0]["n"], records.len().to_string(), "{name}");
    }
}

#[test]
fn perfetto_reads_the_format_of_chrome_too() {
    let mut viewer = TraceViewer::start();
    for (name, records) in shown() {
        let trace = chrome::render(&records);
        viewer.load(trace.as_bytes());
        // It counts from its first instant.
        let found = faults(&mut viewer, &records, records[0].start.realtime_ns.unwrap() - begin_ns(&records));
        assert!(found.is_empty(), "{name}: {found:#?}");
        let trace: Value = serde_json::from_str(&trace).unwrap();
        let start: jiff::Timestamp = trace["otherData"]["start"].as_str().unwrap().parse().unwrap();
        assert_eq!(start.as_nanosecond(), i128::from(begin_ns(&records)), "{name}");
    }
}

/// Otherwise the other tests would prove nothing.
#[test]
fn a_trace_that_was_changed_is_noticed() {
    let mut viewer = TraceViewer::start();
    let records = demo();
    let origin_ns = records[0].start.realtime_ns.unwrap();
    let mut changed = records.clone();
    changed[0].downtime.parts[1].length.value_ns += 1;
    changed[0].downtime.marks.remove(0);
    let byte = changed[0].downtime.marks.iter().position(|mark| mark.name == MarkName::LastByte).unwrap();
    changed[0].downtime.marks.remove(byte);
    changed[0].traffic.samples.iter_mut().for_each(|sample| sample.wire_bytes.tx += 1);
    viewer.load(&perfetto::render(&changed));
    let found = faults(&mut viewer, &records, origin_ns);
    for what in ["pre-switchover", "last-answered-request", "were sent", "these arrows"] {
        assert!(found.iter().any(|fault| fault.contains(what)), "{what}: {found:#?}");
    }
    let mut trace = perfetto::render(&records);
    trace.truncate(trace.len() - 5);
    viewer.load(&trace);
    assert!(!faults(&mut viewer, &records, origin_ns).is_empty());
}

/// Prints a trace as text, and fails at anything in it that Perfetto's messages do not have.
const PARSE: &str = r"
import sys
from google.protobuf.unknown_fields import UnknownFieldSet
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

def unknown(message):
    count = len(UnknownFieldSet(message))
    for field, value in message.ListFields():
        if field.message_type:
            count += sum(map(unknown, value if field.is_repeated else [value]))
    return count

trace = Trace()
trace.ParseFromString(open(sys.argv[1], 'rb').read())
if unknown(trace):
    sys.exit(f'{unknown(trace)} unknown fields')
print(trace)
";

/// A trace as Perfetto's own messages read it.
fn parsed(trace: &[u8]) -> Result<String, String> {
    let root = Download::Perfetto.fetched().unwrap().expect("run `cargo xtask setup`");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trace");
    fs::write(&file, trace).unwrap();
    let output =
        Command::new("python3").args(["-c", PARSE]).arg(&file).env("PYTHONPATH", root).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    if output.status.success() { Ok(String::from_utf8(output.stdout).unwrap()) } else { Err(error) }
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/traces").join(name)
}

#[test]
fn small_records_give_the_traces_that_are_kept() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut differing = Vec::new();
    for name in ["failed-in-setup", "hostile-name", "facts-lost-later"] {
        let records = common::replay(name);
        let perfetto = parsed(&perfetto::render(&records)).unwrap();
        for (suffix, got) in [("perfetto.txt", perfetto), ("chrome.json", chrome::render(&records))] {
            let path = golden(&format!("{name}.{suffix}"));
            if update {
                fs::write(&path, got).unwrap();
            } else if fs::read_to_string(&path).unwrap_or_default() != got {
                differing.push(path);
            }
        }
    }
    assert!(differing.is_empty(), "these differ from what the logs give now: {differing:#?}");
}

#[test]
fn every_field_is_one_of_perfettos() {
    let mut all: Vec<Record> = common::log_names().iter().flat_map(|name| common::replay(name)).collect();
    for name in merged::names() {
        all.extend(merged::merge(&merged::all(&name)).unwrap());
    }
    all.extend(demo());
    let trace = perfetto::render(&all);
    let text = parsed(&trace).unwrap();
    assert_eq!(text.matches("track_descriptor {").count() - all.len(), text.matches("parent_uuid: ").count());
    // A field that the protocol does not have.
    let stranger = [trace, vec![0xfa, 0xff, 0x03, 0x00]].concat();
    assert!(parsed(&stranger).unwrap_err().contains("unknown fields"));
}

/// Shows the stop of the demo, with all tracks and with the arrow from the stop to the run.
const SHOW_STOP: &str = r"(async () => {
    const trace = window.app.trace;
    const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
    await pause(6000);
    await window.app.commands.runCommand('dev.perfetto.ExpandAllGroups');
    const sql = `SELECT id, ts FROM slice WHERE name = 'stop' AND dur = 0`;
    const stop = (await trace.engine.query(sql)).firstRow({ id: 0, ts: 0n });
    trace.selection.selectSqlEvent('slice', stop.id, { switchToCurrentSelectionTab: false });
    trace.timeline.setViewportTime(stop.ts - 30000000n, stop.ts + 390000000n);
    await pause(3000);
})()";

/// `cargo xtask picture --perfetto` asks for it.
#[test]
#[ignore = "draws a picture for the documentation"]
fn the_picture_in_the_documentation_is_drawn() {
    let mut viewer = TraceViewer::start();
    viewer.load(&perfetto::render(&demo()));
    viewer.evaluate(SHOW_STOP);
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/perfetto.png");
    fs::write(file, viewer.picture()).unwrap();
}
