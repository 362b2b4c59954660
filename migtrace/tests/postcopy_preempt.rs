//! The channel of post-copy for the pages that the guest waits for: which flow it is, and where its bytes belong.
//!
//! The logs are of real migrations. What each test changes in them could also have happened.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use common::{events, fold};
use migtrace::event::{Event, Fact};
use migtrace::record::{Mode, Record};
use migtrace::units::{Directions, Flow, MonotonicNs};
use migtrace::vocabulary::Purpose;

const LOGS: [&str; 3] = ["postcopy-preempt-7.2", "postcopy-preempt-10.0", "destination-preempt-7.2"];

fn record(events: &[Event]) -> Record {
    let mut records = fold(events);
    assert_eq!(records.len(), 1);
    records.remove(0)
}

fn log(name: &str) -> Vec<Event> {
    events(name).0
}

fn purposes(record: &Record) -> Vec<Purpose> {
    record.traffic.flows.iter().map(|flow| flow.purpose).collect()
}

/// The flow without a magic.
fn channel(events: &[Event]) -> Flow {
    let is_named = |wanted: Flow| {
        events.iter().any(|e| matches!(e.fact, Fact::FlowPurpose { flow, .. } if flow == wanted))
    };
    let seen = events.iter().filter_map(|event| match event.fact {
        Fact::FlowSeen { flow, .. } => Some(flow),
        _ => None,
    });
    seen.into_iter().find(|flow| !is_named(*flow)).unwrap()
}

/// The log with this flow's ports and addresses changed wherever it is named.
fn moved(events: &[Event], from: Flow, to: Flow) -> Vec<Event> {
    let text = |flow: Flow| serde_json::to_string(&flow).unwrap();
    let rename = |event: &Event| {
        let line = serde_json::to_string(event).unwrap().replace(&text(from), &text(to));
        serde_json::from_str(&line).unwrap()
    };
    events.iter().map(rename).collect()
}

/// Whether an event is about this flow.
fn is_of(event: &Event, wanted: Flow) -> bool {
    match &event.fact {
        Fact::FlowSeen { flow, .. } | Fact::FlowOwner { flow, .. } => *flow == wanted,
        Fact::FlowCounters(counted) => counted.flow == wanted,
        _ => false,
    }
}

fn is_status(event: &Event, wanted: &str) -> bool {
    matches!(&event.fact, Fact::Qmp(qmp) if qmp.name == "MIGRATION" && qmp.data["status"] == wanted)
}

fn without(events: &[Event], unwanted: impl Fn(&Event) -> bool) -> Vec<Event> {
    events.iter().filter(|event| !unwanted(event)).cloned().collect()
}

/// What crossed in all phases; none when that of one is not known.
fn in_phases(record: &Record) -> Option<Directions<u64>> {
    let mut sum = Directions { tx: 0, rx: 0 };
    for phase in &record.phases {
        sum.tx += phase.traffic?.tx.wire_bytes;
        sum.rx += phase.traffic?.rx.wire_bytes;
    }
    Some(sum)
}

#[test]
fn the_channel_is_recognised_when_the_guest_has_moved_ahead_of_its_memory() {
    for name in LOGS {
        let record = record(&log(name));
        assert_eq!(record.migration.mode, Mode::Postcopy, "{name}");
        assert_eq!(purposes(&record), [Purpose::Ram, Purpose::PostcopyPreempt], "{name}");
        let total = record.traffic.total.unwrap().map(|counters| counters.wire_bytes);
        assert_eq!(in_phases(&record), Some(total), "{name}");
    }
}

#[test]
fn the_handshake_of_the_channel_belongs_to_the_phase_in_which_it_was_connected() {
    // Two segments to the destination and one back; QEMU's event lacks them.
    let handshake = Directions { tx: 2 * 70, rx: 74 };
    for (name, connected_in, ended_by) in
        [("postcopy-preempt-7.2", "setup", "active"), ("postcopy-preempt-10.0", "active", "STOP")]
    {
        let log = log(name);
        let is_end = |event: &&Event| {
            is_status(event, ended_by) || matches!(&event.fact, Fact::Qmp(qmp) if qmp.name == ended_by)
        };
        let Fact::Qmp(end) = &log.iter().find(is_end).unwrap().fact else { panic!("no event") };
        let counted = end.counters.unwrap().map(|counters| counters.wire_bytes);
        let record = record(&log);
        let last = record.phases.iter().rposition(|phase| phase.name.as_str() == connected_in).unwrap();
        let reached: [u64; 2] = record.phases[..=last].iter().fold([0, 0], |[tx, rx], phase| {
            let crossed = phase.traffic.unwrap().map(|counters| counters.wire_bytes);
            [tx + crossed.tx, rx + crossed.rx]
        });
        assert_eq!(reached, [counted.tx + handshake.tx, counted.rx + handshake.rx], "{name}");
    }
}

#[test]
fn a_flow_on_which_the_destination_sends_is_not_the_channel() {
    let mut log = log("postcopy-preempt-10.0");
    let flow = channel(&log);
    for event in &mut log {
        if let Fact::FlowCounters(counted) = &mut event.fact
            && counted.flow == flow
        {
            counted.counters.rx.payload_bytes += 1;
        }
    }
    assert_eq!(purposes(&record(&log)), [Purpose::Ram, Purpose::Unknown]);
}

