use std::fs::File;
use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::event::LogReader;
use crate::record::{PhaseName, Record, Role};
use crate::selection::Selection;
use crate::timeline::{Live, Timeline};
use crate::units::Directions;

fn record() -> Record {
    let log = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs/precopy-7.2.jsonl");
    let mut timeline = Timeline::new(Selection::default());
    LogReader::new(BufReader::new(File::open(log).unwrap())).for_each(|event| timeline.push(&event.unwrap()));
    timeline.finish().remove(0)
}

const NOW: u64 = 1_800_000_000_123_456_789;

fn running(elapsed_ns: u64, sent: u64) -> Running {
    let live = Live {
        id: None,
        vm: Some("web-1".to_owned()),
        pid: Some(7),
        role: Role::Source,
        phase: PhaseName::Active,
        pass: Some(3),
        elapsed_ns,
        wire_bytes: Some(Directions { tx: sent, rx: 0 }),
    };
    Running { live, uuid: None, remaining_bytes: None }
}

fn has(text: &str, line: &str) {
    assert!(text.lines().any(|each| each == line), "{line}\nis not in\n{text}");
}

#[test]
fn both_dialects_say_the_same_but_for_what_the_classic_one_lacks() {
    let exporter = Exporter::new(NOW);
    exporter.add(&record(), NOW);
    let (new, old) = (exporter.text(Dialect::OpenMetrics), exporter.text(Dialect::Classic));
    assert!(new.ends_with("\n# EOF\n") && !old.contains("# EOF") && !old.contains("# UNIT"));
    let samples = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.split(" # ").next().unwrap().to_owned()).collect()
    };
    assert_eq!(samples(&new), samples(&old));
    assert!(new.contains(" # {trace_id=\"") && !old.contains("trace_id"));
    has(&new, "# TYPE migtrace_migrations counter");
    has(&old, "# TYPE migtrace_migrations_total counter");
    has(&new, "# TYPE migtrace_last_migration info");
    has(&old, "# TYPE migtrace_last_migration_info gauge");
    has(&new, "# UNIT migtrace_last_migration_duration_seconds seconds");
    let end = new.lines().find(|line| line.starts_with("migtrace_last_migration_end_timestamp_seconds{"));
    assert!(end.is_some_and(|line| line.ends_with(" 1800001004.25")), "{end:?}");
}

