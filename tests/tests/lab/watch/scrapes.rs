//! `watch --prometheus` and `--textfile`, while a guest moves: what Prometheus on the source scrapes from both hosts, what is
//! read of the files meanwhile, and what promtool makes of them.

use super::textfile::Reader;
use super::{directory, named_watch, whole_pairs};
use crate::support::{GUEST_PATIENCE, MIB, PATIENCE, number};
use migtrace_lab::{Download, Host, Migration, Outcome, Process, shared_lab};
use serde_json::Value;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Of the migration's precopy. The guest writes faster, so that no pass is the last.
const LIMIT: u64 = 14 * MIB;
/// The guest leaves in post-copy once this pass has begun. Until then the file for node_exporter is written twice.
const LAST_PASS: u64 = 5;
const PORT: u16 = 9464;

fn program(name: &str) -> PathBuf {
    Download::Prometheus.fetch().unwrap().join("usr/bin").join(name)
}

/// Prometheus on a host, which scrapes these every 200 ms.
struct Prometheus {
    host: Host,
    _process: Process,
    _folder: tempfile::TempDir,
}

const PROMETHEUS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9090);

impl Prometheus {
    fn start(host: &Host, targets: &[SocketAddr]) -> Self {
        let folder = directory();
        let file = folder.path().join("prometheus.yml");
        let targets: Vec<_> = targets.iter().map(|target| format!("'{target}'")).collect();
        let configuration = format!(
            "global: {{scrape_interval: 200ms}}\nscrape_configs:\n- job_name: migtrace\n  \
             static_configs:\n  - targets: [{}]\n",
            targets.join(", ")
        );
        fs::write(&file, configuration).unwrap();
        let mut command = Command::new(program("prometheus"));
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command
            .args([&format!("--web.listen-address={}:{}", PROMETHEUS.0, PROMETHEUS.1), "--log.level=error"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = host.spawn(&mut command).unwrap();
        let prometheus = Self { host: host.clone(), _process: process, _folder: folder };
        prometheus.wait_for("sum(up) == 2");
        prometheus
    }

    /// What it answers to a query: each series with its labels and its value or values.
    fn ask(&self, query: &str) -> Vec<Value> {
        let hex = |byte: u8| format!("%{byte:02X}");
        let query: String = query.bytes().map(hex).collect();
        let answer = self.host.enter(|| get(&format!("/api/v1/query?query={query}"))).unwrap();
        let answer: Value = answer.and_then(|body| serde_json::from_str(&body).ok()).unwrap_or_default();
        answer["data"]["result"].as_array().cloned().unwrap_or_default()
    }

    /// The answer to a query, once there is one.
    fn wait_for(&self, query: &str) -> Vec<Value> {
        let begun = Instant::now();
        loop {
            let answer = self.ask(query);
            if !answer.is_empty() {
                return answer;
            }
            assert!(begun.elapsed() < GUEST_PATIENCE, "Prometheus has no {query}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// All values of a series since the start.
    fn values(&self, series: &str) -> Vec<f64> {
        let found = self.ask(&format!("{series}[10m]"));
        let [one] = &found[..] else { panic!("{series}: {found:#?}") };
        one["values"].as_array().unwrap().iter().map(|at| float(&at[1])).collect()
    }

    fn value(&self, series: &str) -> f64 {
        float(&self.wait_for(series)[0]["value"][1])
    }
}

/// The body of Prometheus' answer; none while there is none.
fn get(path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(PROMETHEUS).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}

fn float(value: &Value) -> f64 {
    value.as_str().unwrap().parse().unwrap()
}

/// QEMU's limit is of what it sends, and holds until the guest stops; the headers come to less than a tenth of that.
fn possible_rates() -> Range<f64> {
    LIMIT as f64 * 0.3..LIMIT as f64 * 1.2
}

/// What the metrics of one host have seen of the migration while it ran.
fn assert_moved(prometheus: &Prometheus, role: &str, record: &Value) {
    let of_role = |metric: &str| format!("{metric}{{role=\"{role}\"}}");
    let sent = prometheus.values(&format!("migtrace_live_wire_bytes{{role=\"{role}\",direction=\"sent\"}}"));
    let mut different = sent.clone();
    different.dedup();
    assert!(different.len() >= 3 && sent.is_sorted(), "{role}: {sent:?}");
    let all = number(&record["traffic"]["total"]["tx"]["wire_bytes"]) as f64;
    assert!(different.iter().all(|bytes| *bytes <= all), "{role}: {sent:?}, {all}");
    let elapsed = prometheus.values(&of_role("migtrace_live_elapsed_seconds"));
    assert!(elapsed.is_sorted() && elapsed.last() > elapsed.first(), "{role}: {elapsed:?}");
    let rate = format!("migtrace_live_rate_bytes_per_second{{role=\"{role}\",direction=\"sent\"}}");
    let possible = possible_rates();
    let fast = prometheus.values(&rate).into_iter().find(|rate| *rate > possible.start);
    assert!(fast.is_some_and(|rate| possible.contains(&rate)), "{role}: {fast:?} of {LIMIT}");
    // They are gone with the migration.
    let live = format!("{{__name__=~\"migtrace_live_.*\",role=\"{role}\"}}");
    assert_eq!(prometheus.ask(&live), [Value::Null; 0]);
}

/// What is left of it afterwards, against the record.
fn assert_counted(role: &str, record: &Value, value: impl Fn(&str) -> f64) {
    let seconds = |ns: &Value| number(ns) as f64 / 1e9;
    let labels = format!("migtrace_role=\"{role}\"");
    let same = |metric: &str, expected: f64| {
        let got = value(metric);
        assert!((got - expected).abs() <= expected * 1e-9, "{role}: {metric}: {got} and {expected}");
    };
    let migration = &record["migration"];
    let kind = format!("migtrace_mode={},migtrace_outcome={}", migration["mode"], migration["outcome"]);
    same(&format!("migtrace_migrations_total{{{labels},{kind}}}"), 1.0);
    same(&format!("migtrace_migration_duration_seconds_count{{{labels}}}"), 1.0);
    let total = seconds(&record["total_time"]["value_ns"]);
    same(&format!("migtrace_migration_duration_seconds_sum{{{labels}}}"), total);
    same(&format!("migtrace_last_migration_duration_seconds{{role=\"{role}\"}}"), total);
    let phases = record["phases"].as_array().unwrap().iter();
    let active = phases.filter(|phase| phase["name"] == "active").map(|phase| &phase["traffic"]);
    let active: u64 = active.map(|traffic| number(&traffic["tx"]["wire_bytes"])).sum();
    let labels = format!("{labels},migtrace_phase=\"active\"");
    same(&format!("migtrace_migration_wire_bytes_sum{{{labels}}}"), active as f64);
    let sent = number(&record["traffic"]["total"]["tx"]["wire_bytes"]) as f64;
    same(&format!("migtrace_last_migration_wire_bytes{{role=\"{role}\",direction=\"sent\"}}"), sent);
}

/// What the file of one host showed of the migration while it ran: when it began, and every 15 s.
fn assert_shown(contents: &[String], role: &str, record: &Value) {
    let all = |series: &str| -> Vec<_> { contents.iter().filter_map(|text| in_file(text, series)).collect() };
    let elapsed = all(&format!("migtrace_live_elapsed_seconds{{role=\"{role}\"}}"));
    assert!(elapsed.len() >= 2 && elapsed.is_sorted() && elapsed[0] < 5.0, "{role}: {elapsed:?}");
    // Nothing has been counted when it begins.
    let sent = all(&format!("migtrace_live_wire_bytes{{role=\"{role}\",direction=\"sent\"}}"));
    let (Some(seconds), Some(bytes)) = (elapsed.last(), sent.last()) else { panic!("{role}: {contents:#?}") };
    assert!(possible_rates().contains(&(bytes / seconds)), "{role}: {bytes} in {seconds} s of {LIMIT}");
    let total = number(&record["traffic"]["total"]["tx"]["wire_bytes"]) as f64;
    assert!(sent.is_sorted() && *bytes <= total, "{role}: {sent:?} of {total}");
    let running = all(&format!("migtrace_running_migrations{{role=\"{role}\"}}"));
    assert!(running.contains(&1.0) && running.last() == Some(&0.0), "{role}: {running:?}");
}

/// The value of a series in a file for node_exporter, if there is one: of the line with this name and these labels, among
/// others.
fn in_file(text: &str, series: &str) -> Option<f64> {
    let (name, labels) = series.trim_end_matches('}').split_once('{').unwrap();
    let is_it = |line: &&str| {
        line.split_once('{').is_some_and(|(found, _)| found == name)
            && labels.split(',').all(|label| line.contains(label))
    };
    let found: Vec<_> = text.lines().filter(is_it).collect();
    assert!(found.len() < 2, "{series}: {found:?}");
    found.first().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

fn assert_valid(file: &Path) -> String {
    let mut check = Command::new(program("promtool"));
    let checked = check.args(["check", "metrics"]).stdin(fs::File::open(file).unwrap()).output().unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    fs::read_to_string(file).unwrap()
}

#[test]
fn scrapes_see_a_migration_move_and_afterwards_what_its_record_says() {
    let mut lab = shared_lab().unwrap();
    let hosts = [lab.guest_host().clone(), lab.other_host().clone()];
    let addresses = hosts.each_ref().map(|host| SocketAddr::from((host.ipv4(), PORT)));
    let kept = directory();
    let files = ["first", "second"].map(|name| kept.path().join(name).with_extension("prom"));
    let records = [directory(), directory()];
    let watches = [0, 1].map(|end| {
        let (address, file) = (addresses[end].to_string(), files[end].to_str().unwrap());
        let options = ["--prometheus", &address, "--textfile", file];
        named_watch(&hosts[end], ["first", "second"][end], records[end].path(), &options)
    });
    let readers = files.each_ref().map(|file| Reader::start(file));
    let prometheus = Prometheus::start(&hosts[0], &addresses);
    let migration = Migration {
        max_bandwidth_bytes_per_s: LIMIT,
        postcopy_at_pass: Some(LAST_PASS),
        return_path: true,
        ..Migration::default()
    };
    let migrated = lab.migrate(&migration).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed);
    let ends = ["source", "destination"].into_iter().zip(&records).zip(files.iter().zip(readers));
    for ((role, folder), (file, reader)) in ends {
        let pair = whole_pairs(folder.path(), 1).remove(0);
        // Each host has both, of its own migrations.
        prometheus.wait_for(&format!("sum(migtrace_running_migrations{{role=\"{role}\"}}) == 0"));
        prometheus.wait_for(&format!("sum(migtrace_migrations_total{{migtrace_role=\"{role}\"}}) == 1"));
        assert_moved(&prometheus, role, &pair.record);
        // Both hosts have a count of each kind.
        assert_counted(role, &pair.record, |series| prometheus.value(&format!("max({series})")));
        let text = assert_valid(file);
        assert!(!text.contains("migtrace_live_pass{"), "{text}");
        assert_counted(role, &pair.record, |series| in_file(&text, series).unwrap());
        assert_shown(&reader.stop(), role, &pair.record);
    }
    // Only the source knows of passes.
    let seen = prometheus.values("migtrace_live_pass{role=\"source\"}");
    let passes = migrated.passes();
    let (first, last) = (seen[0], seen[seen.len() - 1]);
    assert!(seen.is_sorted() && first < last && last <= passes as f64, "{seen:?} of {passes}");
    for watch in watches {
        assert_eq!(watch.stop(PATIENCE).unwrap().code, Some(0));
    }
}