#[test]
fn the_channel_is_not_guessed_when_the_guest_moved_after_its_memory() {
    let unused = record(&log("preempt-unused-7.2"));
    assert_eq!(unused.migration.mode, Mode::Precopy);
    assert_eq!(purposes(&unused), [Purpose::Ram, Purpose::Unknown]);
    let total = unused.traffic.total.unwrap().map(|counters| counters.wire_bytes);
    assert_eq!(in_phases(&unused), Some(total), "its handshake belongs to the setup");

    for name in LOGS {
        let precopy = without(&log(name), |event| is_status(event, "postcopy-active"));
        assert_eq!(purposes(&record(&precopy)), [Purpose::Ram, Purpose::Unknown], "{name}");
    }
}

#[test]
fn a_flow_to_another_port_or_host_than_the_memory_is_not_the_channel() {
    for name in LOGS {
        let log = log(name);
        let flow = channel(&log);
        let (mut port, mut host) = (flow, flow);
        if name.starts_with("destination") {
            port.local.set_port(49_153);
            host.remote.set_ip([192, 0, 2, 9].into());
        } else {
            port.remote.set_port(49_153);
            host.remote.set_ip([192, 0, 2, 9].into());
        }
        for elsewhere in [port, host] {
            let record = record(&moved(&log, flow, elsewhere));
            assert_eq!(purposes(&record), [Purpose::Ram, Purpose::Unknown], "{name} {elsewhere}");
        }
    }
}

#[test]
fn a_flow_that_is_recognised_by_its_magic_is_not_the_channel() {
    for said in [Purpose::Tls, Purpose::Multifd, Purpose::Nbd] {
        let mut log = log("postcopy-preempt-10.0");
        let flow = channel(&log);
        log.push(Event { at_ns: log[log.len() - 1].at_ns, fact: Fact::FlowPurpose { flow, purpose: said } });
        assert_eq!(purposes(&record(&log)), [Purpose::Ram, said]);
    }
}

#[test]
fn of_two_flows_that_could_be_the_channel_neither_is() {
    let log = log("postcopy-preempt-10.0");
    let flow = channel(&log);
    let mut other = flow;
    other.local.set_port(1);
    let both: Vec<_> = log
        .iter()
        .zip(moved(&log, flow, other))
        .flat_map(|(event, twin)| {
            let twin = (*event != twin).then_some(twin);
            std::iter::once(event.clone()).chain(twin)
        })
        .collect();
    let purposes = purposes(&record(&both));
    assert_eq!(purposes, [Purpose::Ram, Purpose::Unknown, Purpose::Unknown]);
}

#[test]
fn a_connection_that_resumes_the_memory_stream_is_not_the_channel() {
    let mut log = log("postcopy-preempt-10.0");
    // It was lost before this channel was made.
    let place = log.iter().position(|event| is_status(event, "device")).unwrap();
    let seen = log.iter().find(|e| matches!(e.fact, Fact::FlowSeen { flow, .. } if flow == channel(&log)));
    let before = MonotonicNs(seen.unwrap().at_ns.0 - 1);
    let mut paused = log[place].clone();
    paused.at_ns = before;
    if let Fact::Qmp(qmp) = &mut paused.fact {
        qmp.data["status"] = "postcopy-paused".into();
        qmp.counters = None;
    }
    log.insert(place, paused);
    assert_eq!(purposes(&record(&log)), [Purpose::Ram, Purpose::Ram]);
    // Where both were made again, nothing shows which is which.
    let known = channel(&log);
    let another = Flow { local: "192.0.2.1:40999".parse().unwrap(), ..known };
    let end = log.pop().unwrap();
    let copies: Vec<_> = log.iter().filter(|event| is_of(event, known)).cloned().collect();
    log.extend(moved(&copies, known, another));
    log.sort_by_key(|event| event.at_ns);
    log.push(end);
    assert_eq!(purposes(&record(&log)), [Purpose::Ram, Purpose::Unknown, Purpose::Unknown]);
}

#[test]
fn the_bytes_of_a_phase_are_unknown_if_a_snapshot_lacks_the_handshake() {
    for name in ["postcopy-preempt-7.2", "postcopy-preempt-10.0"] {
        let log = log(name);
        let flow = channel(&log);
        let whole = record(&log);
        // As in a log without any count of the flow between its handshake and its owner.
        let mut silent = without(&log, |event| match &event.fact {
            Fact::FlowCounters(counted) => {
                counted.flow == flow
                    && counted.counters.tx.payload_bytes == 0
                    && counted.counters.rx.payload_bytes == 0
            }
            _ => false,
        });
        for event in &mut silent {
            if let Fact::FlowOwner { flow: of, crossed, .. } = &mut event.fact
                && *of == flow
            {
                *crossed = None;
            }
        }
        let record = record(&silent);
        assert_eq!(in_phases(&record), None, "{name}");
        assert!(record.not_measured.iter().any(|entry| entry.what == "the bytes of some phases"), "{name}");
        // What is known without it is the same.
        for (phase, known) in record.phases.iter().zip(&whole.phases) {
            assert!(phase.traffic.is_none() || phase.traffic == known.traffic, "{name}: {phase:?} {known:?}");
        }
    }
}
