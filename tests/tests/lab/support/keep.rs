//! Keeps both hosts' logs of a migration in the folder that `MIGTRACE_KEEP_LOGS` names, ready for `migtrace/tests/merged/`:
//! without the names of this machine and of its kernel, and with few of the milestones and of the counters that are read ten
//! times a second, so that they are small.

use super::number;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Names the folder.
const VARIABLE: &str = "MIGTRACE_KEEP_LOGS";

/// The positions of a stream of which the milestones are kept: all up to the first, and one for each of the second.
const BEGINNING: u64 = 64 << 10;
const STEP: u64 = 1 << 20;
/// How far apart the counters of a flow are that are kept.
const APART_NS: u64 = 500_000_000;

/// Keeps the events of the source and of the destination, if somebody wants them, in a folder of this name. Returns the folder.
pub(crate) fn pair(name: &str, logs: [Vec<Value>; 2]) -> Option<PathBuf> {
    let folder = Path::new(&std::env::var_os(VARIABLE)?).join(name);
    fs::create_dir_all(&folder).unwrap();
    let hosts = [("source.jsonl", "host-a", "host-b"), ("destination.jsonl", "host-b", "host-a")];
    for (mut events, (file, host, peer)) in logs.into_iter().zip(hosts) {
        events[0]["host"] = host.into();
        events[0]["kernel"] = "6.12.0-amd64".into();
        for event in events.iter_mut().filter(|event| event["event"] == "peer_clock") {
            event["peer"]["host"] = peer.into();
        }
        cut_crossings(&mut events);
        cut_counters(&mut events);
        let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
        fs::write(folder.join(file), lines).unwrap();
    }
    Some(folder)
}

/// Leaves out most crossings of milestones. Those that stay are the same on both hosts: they depend on positions alone.
fn cut_crossings(events: &mut Vec<Value>) {
    let ends: Vec<_> = events.iter().filter(|event| is_milestones(event)).flat_map(crossings_of).collect();
    for event in events.iter_mut().filter(|event| is_milestones(event)) {
        let flow = event["flow"].clone();
        let kept: Vec<_> = crossings_of(event)
            .into_iter()
            .filter(|crossing| {
                let of_stream = |other: &&Crossing| other.flow == flow && other.kind == crossing.kind;
                let end = ends.iter().filter(of_stream).map(|other| other.last).max();
                let covers_step = crossing.last / STEP > crossing.first.saturating_sub(1) / STEP;
                crossing.first <= BEGINNING || covers_step || end == Some(crossing.last)
            })
            .map(|crossing| crossing.json)
            .collect();
        event["crossings"] = json!(kept);
    }
    events.retain(|event| event["crossings"].as_array().is_none_or(|crossings| !crossings.is_empty()));
}

/// Leaves out counters that were read soon after others of the same flow, except for the last.
fn cut_counters(events: &mut Vec<Value>) {
    let is_counters = |event: &Value| event["event"] == "flow_counters";
    let last: HashMap<String, u64> = events
        .iter()
        .filter(|event| is_counters(event))
        .map(|event| (event["flow"].to_string(), number(&event["at_ns"])))
        .collect();
    let mut kept: HashMap<String, u64> = HashMap::new();
    events.retain(|event| {
        let (flow, at_ns) = (event["flow"].to_string(), number(&event["at_ns"]));
        let soon = kept.get(&flow).is_some_and(|before| at_ns < before + APART_NS);
        let stays = !is_counters(event) || !soon || last.get(&flow) == Some(&at_ns);
        if is_counters(event) && stays {
            kept.insert(flow, at_ns);
        }
        stays
    });
}

fn is_milestones(event: &Value) -> bool {
    event["event"] == "milestones"
}

struct Crossing {
    flow: Value,
    kind: (Value, Value),
    first: u64,
    last: u64,
    json: Value,
}

fn crossings_of(event: &Value) -> Vec<Crossing> {
    let crossing = |json: &Value| Crossing {
        flow: event["flow"].clone(),
        kind: (json["way"].clone(), json["by"].clone()),
        first: json["first"].as_u64().unwrap(),
        last: json["last"].as_u64().unwrap(),
        json: json.clone(),
    };
    event["crossings"].as_array().unwrap().iter().map(crossing).collect()
}
