//! What receivers that migtrace has not written make of what it sends: Rotel, OtelTap and OpenTelemetry's own messages in
//! Python.

#![cfg(feature = "otlp")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::merged;
use migtrace::export::ids::Ids;
use migtrace::export::metrics::{MIGRATIONS, STOP, TOTAL};
use migtrace::export::otlp::queue::{Limits, Queue};
use migtrace::export::otlp::send::Settings;
use migtrace::export::otlp::{Exporter, Origin, ThisHost};
use migtrace::record::{Estimate, Record};
use migtrace_lab::Download;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// The wheels, unpacked.
fn receivers() -> PathBuf {
    Download::Otlp.fetched().unwrap().expect("no receivers of OTLP: run `cargo xtask setup`")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// A child that does not outlive its test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The collector Rotel. It prints what it receives.
struct Rotel {
    grpc: String,
    http: String,
    log: PathBuf,
    _child: Killed,
    _folder: tempfile::TempDir,
}

/// A span as Rotel prints it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Printed {
    trace: String,
    parent: String,
    id: String,
    name: String,
}

impl Rotel {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("rotel.log");
        let [grpc, http] = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
        let mut command = Command::new(receivers().join("rotel/rotel-agent"));
        command.args(["start", "--otlp-grpc-endpoint", &grpc, "--otlp-http-endpoint", &http]);
        command.args(["--exporter", "blackhole", "--debug-log-verbosity", "detailed"]);
        command.args(["--debug-log", "traces", "--debug-log", "metrics"]);
        command.stdin(Stdio::null()).stdout(File::create(&log).unwrap()).stderr(Stdio::null());
        let child = Killed(command.spawn().unwrap());
        for address in [&grpc, &http] {
            wait_for("Rotel listens", || TcpStream::connect(address).ok());
        }
        let [grpc, http] = [grpc, http].map(|address| format!("http://{address}"));
        Self { grpc, http, log, _child: child, _folder: folder }
    }

    fn printed(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// The spans, once there are so many.
    fn spans(&self, number: usize) -> Vec<Printed> {
        wait_for("Rotel has the spans", || Some(spans(&self.printed())).filter(|found| found.len() >= number))
    }
}

fn spans(printed: &str) -> Vec<Printed> {
    let mut found: Vec<Printed> = Vec::new();
    for line in printed.lines() {
        if line.starts_with("Span #") {
            found.push(Printed::default());
        }
        let Some(span) = found.last_mut() else { continue };
        let field = |name: &str| {
            let rest = line.strip_prefix("    ")?.strip_prefix(name)?.trim_start().strip_prefix(':')?;
            Some(rest.trim().to_owned())
        };
        if let Some(value) = field("Trace ID") {
            span.trace = value;
        } else if let Some(value) = field("Parent ID") {
            span.parent = value;
        } else if let Some(value) = field("ID") {
            span.id = value;
        } else if let Some(value) = field("Name") {
            span.name = value;
        }
    }
    // The last one may not be complete yet.
    found.retain(|span| !span.name.is_empty());
    found
}

fn log(name: &str, host: &str) -> PathBuf {
    merged::folder().join(name).join(format!("{host}.jsonl"))
}

/// Runs `migtrace report LOG --otlp ENDPOINT` with these variables, which must succeed.
fn report(log: &Path, endpoint: &str, variables: &[(&str, &str)]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_migtrace"));
    command.arg("report").arg(log).args(["--otlp", endpoint]).envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!output.stdout.is_empty() && output.stderr.is_empty());
}

const GRPC: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
const JSON: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json");
const GZIP: (&str, &str) = ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip");

