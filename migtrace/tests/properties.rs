//! What holds for every sequence of events.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::made;

use migtrace::event::{
    EndReason, Event, Fact, FlowCounters, LogReader, LogWriter, OwnerMethod, SCHEMA, Vcpus,
};
use migtrace::record::PhaseName;
use migtrace::report;
use migtrace::selection::Selection;
use migtrace::timeline::Timeline;
use migtrace::units::{ClockSample, Counters, Directions, Flow, MonotonicNs};
use migtrace::vocabulary::{Announcement, Purpose};
use proptest::prelude::*;
use serde_json::json;

const START_NS: u64 = 1_000_000_000;
const OFFSET_NS: i64 = 1_800_000_000_000_000_000;

fn at(at_ns: u64, fact: Fact) -> Event {
    Event { at_ns: MonotonicNs(at_ns), fact }
}

fn log_start() -> Fact {
    made(json!({
        "event": "log_start", "schema": SCHEMA, "migtrace": "0.1.0", "host": "host-a", "kernel": "6.12.0",
        "interfaces": [], "ports": "49152-49215", "instruments": []
    }))
}

fn qemu(pid: u32, incoming: bool) -> Fact {
    let name = format!("vm-{pid}");
    made(json!({ "event": "qemu_seen", "pid": pid, "name": name, "vcpus": 1, "incoming": incoming }))
}

fn flow(port: u16) -> Flow {
    Flow { local: ([192, 0, 2, 1], port).into(), remote: ([192, 0, 2, 2], 49152).into() }
}

fn counters(payload_bytes: u64) -> Directions<Counters> {
    let segments = payload_bytes.div_ceil(1448);
    let tx = Counters { wire_bytes: payload_bytes + 66 * segments, payload_bytes, segments, skbs: segments };
    let rx = Counters { wire_bytes: 66 * segments, payload_bytes: 0, segments, skbs: segments };
    Directions { tx, rx }
}

fn qmp(
    pid: u32,
    at_ns: u64,
    name: &str,
    data: serde_json::Value,
    counters: Option<Directions<Counters>>,
) -> Fact {
    let qemu_realtime_us = (at_ns.cast_signed() + OFFSET_NS) / 1_000;
    qmp_event(pid, name, data, qemu_realtime_us, counters, None)
}

fn qmp_event(
    pid: u32,
    name: &str,
    data: serde_json::Value,
    qemu_realtime_us: i64,
    counters: Option<Directions<Counters>>,
    vcpus: Option<Vcpus>,
) -> Fact {
    made(json!({
        "event": "qmp", "pid": pid, "name": name, "data": data, "qemu_realtime_us": qemu_realtime_us,
        "counters": counters, "vcpus": vcpus
    }))
}

/// The last packet was also the last byte sent.
fn counted(
    flow: Flow,
    counters: Directions<Counters>,
    (first_ns, last_ns): (u64, u64),
    closed: bool,
) -> FlowCounters {
    made(json!({
        "flow": flow, "counters": counters, "first_ns": first_ns, "last_ns": last_ns,
        "last_byte_ns": { "tx": last_ns, "rx": null }, "retransmitted_segments": null,
        "retransmitted_payload_bytes": null, "closed": closed
    }))
}

/// What QEMU may say at any time, in any order: the tool must hold whatever a version does.
fn saying() -> impl Strategy<Value = (&'static str, serde_json::Value)> {
    let statuses = [
        "setup",
        "active",
        "pre-switchover",
        "device",
        "postcopy-active",
        "postcopy-paused",
        "colo",
        "wait-unplug",
        "cancelling",
        "cancelled",
        "completed",
        "failed",
        "none",
        "never heard of",
    ];
    prop_oneof![
        4 => prop::sample::select(statuses.to_vec()).prop_map(|s| ("MIGRATION", json!({ "status": s }))),
        3 => (1u64..9).prop_map(|n| ("MIGRATION_PASS", json!({ "pass": n }))),
        1 => Just(("STOP", json!(null))),
        1 => Just(("RESUME", json!(null))),
        1 => Just(("JOB_STATUS_CHANGE", json!({ "status": "created", "id": "mirror" }))),
        1 => Just(("BLOCK_JOB_READY", json!({ "type": "mirror", "device": "mirror" }))),
        1 => Just(("BLOCK_JOB_CANCELLED", json!({ "type": "mirror", "device": "mirror" }))),
        1 => Just(("BLOCK_JOB_COMPLETED", json!({ "type": "mirror", "device": "mirror", "error": "no space" }))),
        1 => Just(("MIGRATION", json!({ "status": 7 }))),
    ]
}

