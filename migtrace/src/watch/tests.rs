//! Dealing canned events out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::dealer::Dealer;
use super::{JournalId, News, finish};
use crate::event::{EndReason, Event, Fact, LogReader};
use crate::record::{Outcome, Record, Role};
use crate::selection::Selection;
use crate::timeline::Timeline;
use crate::units::MonotonicNs;

/// What became of a host's events.
#[derive(Default)]
struct Dealt {
    logs: BTreeMap<JournalId, Vec<Event>>,
    records: Vec<Record>,
    discarded: usize,
    /// How many QEMUs and connections are still known.
    known: usize,
}

/// A watch over canned events.
struct Watch {
    dealer: Dealer,
    start: Instant,
    begun_ns: Option<u64>,
    latest_ns: u64,
    /// Journals are closed when they have settled, and not only at the end.
    closes: bool,
    dealt: Dealt,
}

impl Watch {
    fn new(selection: Selection, closes: bool) -> Self {
        let dealt = Dealt::default();
        let dealer = Dealer::new(selection);
        Self { dealer, start: Instant::now(), begun_ns: None, latest_ns: 0, closes, dealt }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_nanos(self.latest_ns - self.begun_ns.unwrap_or_default())
    }

    fn until(&mut self, at_ns: u64) {
        self.begun_ns.get_or_insert(at_ns);
        self.latest_ns = self.latest_ns.max(at_ns);
        let (now, now_ns) = (self.now(), MonotonicNs(self.latest_ns));
        self.dealer.turn(now, now_ns);
        while let Some(id) = self.dealer.settled(now, now_ns).filter(|_| self.closes) {
            let end = Event { at_ns: now_ns, fact: Fact::LogEnd { reason: EndReason::MigrationEnded } };
            self.dealer.close(id, &[end], now);
        }
        self.collect();
    }

    fn deal(&mut self, events: &[Event]) {
        for event in events {
            self.until(event.at_ns.0);
            self.dealer.deal(event, self.now());
            self.collect();
        }
    }

    fn finish(mut self, last: &[Event]) -> Dealt {
        let now = self.now();
        finish(&mut self.dealer, last, now, MonotonicNs(self.latest_ns));
        self.collect();
        assert!(self.dealer.open_journals().is_empty());
        for (id, log) in &self.dealt.logs {
            assert!(matches!(log[0].fact, Fact::LogStart(_)), "journal {id} begins with {:?}", log[0]);
        }
        self.dealt.known = self.dealer.qemus.len() + self.dealer.flows.len();
        self.dealt
    }

    fn collect(&mut self) {
        while let Some(news) = self.dealer.take_news() {
            match news {
                News::Begun { journal } => {
                    assert!(self.dealt.logs.insert(journal, Vec::new()).is_none(), "begun twice");
                }
                News::Event { journal, event } => {
                    self.dealt.logs.get_mut(&journal).expect("it has begun").push(event);
                }
                News::Finished(finished) => {
                    let replayed = fold(&self.dealt.logs[&finished.journal]);
                    assert_eq!(replayed, finished.records, "a record is the fold of its log");
                    self.dealt.records.extend(finished.records);
                }
                News::Discarded { journal } => {
                    self.dealt.logs.remove(&journal);
                    self.dealt.discarded += 1;
                }
                News::Host(_) => {}
            }
        }
    }
}

fn fold(events: &[Event]) -> Vec<Record> {
    let mut timeline = Timeline::new(Selection::default());
    events.iter().for_each(|event| timeline.push(event));
    timeline.finish()
}

fn dealt(events: &[Event], closes: bool) -> Dealt {
    let mut watch = Watch::new(Selection::default(), closes);
    let is_end = |event: &Event| matches!(event.fact, Fact::LogEnd { .. });
    let end = events.iter().position(is_end).unwrap_or(events.len());
    watch.deal(&events[..end]);
    watch.finish(&events[end..])
}

fn read(path: &Path) -> Vec<Event> {
    let file = BufReader::new(File::open(path).unwrap());
    // Some of these logs are damaged at their end.
    LogReader::new(file).map_while(Result::ok).collect()
}

