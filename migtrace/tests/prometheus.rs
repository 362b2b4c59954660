//! What Prometheus, promtool and node_exporter make of the metrics: those of Debian, which `cargo xtask setup` unpacks.

#![cfg(feature = "openmetrics")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use migtrace::export::openmetrics::{Dialect, Exporter, Running, Server, Textfile, past};
use migtrace::record::Record;
use migtrace::selection::Selection;
use migtrace::timeline::Timeline;
use migtrace::units::MonotonicNs;
use migtrace_lab::Download;
use serde_json::Value;

fn program(name: &str) -> PathBuf {
    let root = Download::Prometheus.fetched().unwrap();
    root.unwrap_or_else(|| panic!("Prometheus is not there: run `cargo xtask setup`"))
        .join("usr/bin")
        .join(name)
}

/// A program that is ended with the test.
struct Program(Child);

impl Program {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_nanos()).unwrap()
}

/// A port that nobody had a moment ago.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The body of an answer; none while nobody answers with 200.
fn get(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).filter(|status| *status == "200").map(|_| body.to_owned())
}

/// Waits for an answer that says something.
fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(200));
    }
}

fn quoted(query: &str) -> String {
    query
        .bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}

/// What Prometheus answers to a query.
fn query(address: SocketAddr, api: &str, query: &str, more: &str) -> Vec<Value> {
    let body = get(address, &format!("/api/v1/{api}?query={}{more}", quoted(query))).unwrap_or_default();
    let answer: Value = serde_json::from_str(&body).unwrap_or_default();
    let data = &answer["data"];
    data.as_array().or_else(|| data["result"].as_array()).cloned().unwrap_or_default()
}

fn value(row: &Value) -> f64 {
    row["value"][1].as_str().unwrap().parse().unwrap()
}

fn prometheus(folder: &Path, configuration: &str) -> (Program, SocketAddr) {
    let (address, file) = (free_address(), folder.join("prometheus.yml"));
    fs::write(&file, configuration).unwrap();
    let mut command = Command::new(program("prometheus"));
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.tsdb.path={}", folder.join("data").display()));
    command.arg(format!("--web.listen-address={address}")).arg("--enable-feature=exemplar-storage");
    command.args(["--storage.tsdb.retention.time=100y", "--log.level=error"]);
    let running = Program::start(&mut command);
    wait("Prometheus does not start", || get(address, "/-/ready"));
    (running, address)
}

/// A migration that is under way: the first half of a log.
fn running() -> Running {
    let mut timeline = Timeline::new(Selection::default());
    let (events, _) = common::events("precopy-7.2");
    let half = &events[..events.len() / 2];
    half.iter().for_each(|event| timeline.push(event));
    let now = half.iter().map(|event| event.at_ns).max().unwrap_or(MonotonicNs(0));
    Running { live: timeline.live(now).unwrap(), uuid: Some("u-1".to_owned()), remaining_bytes: None }
}

/// Serves on a thread, until the test ends.
fn serve(exporter: &Exporter) -> SocketAddr {
    let (tell, address) = mpsc::channel();
    let exporter = exporter.clone();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::bind("127.0.0.1:0".parse().unwrap(), exporter).await.unwrap();
            tell.send(server.address().unwrap()).unwrap();
            server.run().await;
        });
    });
    address.recv().unwrap()
}

fn stop_s(record: &Record) -> f64 {
    record.downtime.stop.as_ref().unwrap().value_ns as f64 / 1e9
}