prop_compose! {
    /// A log of one VM whose flows carry more and more, with a snapshot in each of QEMU's events.
    fn consistent_log()(
        steps in prop::collection::vec((1u64..50_000_000, 0u64..9_000_000, saying(), any::<bool>()), 1..40),
        incoming in any::<bool>(),
        two_flows in any::<bool>(),
        tail in 0u64..100_000,
    ) -> Vec<Event> {
        let mut events = vec![
            at(START_NS, log_start()),
            at(START_NS, Fact::Clock(ClockSample { offset_ns: OFFSET_NS, error_ns: 100 })),
            at(START_NS, qemu(7, incoming)),
        ];
        let flows: Vec<_> = (0..=u16::from(two_flows)).map(|i| flow(40_000 + i)).collect();
        let first_ns = START_NS + 1;
        for flow in &flows {
            let seen = Fact::FlowSeen { flow: *flow, interface: "eth1".to_owned(), from_start: true, initial_sequences: None };
            events.push(at(first_ns, seen));
            events.push(at(first_ns, Fact::FlowOwner { flow: *flow, pid: 7, method: OwnerMethod::Socket, crossed: None }));
            events.push(at(first_ns, Fact::FlowPurpose { flow: *flow, purpose: Purpose::Ram }));
        }
        let mut now = first_ns;
        let mut carried = vec![0u64; flows.len()];
        let count = |carried: &[u64]| {
            let mut sum = Directions::default();
            carried.iter().for_each(|&c| sum += counters(c));
            sum
        };
        let sample = |now: u64, flow: Flow, carried: u64, closed: bool| {
            at(now, Fact::FlowCounters(counted(flow, counters(carried), (first_ns, now), closed)))
        };
        for (i, (step, bytes, (name, data), sampled)) in steps.into_iter().enumerate() {
            now += step;
            carried[i % flows.len()] += bytes;
            events.push(at(now, qmp(7, now, name, data, Some(count(&carried)))));
            if sampled {
                events.push(sample(now, flows[i % flows.len()], carried[i % flows.len()], false));
            }
        }
        for (flow, carried) in flows.iter().zip(&mut carried) {
            now += 10;
            *carried += tail;
            events.push(sample(now, *flow, *carried, true));
        }
        events.push(at(now + 10, Fact::LogEnd { reason: EndReason::MigrationEnded }));
        events
    }
}

/// Any instant; most are near each other.
fn instant() -> impl Strategy<Value = u64> {
    prop_oneof![9 => any::<u32>().prop_map(u64::from), 1 => 0..=i64::MAX.cast_unsigned()]
}

fn any_vcpus() -> impl Strategy<Value = Vcpus> {
    (0u32..3, 0u32..2, prop::option::of(instant()), prop::option::of(instant())).prop_map(
        |(known, inside, first, last)| {
            made(json!({ "known": known, "inside": inside, "first_left_ns": first, "last_left_ns": last }))
        },
    )
}

/// Counters of any size.
fn any_counters() -> impl Strategy<Value = Directions<Counters>> {
    prop_oneof![any::<[u32; 8]>().prop_map(|n| n.map(u64::from)), any::<[u64; 8]>()].prop_map(|n| {
        let side = |n: &[u64]| Counters { wire_bytes: n[0], payload_bytes: n[1], segments: n[2], skbs: n[3] };
        Directions { tx: side(&n[..4]), rx: side(&n[4..]) }
    })
}