/// All canned logs, in order.
fn canned() -> Vec<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut folders = vec![tests.join("logs")];
    folders.extend(fs::read_dir(tests.join("merged")).unwrap().map(|entry| entry.unwrap().path()));
    let in_folder = |folder: &PathBuf| {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).collect::<Vec<_>>()
    };
    let mut logs: Vec<_> = folders.iter().flat_map(in_folder).collect();
    logs.sort();
    logs
}

/// What a watch does not see: it pings nobody.
const fn is_of_probe(event: &Event) -> bool {
    matches!(event.fact, Fact::EchoStart(_) | Fact::EchoOwner { .. } | Fact::EchoGap(_) | Fact::EchoEnd(_))
}

#[test]
fn every_canned_log_gives_the_same_records_when_it_is_dealt_out() {
    let mut differing = Vec::new();
    for path in canned() {
        let mut events = read(&path);
        events.retain(|event| !is_of_probe(event));
        let expected = fold(&events);
        let mut dealt = dealt(&events, false).records;
        dealt.sort_by_key(|record| record.start.realtime_ns);
        if dealt != expected {
            let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().display().to_string();
            differing.push((name, difference(&expected, &dealt)));
        }
    }
    assert!(differing.is_empty(), "{differing:#?}");
}

fn difference(expected: &[Record], got: &[Record]) -> String {
    if expected.len() != got.len() {
        return format!("{} records instead of {}", got.len(), expected.len());
    }
    let lines = |records: &[Record]| -> Vec<String> {
        serde_json::to_string_pretty(records).unwrap().lines().map(str::to_owned).collect()
    };
    let pairs = lines(expected).into_iter().zip(lines(got));
    let differing: Vec<_> =
        pairs.filter(|(a, b)| a != b).take(4).map(|(a, b)| format!("{a} / {b}")).collect();
    differing.join("; ")
}

/// The two canned logs of one migration, dealt out, merge into the same record.
#[test]
fn the_logs_of_both_hosts_merge_as_before() {
    let merged = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/merged");
    for entry in fs::read_dir(merged).unwrap() {
        let folder = entry.unwrap().path();
        let logs = ["source.jsonl", "destination.jsonl"].map(|file| {
            let mut events = read(&folder.join(file));
            events.retain(|event| !is_of_probe(event));
            events
        });
        let merge = |logs: &[Vec<Event>]| {
            let folded = logs.iter().map(|log| {
                let mut timeline = Timeline::new(Selection::default());
                log.iter().for_each(|event| timeline.push(event));
                timeline
            });
            crate::timeline::merged(&folded.collect::<Vec<_>>()).unwrap()
        };
        let mut by_vm: BTreeMap<Option<String>, Vec<Vec<Event>>> = BTreeMap::new();
        for log in logs.iter().flat_map(|log| dealt(log, false).logs.into_values()) {
            by_vm.entry(fold(&log)[0].vm.uuid.clone()).or_default().push(log);
        }
        let mut merged: Vec<_> = by_vm.values().flat_map(|logs| merge(logs)).collect();
        merged.sort_by_key(|record| record.start.realtime_ns);
        assert_eq!(merged, merge(&logs), "{}", folder.display());
    }
}

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;
const OFFSET_NS: u64 = 1_800_000_000 * S;

/// The events of a host, in the order in which they are added.
struct Host {
    events: Vec<Event>,
}

impl Host {
    fn new() -> Self {
        let mut host = Self { events: Vec::new() };
        let start = json!({
            "schema": crate::event::SCHEMA, "migtrace": "0.1.0", "host": "host-a", "kernel": "6.12.0",
            "interfaces": [], "ports": "49152-49215", "instruments": []
        });
        host.add(0, "log_start", start);
        host.add(0, "clock", json!({ "offset_ns": OFFSET_NS, "error_ns": 100 }));
        host
    }

    fn add(&mut self, at_ns: u64, event: &str, mut fields: Value) {
        fields["at_ns"] = at_ns.into();
        fields["event"] = event.into();
        self.events.push(serde_json::from_value(fields).unwrap());
    }

    fn qemu(&mut self, at_ns: u64, pid: u32, name: &str, incoming: bool) {
        self.add(at_ns, "qemu_seen", json!({ "pid": pid, "name": name, "incoming": incoming }));
    }

    fn gone(&mut self, at_ns: u64, pid: u32) {
        self.add(at_ns, "qemu_gone", json!({ "pid": pid }));
    }