#[test]
fn a_name_that_anybody_chose_stays_within_its_label() {
    let mut hostile = record();
    hostile.vm.name = Some("a\"} 1\nb{\\ \u{202e}\u{1b}[31m".to_owned() + &"x".repeat(100_000));
    let exporter = Exporter::new(NOW);
    exporter.add(&hostile, NOW);
    for text in
        [exporter.text(Dialect::OpenMetrics), exporter.text(Dialect::Classic), past(&[hostile]).unwrap()]
    {
        assert!(text.contains(r#"domain="a\"} 1\\nb{\\ \\u{202e}\\u{1b}[31mxxx"#), "{text}");
        assert!(text.lines().all(|line| line.len() < 1_000 && !line.chars().any(char::is_control)));
    }
}

#[test]
fn what_is_not_known_has_no_sample_and_a_lower_bound_has_no_upper_one() {
    let mut unknown = record();
    unknown.downtime.stop = None;
    unknown.total_time.as_mut().unwrap().high_ns = None;
    let text = past(&[unknown]).unwrap();
    assert!(!text.contains("migtrace_last_migration_stop"), "{text}");
    assert!(text.contains("duration_low_seconds") && !text.contains("duration_high_seconds"), "{text}");
}

#[test]
fn a_record_without_a_wall_time_has_no_place_among_past_migrations() {
    let mut timeless = record();
    timeless.start.realtime_ns = None;
    let error = past(&[record(), timeless]).unwrap_err();
    assert!(error.to_string().contains("no wall time"), "{error}");
}

#[test]
fn a_running_migration_is_shown_until_it_ends() {
    let exporter = Exporter::new(NOW);
    exporter.set_running([running(1_000_000_000, 1_000)]);
    assert!(!exporter.text(Dialect::OpenMetrics).contains("migtrace_live_rate"), "one look gives no rate");
    exporter.set_running([running(1_500_000_000, 3_000)]);
    let text = exporter.text(Dialect::OpenMetrics);
    let labels = "domain=\"web-1\",uuid=\"\",role=\"source\"";
    has(&text, "migtrace_running_migrations{role=\"source\"} 1");
    has(&text, &format!("migtrace_live_rate_bytes_per_second{{{labels},direction=\"sent\"}} 4000"));
    has(&text, &format!("migtrace_live_pass{{{labels}}} 3"));
    has(&text, &format!("migtrace_live_phase{{{labels},migtrace_live_phase=\"active\"}} 1"));
    has(&text, &format!("migtrace_live_phase{{{labels},migtrace_live_phase=\"setup\"}} 0"));
    exporter.set_running([]);
    let text = exporter.text(Dialect::OpenMetrics);
    assert!(!text.contains("web-1"));
    has(&text, "migtrace_running_migrations{role=\"source\"} 0");
}

#[test]
fn a_migration_that_is_counted_is_no_longer_under_way() {
    let (exporter, record) = (Exporter::new(NOW), record());
    let with_id = |role: Role, id: &Option<String>| {
        let mut each = running(1_000_000_000, 1_000);
        (each.live.id, each.live.role) = (id.clone(), role);
        each
    };
    let id = &record.migration.id;
    exporter.set_running([
        with_id(Role::Source, id),
        with_id(Role::Destination, id),
        with_id(Role::Source, &Some("another".into())),
        with_id(Role::Source, &None),
    ]);
    exporter.add(&record, NOW);
    let text = exporter.text(Dialect::OpenMetrics);
    has(&text, "migtrace_running_migrations{role=\"source\"} 2");
    has(&text, "migtrace_running_migrations{role=\"destination\"} 1");
}

#[test]
fn the_gauges_of_the_vms_that_moved_longest_ago_give_way() {
    let exporter = Exporter::new(NOW);
    let mut each = record();
    for number in 0..600 {
        each.vm.name = Some(format!("vm-{number}"));
        exporter.add(&each, NOW);
        exporter.add(&each, NOW);
    }
    let text = exporter.text(Dialect::Classic);
    assert_eq!(text.matches("migtrace_last_migration_info{").count(), 500);
    assert!(text.contains("\"vm-599\"") && text.contains("\"vm-100\"") && !text.contains("\"vm-99\""));
    assert!(text.contains("migtrace_migrations_total{") && text.contains(" 1200\n"));
}

#[test]
fn every_kind_of_migration_is_counted_from_the_start() {
    let exporter = Exporter::new(NOW);
    let counts = || {
        let text = exporter.text(Dialect::Classic);
        let lines = text.lines().filter(|line| line.starts_with("migtrace_migrations_total{"));
        let mut counts: Vec<_> = lines.map(|line| line.rsplit_once(' ').unwrap()).collect();
        counts.sort_unstable();
        counts.into_iter().map(|(kind, count)| (kind.to_owned(), count.to_owned())).collect::<Vec<_>>()
    };
    let before = counts();
    assert!(before.len() == 30 && before.iter().all(|(_, count)| count == "0"), "{before:?}");
    exporter.add(&record(), NOW);
    let after = counts();
    let changed: Vec<_> = before.iter().zip(&after).filter(|(before, after)| before != after).collect();
    let [(before, after)] = changed[..] else { panic!("{changed:?}") };
    assert_eq!((&before.0, &after.1[..]), (&after.0, "1"));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A server on a thread of its own, until the test ends: where it listens.
fn served(exporter: &Exporter) -> SocketAddr {
    let (tell, address) = std::sync::mpsc::channel();
    let exporter = exporter.clone();
    std::thread::spawn(move || {
        runtime().block_on(async {
            let server = Server::bind("127.0.0.1:0".parse().unwrap(), exporter).await.unwrap();
            tell.send(server.address().unwrap()).unwrap();
            server.run().await;
        });
    });
    address.recv().unwrap()
}

fn request(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn ask(address: SocketAddr, line: &str, accept: &str) -> String {
    request(address, &format!("{line} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n"))
}

#[test]
fn a_scrape_gets_the_format_that_it_asks_for() {
    let address = served(&Exporter::new(NOW));
    let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let answer = ask(address, "GET /metrics", prometheus);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("# EOF\n"), "{answer}");
    assert!(answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"));
    for accept in ["*/*", "text/plain", "application/openmetrics-text;q=0"] {
        let answer = ask(address, "GET /metrics?x=1", accept);
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{accept}: {answer}");
    }
    let head = ask(address, "HEAD /metrics", "*/*");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");
    assert!(ask(address, "GET /", "*/*").starts_with("HTTP/1.1 404 "));
    let refused = ask(address, "POST /metrics", "*/*");
    assert!(refused.starts_with("HTTP/1.1 405 ") && refused.contains("allow: GET, HEAD\r\n"), "{refused}");
    let counted = ask(address, "GET /metrics", "*/*");
    for line in ["code=\"200\"} 6", "code=\"404\"} 1", "code=\"405\"} 1"] {
        assert!(counted.contains(&format!("migtrace_scrapes_total{{{line}\n")), "{line}: {counted}");
    }
}

#[test]
fn clients_that_hold_on_hold_up_nobody() {
    let address = served(&Exporter::new(NOW));
    let mut held: Vec<_> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    for stream in &mut held {
        // Those that were ended already refuse it.
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nX: ");
    }
    let began = Instant::now();
    assert!(ask(address, "GET /metrics", "*/*").starts_with("HTTP/1.1 200 "));
    assert!(began.elapsed() < Duration::from_secs(3));
    // The last of them are ended for not asking.
    let mut last = held.pop().unwrap();
    last.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let mut rest = Vec::new();
    let _ = last.read_to_end(&mut rest);
    assert!(began.elapsed() < Duration::from_secs(12));
    let long = format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    let mut stream = TcpStream::connect(address).unwrap();
    let _ = stream.write_all(long.as_bytes());
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(!answer.contains("200 OK"), "{answer}");
}

#[test]
fn an_address_that_is_taken_is_one_clear_error() {
    let address = served(&Exporter::new(NOW));
    let Err(error) = runtime().block_on(Server::bind(address, Exporter::new(NOW))) else {
        panic!("bound twice")
    };
    let said = error.to_string();
    assert!(said.starts_with(&format!("cannot serve metrics at {address}: ")), "{said}");
    assert!(said.ends_with("choose another port"), "{said}");
}

#[test]
fn the_textfile_is_replaced_as_a_whole_and_its_failures_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("migtrace.prom");
    let exporter = Exporter::new(NOW);
    assert!(Textfile::new(folder.path().join("migtrace.txt"), exporter.clone()).is_err());
    let file = Textfile::new(path.clone(), exporter.clone()).unwrap();
    // What a killed run has left, and what somebody has put there.
    let elsewhere = folder.path().join("elsewhere");
    std::fs::write(&elsewhere, "mine").unwrap();
    std::os::unix::fs::symlink(&elsewhere, folder.path().join("migtrace.prom.partial")).unwrap();
    file.write().unwrap();
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "mine");
    assert!(std::fs::read_to_string(&path).unwrap().contains("migtrace_build_info"));
    drop(folder);
    assert!(file.write().is_err());
    let text = exporter.text(Dialect::Classic);
    has(&text, "migtrace_failures_total{what=\"textfile\"} 1");
    has(&text, "migtrace_textfile_writes_total 1");
}