/// Any fact about a few processes and flows, with nothing fitting together.
fn any_fact() -> impl Strategy<Value = Fact> {
    let pid = 1u32..4;
    let port = 1u16..4;
    let purposes = [Purpose::Ram, Purpose::Nbd, Purpose::Tls, Purpose::Multifd, Purpose::Unknown];
    prop_oneof![
        6 => (pid.clone(), saying(), any::<i64>(), prop::option::of(any_counters()), prop::option::of(any_vcpus()))
            .prop_map(|(pid, (name, data), qemu_realtime_us, counters, vcpus)| {
                qmp_event(pid, name, data, qemu_realtime_us, counters, vcpus)
            }),
        1 => (pid.clone(), any_vcpus()).prop_map(|(pid, vcpus)| Fact::GuestRun { pid, vcpus }),
        1 => (pid.clone(), instant(), any::<bool>()).prop_map(|(pid, entered, certain)| {
            Fact::GuestRunVoid { pid, entered_ns: MonotonicNs(entered), certain }
        }),
        1 => (pid.clone(), any_counters()).prop_map(|(pid, counters)| Fact::DirtyLog { pid, counters }),
        1 => pid.clone().prop_map(|pid| Fact::GuestFrame { pid, interface: "tap0".to_owned() }),
        1 => (pid.clone(), prop::option::of(instant())).prop_map(|(pid, last)| Fact::GuestFrames {
            pid,
            interface: "tap0".to_owned(),
            frames: 1,
            last_ns: last.map(MonotonicNs),
            announcements: 0,
        }),
        1 => pid.clone().prop_map(|pid| Fact::Announcement {
            pid,
            interface: "tap0".to_owned(),
            kind: Announcement::Rarp,
        }),
        1 => (pid.clone(), any::<bool>()).prop_map(|(pid, incoming)| qemu(pid, incoming)),
        1 => pid.clone().prop_map(|pid| Fact::QemuGone { pid }),
        1 => (port.clone(), any::<bool>()).prop_map(|(p, from_start)| {
            Fact::FlowSeen { flow: flow(p), interface: "eth1".to_owned(), from_start, initial_sequences: None }
        }),
        1 => (port.clone(), pid.clone(), any::<bool>(), any_counters(), instant()).prop_map(
            |(p, pid, socket, counters, last_ns)| {
                let method = if socket { OwnerMethod::Socket } else { OwnerMethod::SockDiag };
                let crossed = socket.then(|| made(json!({ "counters": counters, "last_ns": last_ns })));
                Fact::FlowOwner { flow: flow(p), pid, method, crossed }
            }
        ),
        1 => (port.clone(), prop::sample::select(purposes.to_vec()))
            .prop_map(|(p, purpose)| Fact::FlowPurpose { flow: flow(p), purpose }),
        2 => (port, any_counters(), (instant(), instant()), any::<bool>()).prop_map(|(p, counters, times, closed)| {
            let mut counted = counted(flow(p), counters, times, closed);
            counted.last_byte_ns.rx = closed.then_some(MonotonicNs(times.0));
            counted.retransmitted_segments = Some(times.1);
            Fact::FlowCounters(counted)
        }),
        1 => (any::<i64>(), any::<u64>())
            .prop_map(|(offset_ns, error_ns)| Fact::Clock(ClockSample { offset_ns, error_ns })),
        1 => (pid.clone(), any::<f64>().prop_filter("JSON has no such numbers", |f| f.is_finite())).prop_map(
            |(pid, mbps)| Fact::QueryMigrate { pid, reply: json!({ "status": "active", "ram": { "mbps": mbps } }) }
        ),
        1 => (pid, any::<u64>()).prop_map(|(pid, ms)| Fact::Domjobinfo {
            pid,
            figures: [("downtime".to_owned(), ms), ("memory_processed".to_owned(), ms)].into()
        }),
        1 => Just(Fact::LogEnd { reason: EndReason::TimedOut }),
    ]
}

fn any_log() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec((instant(), any_fact()), 0..40).prop_map(|facts| {
        let mut events = vec![at(0, log_start())];
        events.extend(facts.into_iter().map(|(at_ns, fact)| at(at_ns, fact)));
        events
    })
}