#[test]
fn two_halves_meet_in_one_trace_at_rotel_and_come_again_as_the_same_spans() {
    let rotel = Rotel::start();
    let name = "precopy-7.2";
    let [source, destination] = ["source", "destination"].map(|host| log(name, host));
    report(&source, &rotel.grpc, &[GRPC]);
    report(&destination, &rotel.http, &[]);
    let both = [&source, &destination].map(|log| {
        let records =
            merged::merge(&[merged::log(name, log.file_stem().unwrap().to_str().unwrap())]).unwrap();
        records[0].phases.len() + 1
    });
    // The source's stop is known by a bound.
    let number = both[0] + both[1] + 1;
    let first = rotel.spans(number);
    assert_eq!(first.len(), number);
    let traces: BTreeSet<_> = first.iter().map(|span| &span.trace).collect();
    let record = merged::merge_one(&merged::both(name));
    assert_eq!(traces.into_iter().collect::<Vec<_>>(), [&Ids::of(&record).trace.to_string()]);
    let ids: BTreeSet<_> = first.iter().map(|span| span.id.clone()).collect();
    assert_eq!(ids.len(), number);
    let roots = first.iter().filter(|span| span.parent.is_empty() || span.parent == "0".repeat(16));
    assert_eq!(roots.count(), 1);
    let dangling = first.iter().filter(|span| !span.parent.is_empty() && !ids.contains(&span.parent));
    assert_eq!(dangling.count(), 0, "{first:#?}");
    // Again, in all other ways.
    report(&source, &rotel.http, &[GZIP]);
    report(&destination, &rotel.grpc, &[GRPC, GZIP]);
    report(&source, &rotel.http, &[JSON]);
    let all = rotel.spans(2 * number + both[0] + 1);
    assert_eq!(all.iter().map(|span| span.id.clone()).collect::<BTreeSet<_>>(), ids);
}

#[test]
fn rotel_understands_the_metrics_and_their_exemplars() {
    for (protocol, aggregation) in
        [(GRPC.1, "base2_exponential_bucket_histogram"), ("http/protobuf", "explicit_bucket_histogram")]
    {
        let rotel = Rotel::start();
        let endpoint = if protocol == GRPC.1 { &rotel.grpc } else { &rotel.http };
        let variables = [(GRPC.0, protocol), (AGGREGATION, aggregation)];
        let variable = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).into());
        let settings = Settings::read(variable, Some(endpoint)).unwrap();
        let origin = Origin { this_host: Some(ThisHost::read().unwrap()), ..Origin::default() };
        let queue = Queue::in_memory(Limits::default());
        let exporter = Exporter::start(&settings, origin, queue, |said| panic!("{said}")).unwrap();
        let record = common::replay("vcpus").remove(0);
        exporter.send(&record).unwrap();
        exporter.send(&record).unwrap();
        let counts = exporter.shutdown(PATIENCE);
        assert!(counts.is_all_sent() && counts.sent == 2 && counts.metrics_failed == 0, "{counts:?}");
        let printed = wait_for("Rotel has the metrics", || {
            Some(rotel.printed()).filter(|printed| printed.contains("migtrace.migration.wire"))
        });
        for name in ["migtrace.migrations", "migtrace.migration.stop", "migtrace.migration.duration"] {
            assert!(printed.contains(name), "{printed}");
        }
        assert!(printed.contains(&Ids::of(&record).trace.to_string()), "no exemplar: {printed}");
        assert!(printed.contains("service.instance.id"), "{printed}");
    }
}

/// What OtelTap receives while something is sent to its port.
fn tapped(what: &str, wanted: usize, send: impl FnOnce(&str)) -> Vec<Value> {
    let port = free_port();
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/otlp/receive.py");
    let mut command = Command::new("python3");
    command.arg(script).args([&port.to_string(), what, &wanted.to_string()]);
    command.env("PYTHONPATH", receivers()).stdout(Stdio::piped());
    let mut child = Killed(command.spawn().unwrap());
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("ready"));
    send(&format!("http://127.0.0.1:{port}"));
    lines.map(|line| serde_json::from_str(&line).unwrap()).take(wanted).collect()
}