    fn qmp(&mut self, at_ns: u64, pid: u32, name: &str, data: &Value, carried: u64) {
        let event = json!({
            "pid": pid, "name": name, "data": data, "qemu_realtime_us": (at_ns + OFFSET_NS) / 1_000,
            "counters": { "tx": counters(carried), "rx": counters(0) }
        });
        self.add(at_ns, "qmp", event);
    }

    fn status(&mut self, at_ns: u64, pid: u32, status: &str, carried: u64) {
        self.qmp(at_ns, pid, "MIGRATION", &json!({ "status": status }), carried);
    }

    fn flow_seen(&mut self, at_ns: u64, port: u16, purpose: &str) {
        let seen = json!({ "flow": flow(port), "interface": "eth1", "from_start": true });
        self.add(at_ns, "flow_seen", seen);
        if purpose != "unknown" {
            self.add(at_ns, "flow_purpose", json!({ "flow": flow(port), "purpose": purpose }));
        }
    }

    fn flow_owner(&mut self, at_ns: u64, port: u16, pid: u32) {
        self.add(at_ns, "flow_owner", json!({ "flow": flow(port), "pid": pid, "method": "socket" }));
    }

    fn counted(&mut self, at_ns: u64, port: u16, first_ns: u64, carried: u64, closed: bool) {
        let counted = json!({
            "flow": flow(port), "counters": { "tx": counters(carried), "rx": counters(0) },
            "first_ns": first_ns, "last_ns": at_ns, "retransmitted_segments": 0, "retransmitted_payload_bytes": 0,
            "closed": closed
        });
        self.add(at_ns, "flow_counters", counted);
    }

    fn lost(&mut self, at_ns: u64, ring_buffer: u64) {
        let lost = json!({ "ring_buffer": ring_buffer, "flows": 0, "hook_calls": 0, "since_ns": at_ns - S });
        self.add(at_ns, "lost", lost);
    }

    /// A migration from here, from `at_ns` on, which takes a second. Before it, the process' connections had carried `before`.
    fn leaves(&mut self, at_ns: u64, pid: u32, port: u16, end: &str, before: u64) {
        self.flow_seen(at_ns, port, "ram");
        self.flow_owner(at_ns + MS, port, pid);
        self.status(at_ns + 2 * MS, pid, "setup", before);
        self.status(at_ns + 10 * MS, pid, "active", before);
        self.counted(at_ns + 500 * MS, port, at_ns, 1_000, false);
        self.status(at_ns + 990 * MS, pid, end, before + 2_000);
        self.counted(at_ns + S, port, at_ns, 2_000, true);
    }

    fn dealt(&self) -> Dealt {
        self.dealt_to(Selection::default())
    }

    fn dealt_to(&self, selection: Selection) -> Dealt {
        let mut watch = Watch::new(selection, true);
        watch.deal(&self.events);
        watch.until(watch.latest_ns + 120 * S);
        watch.finish(&[])
    }
}

fn flow(port: u16) -> Value {
    json!({ "local": format!("192.0.2.1:{port}"), "remote": "192.0.2.2:49152" })
}

fn counters(payload: u64) -> Value {
    json!({ "wire_bytes": payload * 2, "payload_bytes": payload, "segments": payload / 100, "skbs": payload / 100 })
}

fn names(records: &[Record]) -> Vec<&str> {
    records.iter().map(|record| record.vm.name.as_deref().unwrap_or("-")).collect()
}

fn outcomes(records: &[Record]) -> Vec<Outcome> {
    records.iter().map(|record| record.migration.outcome).collect()
}

fn of_flows(log: &[Event]) -> Vec<u16> {
    let seen = log.iter().filter_map(|event| match &event.fact {
        Fact::FlowSeen { flow, .. } => Some(flow.local.port()),
        _ => None,
    });
    seen.collect()
}