fn written(events: &[Event]) -> Vec<u8> {
    let mut writer = LogWriter::new(Vec::new());
    for event in events {
        writer.write(event).unwrap();
    }
    writer.into_inner()
}

fn rendered(events: &[Event]) -> String {
    common::fold(events).iter().map(|r| report::json(r).unwrap() + &report::text::render(r)).collect()
}

fn assert_contiguous(events: &[Event]) {
    for record in common::fold(events) {
        let first = record.phases.iter().find(|phase| phase.name != PhaseName::Listening);
        assert!(first.is_none_or(|p| p.start_ns == 0), "{:#?}", record.phases);
        assert!(record.phases.iter().all(|p| p.start_ns <= p.end_ns), "{:#?}", record.phases);
        assert!(record.phases.windows(2).all(|w| w[0].end_ns == w[1].start_ns), "{:#?}", record.phases);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_bytes_of_the_phases_add_up_to_the_total(events in consistent_log()) {
        let mut migrations = 0;
        for record in common::fold(&events) {
            if record.traffic.flows.is_empty() {
                continue;
            }
            migrations += 1;
            let mut sum = Directions::default();
            for phase in &record.phases {
                prop_assert!(phase.traffic.is_some(), "{:#?}", record);
                sum += phase.traffic.unwrap();
            }
            prop_assert_eq!(Some(sum), record.traffic.total, "{:#?}", record);
        }
        prop_assert!(migrations <= 1, "the flows were counted {migrations} times");
    }

    #[test]
    fn phases_have_neither_holes_nor_overlaps(events in consistent_log()) {
        assert_contiguous(&events);
    }

    #[test]
    fn no_sequence_of_events_breaks_the_fold(events in any_log()) {
        assert_contiguous(&events);
        for record in common::fold(&events) {
            let total = record.traffic.total.unwrap_or_default();
            let downtime = &record.downtime;
            let lengths = [&downtime.stop, &downtime.network, &downtime.reachability, &downtime.tail];
            for estimate in [&record.total_time, &record.setup_time].into_iter().chain(lengths).flatten() {
                prop_assert!(estimate.low_ns <= estimate.value_ns);
                prop_assert!(estimate.high_ns.is_none_or(|high| high >= estimate.value_ns));
            }
            for phase in record.phases.iter().filter_map(|p| p.traffic) {
                prop_assert!(phase.tx.wire_bytes <= total.tx.wire_bytes);
            }
        }
    }

    #[test]
    fn a_replayed_log_gives_the_same_record_and_report_byte_for_byte(events in any_log()) {
        let log = written(&events);
        let read: Vec<Event> = LogReader::new(&log[..]).map(Result::unwrap).collect();
        prop_assert_eq!(&read, &events);
        prop_assert_eq!(rendered(&read), rendered(&events));
        prop_assert_eq!(written(&read), log);
    }

    #[test]
    fn looking_at_the_timeline_on_the_way_changes_nothing(events in any_log()) {
        let mut timeline = Timeline::new(Selection::default());
        for event in &events {
            timeline.push(event);
            let _ = (timeline.live(event.at_ns), timeline.ended());
        }
        prop_assert_eq!(timeline.finish(), common::fold(&events));
    }

    #[test]
    fn a_repeated_look_equals_a_first_one(events in any_log()) {
        let mut timeline = Timeline::new(Selection::default());
        for (i, event) in events.iter().enumerate() {
            timeline.push(event);
            let mut anew = Timeline::new(Selection::default());
            events[..=i].iter().for_each(|event| anew.push(event));
            // What it has carried may have been read with an event, or counted: whichever is more.
            let live = |timeline: &Timeline| {
                timeline.live(event.at_ns).map(|mut live| {
                    live.wire_bytes = None;
                    live
                })
            };
            prop_assert_eq!(live(&timeline), live(&anew));
            prop_assert_eq!(timeline.ended(), anew.ended());
        }
    }
}
