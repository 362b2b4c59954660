//! The index finds the same pairs as comparing every migration with every other.

use std::cell::Cell;
use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::event::{LogReader, SCHEMA};
use crate::selection::Selection;
use crate::timeline::Timeline;

const SECOND: i64 = 1_000_000_000;

/// A migration as one host sees it, of a few VMs and between a few addresses, so that many resemble each other.
#[derive(Clone, Debug)]
struct Seen {
    is_source: bool,
    vm: Option<u8>,
    /// The last numbers of the addresses of the source and of the destination, the source's port, and the SYNs.
    flow: Option<(u8, u8, u8, Option<u8>)>,
    start: i64,
    length: i64,
}

fn seen() -> impl Strategy<Value = Seen> {
    let flow = (0..3_u8, 0..3_u8, 0..2_u8, proptest::option::of(0..3_u8));
    let (vm, flow) = (proptest::option::weighted(0.8, 0..3_u8), proptest::option::weighted(0.7, flow));
    (any::<bool>(), vm, flow, 0..100 * SECOND, 0..30 * SECOND)
        .prop_map(|(is_source, vm, flow, start, length)| Seen { is_source, vm, flow, start, length })
}

/// What a host has seen, and its wall clock; none: it has told no wall time.
fn host() -> impl Strategy<Value = (Vec<Seen>, Option<i64>)> {
    (proptest::collection::vec(seen(), 0..4), proptest::option::weighted(0.9, -5 * SECOND..5 * SECOND))
}

fn log(name: usize, (all, clock): &(Vec<Seen>, Option<i64>)) -> String {
    let mut log = String::new();
    let mut add = |at: i64, event: &str, mut fields: Value| {
        fields["at_ns"] = at.into();
        fields["event"] = event.into();
        writeln!(log, "{fields}").unwrap();
    };
    let start = json!({
        "schema": SCHEMA, "migtrace": "0.1.0", "host": format!("host-{name}"), "kernel": "6.12.0", "interfaces": [],
        "ports": "49152-49215", "instruments": []
    });
    add(0, "log_start", start);
    if let Some(clock) = clock {
        add(0, "clock", json!({ "offset_ns": 1_800_000_000 * SECOND + clock, "error_ns": 100 }));
    }
    for (pid, seen) in (1..).zip(all) {
        // Each host has its own uptime.
        let at = seen.start + 1_000 * SECOND;
        let uuid = seen.vm.map(|vm| format!("00000000-0000-4000-8000-00000000000{vm}"));
        add(at, "qemu_seen", json!({ "pid": pid, "uuid": uuid, "incoming": !seen.is_source }));
        let status = |status: &str| json!({ "pid": pid, "name": "MIGRATION", "data": { "status": status }, "qemu_realtime_us": 0 });
        add(at, "qmp", status(if seen.is_source { "setup" } else { "active" }));
        if let Some((from, to, port, syns)) = seen.flow {
            let (source, destination) =
                (format!("192.0.2.{from}:4000{port}"), format!("192.0.2.{}:49152", 10 + to));
            let (local, remote) = if seen.is_source { (source, destination) } else { (destination, source) };
            let flow = json!({ "local": local, "remote": remote });
            let sequences =
                syns.map(|syns| json!({ "tx": u32::from(syns) + u32::from(seen.is_source), "rx": 7 }));
            let seen_flow = json!({ "flow": flow, "interface": "br0", "from_start": true, "initial_sequences": sequences });
            add(at, "flow_seen", seen_flow);
            add(at, "flow_owner", json!({ "flow": flow, "pid": pid, "method": "socket" }));
            let some = json!({ "wire_bytes": 2_000, "payload_bytes": 1_000, "segments": 1, "skbs": 1 });
            let none = json!({ "wire_bytes": 0, "payload_bytes": 0, "segments": 0, "skbs": 0 });
            let (tx, rx) = if seen.is_source { (some, none) } else { (none, some) };
            let counted = json!({
                "flow": flow, "counters": { "tx": tx, "rx": rx }, "first_ns": at, "last_ns": at,
                "retransmitted_segments": null, "retransmitted_payload_bytes": null
            });
            add(at, "flow_counters", counted);
        }
        add(at + seen.length, "qmp", status("completed"));
    }
    log
}

fn timeline(name: usize, seen: &(Vec<Seen>, Option<i64>)) -> Timeline {
    let mut timeline = Timeline::new(Selection::default());
    LogReader::new(log(name, seen).as_bytes()).for_each(|event| timeline.push(&event.unwrap()));
    timeline
}

/// The pairs, by what they are: each compared with each.
fn compared_pairs(hosts: &[Host<'_>]) -> Vec<(Place, Place)> {
    let arrivals: Vec<_> = places_of(hosts, Role::Destination).collect();
    let departures: Vec<_> = places_of(hosts, Role::Source).collect();
    let may_be_one = |from: Place, to: Place| from.0 != to.0 && may_be_halves(hosts, from, to);
    let mut pairs = Vec::new();
    for from in &departures {
        let mut candidates = arrivals.iter().filter(|to| may_be_one(*from, **to));
        let (Some(other), None) = (candidates.next(), candidates.next()) else { continue };
        if departures.iter().filter(|rival| may_be_one(**rival, *other)).count() == 1 {
            pairs.push((*from, *other));
        }
    }
    pairs
}

fn may_be_halves<'a>(hosts: &[Host<'a>], from: Place, to: Place) -> bool {
    let (source, destination) = (&hosts[from.0], &hosts[to.0]);
    let (left, arrived) = (&source.migrations[from.1], &destination.migrations[to.1]);
    let uuid = |half: &MigrationFacts<'a>| half.qemu().and_then(|qemu| qemu.uuid.as_deref());
    let is_same_vm = uuid(left).is_some() && uuid(left) == uuid(arrived);
    let time = |host: &Host<'_>, half: &MigrationFacts<'_>| {
        Some((host.wall_ns(half.start)?, host.wall_ns(half.end.at())?))
    };
    let overlap = time(source, left).zip(time(destination, arrived)).is_some_and(|(a, b)| {
        a.0 <= b.1.saturating_add(WALL_CLOCKS_APART_NS) && b.0 <= a.1.saturating_add(WALL_CLOCKS_APART_NS)
    });
    (is_same_vm || is_mirrored(left, arrived)) && overlap && came_by(hosts, from, to)
}

#[test]
fn the_index_finds_the_pairs_that_comparing_all_with_all_finds() {
    let mut runner = proptest::test_runner::TestRunner::default();
    let (found, refused) = (Cell::new(0), Cell::new(0));
    let hosts = proptest::collection::vec(host(), 0..8);
    let result = runner.run(&hosts, |hosts| {
        let timelines: Vec<_> = hosts.iter().enumerate().map(|(name, seen)| timeline(name, seen)).collect();
        let hosts: Vec<_> = timelines.iter().map(|timeline| Host::of(&timeline.facts)).collect();
        let mut indexed = pairs(&hosts, &Links::new());
        indexed.sort_unstable();
        let compared = compared_pairs(&hosts);
        found.set(found.get() + compared.len());
        refused.set(refused.get() + places_of(&hosts, Role::Source).count() - compared.len());
        prop_assert_eq!(indexed, compared);
        Ok(())
    });
    result.unwrap();
    let (found, refused) = (found.get(), refused.get());
    assert!(found > 20 && refused > 20, "the hosts are too much alike or too different: {found}, {refused}");
}