#[test]
fn of_two_migrations_at_once_each_log_has_its_own_events_only() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.qemu(S, 8, "db", false);
    host.leaves(10 * S, 7, 40_001, "completed", 0);
    host.leaves(10 * S + 300 * MS, 8, 40_002, "failed", 0);
    host.flow_seen(10 * S + 400 * MS, 40_003, "unknown");
    host.counted(10 * S + 500 * MS, 40_003, 10 * S + 400 * MS, 5_000, false);
    host.events.sort_by_key(|event| event.at_ns);
    let dealt = host.dealt();
    assert_eq!((names(&dealt.records), dealt.discarded), (vec!["web", "db"], 0));
    assert_eq!(outcomes(&dealt.records), [Outcome::Completed, Outcome::Failed]);
    for (log, (pid, port)) in dealt.logs.values().zip([(7, 40_001), (8, 40_002)]) {
        assert_eq!(of_flows(log), [port]);
        for event in log {
            match &event.fact {
                Fact::QemuSeen(qemu) => assert_eq!(qemu.pid, pid),
                Fact::Qmp(qmp) => assert_eq!(qmp.pid, pid),
                Fact::FlowOwner { pid: owner, .. } => assert_eq!(*owner, pid),
                _ => {}
            }
        }
    }
}

#[test]
fn a_migration_that_is_tried_again_at_once_has_its_own_record_with_its_own_bytes() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.leaves(10 * S, 7, 40_001, "cancelled", 0);
    // The first has not settled yet, and its connection is still in the table: its sums are in QEMU's events.
    host.leaves(11 * S + 100 * MS, 7, 40_002, "completed", 2_000);
    host.events.sort_by_key(|event| event.at_ns);
    let dealt = host.dealt();
    assert_eq!(outcomes(&dealt.records), [Outcome::Cancelled, Outcome::Completed]);
    for record in &dealt.records {
        assert_eq!(record.traffic.flows.len(), 1);
        assert_eq!(record.traffic.total.unwrap().tx.payload_bytes, 2_000);
        let active = record.phases.iter().find(|phase| phase.name.as_str() == "active").unwrap();
        assert_eq!(active.traffic.unwrap().tx.payload_bytes, 2_000, "{:#?}", record.phases);
    }
}

#[test]
fn a_guest_that_arrives_and_leaves_again_has_two_records() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", true);
    host.status(S + MS, 7, "setup", 0);
    let arrives = 86_400 * S;
    host.flow_seen(arrives, 40_001, "ram");
    host.flow_owner(arrives + MS, 40_001, 7);
    host.status(arrives + 2 * MS, 7, "active", 0);
    let counted = json!({
        "flow": flow(40_001), "counters": { "tx": counters(0), "rx": counters(9_000) }, "first_ns": arrives,
        "last_ns": arrives + 900 * MS, "retransmitted_segments": 0, "retransmitted_payload_bytes": 0, "closed": true
    });
    host.add(arrives + 900 * MS, "flow_counters", counted);
    host.status(arrives + 950 * MS, 7, "completed", 0);
    host.qmp(arrives + 960 * MS, 7, "RESUME", &Value::Null, 0);
    host.add(arrives + 20 * S, "flow_gone", json!({ "flow": flow(40_001) }));
    host.leaves(arrives + 60 * S, 7, 40_002, "completed", 0);
    let dealt = host.dealt();
    let roles = dealt.records.iter().map(|record| record.observers[0].role);
    assert_eq!(roles.collect::<Vec<_>>(), [Role::Destination.into(), Role::Source.into()]);
    assert_eq!(outcomes(&dealt.records), [Outcome::Completed, Outcome::Completed]);
    let setup_ns = dealt.records[0].phases[0].start_ns;
    assert!(setup_ns < -86_000 * S.cast_signed(), "it has listened for a day: {setup_ns}");
}

#[test]
fn a_connection_whose_owner_is_found_late_is_there_from_its_first_packet_on() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.qemu(S, 8, "db", false);
    host.flow_seen(10 * S, 40_001, "ram");
    host.counted(10 * S + 100 * MS, 40_001, 10 * S, 100, false);
    host.status(10 * S + 150 * MS, 7, "setup", 0);
    host.status(10 * S + 160 * MS, 8, "setup", 0);
    host.counted(10 * S + 200 * MS, 40_001, 10 * S, 200, false);
    host.flow_owner(12 * S, 40_001, 8);
    host.status(13 * S, 7, "failed", 0);
    host.status(13 * S, 8, "failed", 300);
    host.counted(13 * S, 40_001, 10 * S, 300, true);
    let dealt = host.dealt();
    assert_eq!(names(&dealt.records), ["web", "db"]);
    let logs: Vec<_> = dealt.logs.values().collect();
    assert_eq!((of_flows(logs[0]), of_flows(logs[1])), (vec![], vec![40_001]));
    let counts = logs[1].iter().filter(|event| matches!(event.fact, Fact::FlowCounters(_))).count();
    assert_eq!(counts, 3);
    assert_eq!(dealt.records[1].traffic.flows[0].first_ns, -(160 * MS).cast_signed());
}