#[test]
fn prometheus_scrapes_sums_gauges_and_exemplars() {
    let record = common::demo().remove(0);
    let exporter = Exporter::new(now_ns());
    let served = serve(&exporter);
    let folder = tempfile::tempdir().unwrap();
    let configuration = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: migtrace\n  static_configs:\n  - targets: ['{served}']\n"
    );
    let (_prometheus, address) = prometheus(folder.path(), &configuration);
    let ask = |text: &str| wait(text, || query(address, "query", text, "").into_iter().next());
    assert_eq!(value(&ask("up")).to_bits(), 1_f64.to_bits());
    ask("sum(migtrace_migrations_total) == 0");
    exporter.add(&record, now_ns());
    exporter.set_running([running()]);
    let stop = ask("migtrace_last_migration_stop_seconds");
    assert_eq!(value(&stop).to_bits(), stop_s(&record).to_bits());
    assert_eq!(stop["metric"]["domain"], record.vm.name.as_deref().unwrap());
    assert_eq!(stop["metric"]["uuid"], record.vm.uuid.as_deref().unwrap());
    let live = running().live;
    assert_eq!(ask("migtrace_live_phase == 1")["metric"]["migtrace_live_phase"], live.phase.as_str());
    let counted = ask("migtrace_migrations_total > 0");
    assert_eq!(value(&counted).to_bits(), 1_f64.to_bits());
    assert_eq!(counted["metric"]["migtrace_outcome"], record.migration.outcome.as_str());
    // The series was there before.
    ask("increase(migtrace_migrations_total[1m]) > 0");
    // The median of one is between the bounds of its bucket.
    let median = value(&ask("histogram_quantile(0.5, migtrace_migration_stop_seconds_bucket)"));
    assert!((0.3..=0.5).contains(&median), "{median}");
    let span = format!("&start={}&end={}", now_ns() / 1_000_000_000 - 600, now_ns() / 1_000_000_000 + 600);
    let found = query(address, "query_exemplars", "migtrace_migration_stop_seconds_bucket", &span);
    let exemplar = &found[0]["exemplars"][0];
    let text = exporter.text(Dialect::OpenMetrics);
    let trace = exemplar["labels"]["trace_id"].as_str().unwrap();
    assert!(text.contains(&format!("# {{trace_id=\"{trace}\"")), "{found:?}");
    assert_eq!(
        exemplar["value"].as_str().unwrap().parse::<f64>().unwrap().to_bits(),
        stop_s(&record).to_bits()
    );
}

#[test]
fn node_exporter_reads_the_textfile_and_promtool_finds_no_fault_in_it() {
    let record = common::demo().remove(0);
    let exporter = Exporter::new(now_ns());
    exporter.add(&record, now_ns());
    exporter.set_running([running()]);
    exporter.count_failure("record");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("migtrace.prom");
    Textfile::new(path.clone(), exporter).unwrap().write().unwrap();

    let address = free_address();
    let mut command = Command::new(program("prometheus-node-exporter"));
    command.args(["--collector.disable-defaults", "--collector.textfile"]);
    command.arg(format!("--collector.textfile.directory={}", folder.path().display()));
    command.arg(format!("--web.listen-address={address}"));
    let _node_exporter = Program::start(&mut command);
    let text = wait("node_exporter does not answer", || get(address, "/metrics"));
    assert!(text.lines().any(|line| line == "node_textfile_scrape_error 0"), "{text}");
    assert!(
        text.contains(&format!(
            "migtrace_last_migration_stop_seconds{{domain=\"{}\"",
            record.vm.name.unwrap()
        ))
    );

    let check = |text: fs::File| {
        Command::new(program("promtool")).args(["check", "metrics"]).stdin(text).output().unwrap()
    };
    let clean = check(fs::File::open(&path).unwrap());
    assert!(clean.status.success() && clean.stderr.is_empty(), "{}", String::from_utf8_lossy(&clean.stderr));
    let broken = folder.path().join("broken");
    fs::write(&broken, fs::read_to_string(&path).unwrap() + "migtrace_x{a=\"b} 1\n").unwrap();
    assert!(!check(fs::File::open(broken).unwrap()).status.success());
}

#[test]
fn past_migrations_become_blocks_that_prometheus_finds_at_their_time() {
    let record = common::demo().remove(0);
    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("past.om"), folder.path().join("data"));
    fs::write(&file, past(std::slice::from_ref(&record)).unwrap()).unwrap();
    let mut create = Command::new(program("promtool"));
    let created =
        create.args(["tsdb", "create-blocks-from", "openmetrics"]).args([&file, &data]).output().unwrap();
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let (_prometheus, address) = prometheus(folder.path(), "global: {scrape_interval: 1h}\n");
    let total_ns = i64::try_from(record.total_time.as_ref().unwrap().value_ns).unwrap();
    let ended_s = (record.start.realtime_ns.unwrap() + total_ns) / 1_000_000_000;
    let at = format!("&time={}", ended_s + 60);
    let found = query(address, "query", "migtrace_last_migration_stop_seconds", &at);
    assert_eq!(value(&found[0]).to_bits(), stop_s(&record).to_bits());
    let before = format!("&time={}", ended_s - 1);
    assert!(query(address, "query", "migtrace_last_migration_stop_seconds", &before).is_empty());
}

#[test]
fn small_records_give_the_metrics_that_are_kept() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/prometheus/precopy-7.2.om");
    let got = past(&common::replay("precopy-7.2")).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &got).unwrap();
    }
    let kept = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(got, kept, "if that is meant: UPDATE_GOLDEN=1 cargo test -p migtrace --test prometheus");
}