#[test]
fn oteltap_sees_a_merged_migration_with_its_link_events_and_bounds() {
    let name = "observed-7.2";
    let record = merged::merge_one(&merged::all(name));
    let gaps = record.gaps.iter().filter(|gap| gap.lost + gap.late > 0 || gap.is_sure()).count();
    let wanted = 2 + record.phases.len() + 1 + record.downtime.parts.len() + 1 + gaps;
    let logs = ["source", "destination", "observer"].map(|host| log(name, host));
    let spans = tapped("spans", wanted, |endpoint| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_migtrace"));
        command.arg("merge").args(&logs).args(["--otlp", endpoint]);
        command.args(["--traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
    let of_name = |name: &str| spans.iter().find(|span| span["name"] == name).unwrap();
    let ids: BTreeMap<_, _> = spans.iter().map(|span| (span["id"].as_str().unwrap(), span)).collect();
    assert_eq!(ids.len(), wanted);
    for span in &spans {
        let parent = span["parent"].as_str().unwrap();
        assert!(parent.is_empty() || ids.contains_key(parent), "{span}");
    }
    let stop = record.downtime.stop.as_ref().unwrap();
    let seen = of_name("stop");
    assert_eq!(seen["end"].as_u64().unwrap() - seen["start"].as_u64().unwrap(), stop.value_ns);
    assert_eq!(seen["attributes"]["migtrace.length.low_ns"].as_u64(), Some(stop.low_ns));
    assert_eq!(seen["attributes"]["migtrace.length.high_ns"].as_u64(), stop.high_ns);
    let root = spans.iter().find(|span| span["parent"] == "").unwrap();
    assert_eq!(root["links"][0], "4bf92f3577b34da6a3ce929d0e0e4736");
    let start_ns = u64::try_from(record.start.realtime_ns.unwrap()).unwrap();
    assert_eq!(root["start"].as_u64(), Some(start_ns));
    let events: BTreeSet<_> = spans
        .iter()
        .flat_map(|span| span["events"].as_array().unwrap())
        .map(|name| name.as_str().unwrap())
        .collect();
    for mark in &record.downtime.marks {
        assert!(events.contains(mark.name.as_str()), "{}: {events:?}", mark.name);
    }
}

/// Enough migrations for metrics of each name.
fn replayed() -> Vec<Record> {
    common::log_names().iter().flat_map(|name| common::replay(name)).collect()
}

/// The metrics of migrations, as OtelTap receives them when the environment has these variables.
fn metrics_of(records: &[Record], variables: &[(&str, &str)]) -> Vec<Value> {
    tapped("metrics", 6, |endpoint| {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
        let settings = Settings::read(find, Some(endpoint)).unwrap();
        let queue = Queue::in_memory(Limits::default());
        let exporter = Exporter::start(&settings, Origin::default(), queue, |said| panic!("{said}")).unwrap();
        for record in records {
            // Some cannot have a trace. All are counted.
            let _ = exporter.send(record);
        }
        assert_eq!(exporter.shutdown(PATIENCE).metrics_failed, 0);
    })
}

const AGGREGATION: &str = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION";
const NO_TRACES: (&str, &str) = ("OTEL_TRACES_EXPORTER", "none");

#[test]
fn oteltap_counts_in_explicit_buckets_the_migrations_whose_values_are_in_them() {
    let records = replayed();
    let variables = [
        NO_TRACES,
        (AGGREGATION, "explicit_bucket_histogram"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
    ];
    let metrics = metrics_of(&records, &variables);
    let seconds = |estimate: &Option<Estimate>| estimate.as_ref().map(|known| known.value_ns as f64 / 1e9);
    let expected: [(&str, Vec<f64>); 2] = [
        (STOP.name, records.iter().filter_map(|record| seconds(&record.downtime.stop)).collect()),
        (TOTAL.name, records.iter().filter_map(|record| seconds(&record.total_time)).collect()),
    ];
    for (name, values) in expected {
        assert!(values.len() > 10, "{name}: {}", values.len());
        let metric = metrics.iter().find(|metric| metric["name"] == name).unwrap();
        assert_eq!((metric["unit"].as_str(), metric["temporality"].as_u64()), (Some("s"), Some(1)));
        let points = metric["points"].as_array().unwrap();
        let bounds: Vec<f64> = serde_json::from_value(points[0]["bounds"].clone()).unwrap();
        let all = [f64::NEG_INFINITY].into_iter().chain(bounds).chain([f64::INFINITY]).collect::<Vec<_>>();
        for (place, bounds) in all.windows(2).enumerate() {
            let inside = values.iter().filter(|value| **value > bounds[0] && **value <= bounds[1]).count();
            let counted: u64 = points.iter().map(|point| point["counts"][place].as_u64().unwrap()).sum();
            assert_eq!(counted, inside as u64, "{name} in ({}, {}]", bounds[0], bounds[1]);
        }
        let sum: f64 = points.iter().map(|point| point["sum"].as_f64().unwrap()).sum();
        let expected: f64 = values.iter().sum();
        assert!((sum - expected).abs() < 1e-6, "{name}: {sum} and not {expected}");
    }
    for metric in &metrics {
        let kind = if metric["name"] == MIGRATIONS.name { "sum" } else { "histogram" };
        assert_eq!(metric["kind"], kind, "{metric}");
        for point in metric["points"].as_array().unwrap().iter().filter(|_| kind == "histogram") {
            let counts: Vec<u64> = serde_json::from_value(point["counts"].clone()).unwrap();
            assert_eq!(counts.iter().sum::<u64>(), point["count"].as_u64().unwrap(), "{metric}");
            assert_eq!(counts.len(), point["bounds"].as_array().unwrap().len() + 1, "{metric}");
            let filled = counts.iter().filter(|count| **count > 0).count();
            assert_eq!(filled, point["exemplars"].as_array().unwrap().len(), "{metric}");
        }
    }
}

#[test]
fn oteltap_gets_exponential_histograms_unless_the_environment_asks_for_others() {
    let records = replayed();
    let stops = records.iter().filter(|record| record.downtime.stop.is_some()).count();
    let asked = [NO_TRACES, (AGGREGATION, "base2_exponential_bucket_histogram")];
    for variables in [&asked[..1], &asked[..]] {
        let metrics = metrics_of(&records, variables);
        let stop = metrics.iter().find(|metric| metric["name"] == STOP.name).unwrap();
        assert_eq!(stop["kind"], "exponential_histogram", "{stop}");
        let counts = stop["points"].as_array().unwrap().iter().map(|point| point["count"].as_u64().unwrap());
        assert_eq!(counts.sum::<u64>(), stops as u64, "{stop}");
    }
}

#[test]
fn the_lines_of_json_are_what_opentelemetrys_own_messages_parse() {
    let names: Vec<_> = common::log_names().into_iter().filter(|name| name != "truncated").collect();
    let mut lines = String::new();
    let mut expected = BTreeSet::new();
    for name in names {
        for record in common::replay(&name) {
            let request = migtrace::export::otlp::trace_request(&record, &Origin::default()).unwrap();
            lines += &(migtrace::export::otlp::json_line(&request).unwrap() + "\n");
            let trace = Ids::of(&record);
            expected.insert(format!("{}\t{}", trace.trace, trace.migration(&record)));
        }
    }
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/otlp/parse.py");
    let mut command = Command::new("python3");
    command.arg(script).env("PYTHONPATH", receivers()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = thread::spawn(move || input.write_all(lines.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    let parsed: BTreeSet<_> = printed
        .lines()
        .filter(|line| line.ends_with("\tmigration"))
        .map(|line| line.split('\t').take(2).collect::<Vec<_>>().join("\t"))
        .collect();
    assert_eq!(parsed, expected);
}

/// Runs `migtrace report` of one log with these options.
fn report_with(options: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_migtrace"));
    command.arg("report").arg(log("precopy-7.2", "source")).args(options);
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let [out, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    (output.status.code(), out, error)
}

#[test]
fn a_collector_that_is_away_costs_no_report_and_the_queue_keeps_the_trace() {
    let away = format!("http://127.0.0.1:{}", free_port());
    let (_, expected, _) = report_with(&[], &[]);
    let short = [("OTEL_EXPORTER_OTLP_TIMEOUT", "500")];
    let (code, out, error) = report_with(&["--otlp", &away], &short);
    assert_eq!((code, &out), (Some(1), &expected), "{error}");
    assert!(error.contains("a trace did not reach http://127.0.0.1:"), "{error}");
    assert!(error.contains("Connection refused"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let queue = folder.path().join("queue").display().to_string();
    let (code, out, error) = report_with(&["--otlp", &away, "--otlp-queue", &queue], &short);
    assert_eq!((code, &out), (Some(0), &expected), "{error}");
    assert!(error.contains("a trace waits in --otlp-queue"), "{error}");
    let rotel = Rotel::start();
    let (code, _, error) = report_with(&["--otlp", &rotel.grpc, "--otlp-queue", &queue], &[GRPC]);
    assert_eq!((code, error.as_str()), (Some(0), ""));
    let roots = || rotel.spans(0).iter().filter(|span| span.name == "migration").count();
    wait_for("Rotel has both", || Some(()).filter(|()| roots() == 2));
    assert_eq!(fs::read_dir(&queue).unwrap().count(), 1, "only the lock is left");
}

#[test]
fn what_is_wrong_with_the_options_is_one_clear_error() {
    let cases: [(&[&str], i32, &str); 3] = [
        (&["--otlp", "localhost:4318"], 1, "--otlp: `localhost:4318"),
        (&["--traceparent", "00-1-2-3"], 2, "its trace id is not 32 hexadecimal digits"),
        (&["--otlp-queue", "/tmp"], 2, "--otlp"),
    ];
    for (options, expected, why) in cases {
        let (code, out, error) = report_with(options, &[]);
        assert_eq!((code, out.as_str()), (Some(expected), ""), "{error}");
        assert!(error.contains(why), "{error}");
    }
    let (code, out, error) = report_with(&["--otlp"], &[("OTEL_SDK_DISABLED", "true")]);
    assert!(code == Some(0) && !out.is_empty());
    assert_eq!(error, "migtrace: OTEL_SDK_DISABLED is true: nothing is sent\n");
}