#[test]
fn a_connection_without_an_owner_is_of_the_only_migration_that_it_can_be_of() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.qemu(S, 8, "db", false);
    host.status(10 * S, 7, "setup", 0);
    host.flow_seen(10 * S + MS, 40_001, "ram");
    host.counted(10 * S + 100 * MS, 40_001, 10 * S + MS, 100, false);
    host.status(11 * S, 7, "completed", 0);
    host.counted(11 * S, 40_001, 10 * S + MS, 300, true);
    let record = &host.dealt().records[0];
    assert_eq!(record.traffic.total.unwrap().tx.payload_bytes, 300);
}

#[test]
fn what_was_lost_before_a_migration_is_not_held_against_it() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.lost(100 * S, 5);
    host.leaves(1_000 * S, 7, 40_001, "failed", 0);
    host.leaves(2_000 * S, 7, 40_002, "failed", 0);
    host.lost(2_000 * S + 600 * MS, 7);
    host.leaves(3_000 * S, 7, 40_003, "completed", 0);
    host.events.sort_by_key(|event| event.at_ns);
    let dealt = host.dealt();
    let lost: Vec<_> = dealt.records.iter().map(|record| record.lost.ring_buffer).collect();
    assert_eq!(lost, [0, 2, 0]);
}

#[test]
fn what_is_no_migration_gives_no_record_and_leaves_nothing() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", true);
    host.status(S + MS, 7, "setup", 0);
    for number in 0_u16..100 {
        // Somebody connects to the port of a destination that waits, and sends nothing.
        let at = 100 * S * u64::from(number + 1);
        host.flow_seen(at, 40_000 + number, "unknown");
        host.flow_owner(at + MS, 40_000 + number, 7);
        host.counted(at + 2 * MS, 40_000 + number, at, 0, true);
        host.add(at + 12 * S, "flow_gone", json!({ "flow": flow(40_000 + number) }));
    }
    // A disk is copied for another purpose.
    host.qemu(2, 8, "db", false);
    let at = 20_000 * S;
    host.flow_seen(at, 50_000, "nbd");
    host.flow_owner(at + MS, 50_000, 8);
    host.counted(at + 5 * S, 50_000, at, 10_000, false);
    host.counted(at + 60 * S, 50_000, at, 90_000, true);
    host.add(at + 80 * S, "flow_gone", json!({ "flow": flow(50_000) }));
    host.gone(at + 90 * S, 7);
    host.gone(at + 90 * S, 8);
    let dealt = host.dealt();
    assert_eq!((dealt.records.len(), dealt.logs.len(), dealt.discarded, dealt.known), (0, 0, 1, 0));
}

#[test]
fn a_second_report_of_an_end_is_no_second_migration() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.leaves(10 * S, 7, 40_001, "failed", 0);
    host.status(30 * S, 7, "failed", 0);
    assert_eq!(outcomes(&host.dealt().records), [Outcome::Failed]);
}

#[test]
fn only_selected_vms_have_records() {
    let mut host = Host::new();
    host.qemu(S, 7, "web", false);
    host.qemu(S, 8, "db", false);
    host.leaves(10 * S, 7, 40_001, "failed", 0);
    host.leaves(20 * S, 8, 40_002, "failed", 0);
    let dealt = host.dealt_to(Selection::new(Some("db".into()), None));
    assert_eq!(names(&dealt.records), ["db"]);
}

#[test]
fn nothing_is_kept_of_thousands_of_migrations() {
    let mut host = Host::new();
    let mut at = S;
    for number in 0_u16..3_000 {
        let (pid, port) = (100 + u32::from(number), 20_000 + number);
        host.qemu(at, pid, &format!("vm-{number}"), false);
        host.leaves(at + S, pid, port, "completed", 0);
        host.gone(at + 3 * S, pid);
        host.add(at + 15 * S, "flow_gone", json!({ "flow": flow(port) }));
        at += 20 * S;
    }
    let dealt = host.dealt();
    assert_eq!((dealt.records.len(), dealt.known), (3_000, 0));
}
