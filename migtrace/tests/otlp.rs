//! The trace of a migration: which spans it has, and that both hosts' halves meet.
//!
//! After a change that is meant: `UPDATE_GOLDEN=1 cargo test -p migtrace --test otlp`, and read the difference.

#![cfg(feature = "otlp")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use common::merged;
use migtrace::export::ids::Ids;
use migtrace::export::metrics::{Metrics, Point, STOP, WIRE_BYTES};
use migtrace::export::otlp::{
    Buckets, ExportMetricsServiceRequest, ExportTraceServiceRequest, NoTrace, Origin, PlatformAttributes,
    Temporality, ThisHost, TraceContext, json_line, metrics_request, trace_request, trace_request_with,
};
use migtrace::record::Record;
use serde_json::{Value, json};

fn trace(record: &Record) -> Value {
    sent(&trace_request(record, &Origin::default()).unwrap())
}

fn sent(request: &ExportTraceServiceRequest) -> Value {
    serde_json::from_str(&json_line(request).unwrap()).unwrap()
}

/// The spans of a trace, in order.
fn spans(trace: &Value) -> Vec<Value> {
    let of_hosts = trace["resourceSpans"].as_array().unwrap().iter();
    of_hosts.flat_map(|host| host["scopeSpans"][0]["spans"].as_array().unwrap().clone()).collect()
}

fn ids(spans: &[Value]) -> BTreeSet<String> {
    spans.iter().map(|span| span["spanId"].as_str().unwrap().to_owned()).collect()
}

/// The parents that are not among the spans.
fn missing_parents(spans: &[Value]) -> BTreeSet<String> {
    let known = ids(spans);
    let parents = spans.iter().filter_map(|span| span["parentSpanId"].as_str()).map(str::to_owned);
    parents.filter(|parent| !known.contains(parent)).collect()
}

/// The value of an attribute, as OTLP's JSON has it.
fn attribute(of: &Value, key: &str) -> Option<Value> {
    let attribute = of["attributes"].as_array()?.iter().find(|attribute| attribute["key"] == key)?;
    attribute["value"].as_object()?.values().next().cloned()
}

fn named<'s>(spans: &'s [Value], name: &str) -> &'s Value {
    spans.iter().find(|span| span["name"] == name).unwrap_or_else(|| panic!("no span {name}"))
}

/// The record of one half, and of both. None where a host has several or none.
fn halves(name: &str) -> Option<[Record; 3]> {
    let [source, destination] = merged::both(name);
    let one = |logs: &[merged::Log]| {
        let mut records = merged::merge(logs).unwrap();
        (records.len() == 1).then(|| records.remove(0))
    };
    Some([
        one(std::slice::from_ref(&source))?,
        one(std::slice::from_ref(&destination))?,
        one(&[source, destination])?,
    ])
}

#[test]
fn records_give_the_traces_beside_them() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/otlp");
    let mut differing = Vec::new();
    for name in ["precopy-7.2", "cancelled-7.2"] {
        let records = halves(name).unwrap();
        for (side, record) in ["source", "destination", "merged"].iter().zip(&records) {
            let path = folder.join(format!("{name}.{side}.jsonl"));
            let got = json_line(&trace_request(record, &Origin::default()).unwrap()).unwrap() + "\n";
            if update {
                fs::write(&path, got).unwrap();
            } else if fs::read_to_string(&path).unwrap_or_default() != got {
                differing.push(path);
            }
        }
    }
    assert!(differing.is_empty(), "these differ from what the records give now: {differing:#?}");
}

#[test]
fn both_halves_meet_in_one_trace_without_a_common_span_or_a_missing_parent() {
    let mut met = 0;
    for name in merged::names() {
        let Some([source, destination, both]) = halves(&name) else { continue };
        if source.migration.id != destination.migration.id {
            continue;
        }
        met += 1;
        let [source, destination, both] = [source, destination, both].map(|record| spans(&trace(&record)));
        let traces: BTreeSet<_> = [&source, &destination, &both]
            .into_iter()
            .flatten()
            .map(|span| span["traceId"].to_string())
            .collect();
        assert_eq!(traces.len(), 1, "{name}");
        assert_eq!(ids(&source).intersection(&ids(&destination)).count(), 0, "{name}");
        assert!(missing_parents(&source).is_empty(), "{name}");
        let root = source[0]["spanId"].as_str().unwrap().to_owned();
        assert_eq!(missing_parents(&destination), BTreeSet::from([root]), "{name}");
        let together = [source.clone(), destination.clone()].concat();
        assert!(missing_parents(&together).is_empty(), "{name}");
        assert!(missing_parents(&both).is_empty(), "{name}");
        assert_eq!(ids(&together).len(), together.len(), "{name}");
        assert_eq!(ids(&both).len(), both.len(), "{name}");
        // The record of both adds to what the source alone has sent, and repeats nothing under another identifier.
        assert!(ids(&source).is_subset(&ids(&both)), "{name}");
        assert!(ids(&both).contains(destination[0]["spanId"].as_str().unwrap()), "{name}");
    }
    assert!(met > 20, "{met}");
}

#[test]
fn every_record_gives_spans_that_end_after_they_begin_and_have_few_names() {
    let mut names = BTreeSet::new();
    for name in common::log_names() {
        for record in common::replay(&name) {
            let spans = spans(&trace(&record));
            assert_eq!(ids(&spans).len(), spans.len(), "{name}");
            assert!(missing_parents(&spans).len() <= 1, "{name}");
            for span in spans {
                let at = |key: &str| span[key].as_str().unwrap().parse::<u64>().unwrap();
                assert!(at("startTimeUnixNano") <= at("endTimeUnixNano"), "{name}");
                assert_eq!(span["traceId"].as_str().unwrap().len(), 32, "{name}");
                names.insert(span["name"].as_str().unwrap().to_owned());
            }
        }
    }
    assert!(names.contains("phase other"), "{names:?}");
    assert!(names.len() < 40, "{names:?}");
}

#[test]
fn the_trace_has_the_migrations_uuid() {
    let record = common::one("precopy-7.2");
    let id = record.migration.id.clone().unwrap().replace('-', "");
    let spans = spans(&trace(&record));
    assert_eq!(spans[0]["traceId"], id);
    assert_eq!(attribute(&spans[0], "migtrace.trace_id.derived_from"), None);
}

#[test]
fn a_record_without_the_uuid_has_a_trace_of_its_own_and_says_so() {
    for bad in [None, Some("not a UUID"), Some("00000000-0000-0000-0000-000000000000")] {
        let mut record = common::one("destination-10.0");
        record.migration.id = bad.map(str::to_owned);
        let spans = spans(&trace(&record));
        assert_eq!(attribute(&spans[0], "migtrace.trace_id.derived_from"), Some(json!("start")));
        assert_eq!(spans, self::spans(&trace(&record)));
        // No other host derives this one, so its root would never come.
        assert!(missing_parents(&spans).is_empty());
    }
}

#[test]
fn what_is_not_known_is_left_out_and_said() {
    let mut record = common::one("precopy-7.2");
    record.downtime.stop = None;
    record.traffic.total = None;
    record.vm.name = None;
    let spans = spans(&trace(&record));
    let root = &spans[0];
    for key in ["migtrace.stop.value_ns", "migtrace.tx.wire_bytes", "migtrace.vm.name", "error.type"] {
        assert_eq!(attribute(root, key), None, "{key}");
    }
    assert!(spans.iter().all(|span| span["name"] != "stop"));
    let said = attribute(root, "migtrace.not_measured").unwrap();
    assert_eq!(said["values"].as_array().unwrap().len(), record.not_measured.len());
    // A lower bound alone stays one.
    let source = common::replay("vcpus").remove(0);
    let stop = source.downtime.stop.as_ref().unwrap();
    let root = &self::spans(&trace(&source))[0];
    assert_eq!(attribute(root, "migtrace.stop.low_ns"), Some(json!(stop.low_ns.to_string())));
    assert_eq!(attribute(root, "migtrace.stop.high_ns"), stop.high_ns.map(|high| json!(high.to_string())));
}

#[test]
fn a_failed_migration_has_an_error_status_with_qemus_text() {
    let record = common::one("failed");
    let spans = spans(&trace(&record));
    assert_eq!(spans[0]["status"]["code"], 2);
    assert_eq!(attribute(&spans[0], "error.type"), Some(json!("failed")));
    let mut record = record;
    record.migration.error = Some("Unable to write to socket: Broken pipe".into());
    let spans = self::spans(&trace(&record));
    assert_eq!(spans[0]["status"]["message"], "Unable to write to socket: Broken pipe");
}

#[test]
fn the_parts_of_the_stop_are_below_it_and_each_of_its_host() {
    let [_, _, both] = halves("precopy-7.2").unwrap();
    let trace = trace(&both);
    let hosts = trace["resourceSpans"].as_array().unwrap();
    assert_eq!(attribute(&hosts[0]["resource"], "host.name"), Some(json!("host-a")));
    assert_eq!(attribute(&hosts[1]["resource"], "host.name"), Some(json!("host-b")));
    let spans = spans(&trace);
    let stop = named(&spans, "stop")["spanId"].clone();
    for part in ["part drain", "part last-pass", "part load"] {
        assert_eq!(named(&spans, part)["parentSpanId"], stop, "{part}");
    }
    let load = named(&spans, "part load");
    let of_destination = hosts[1]["scopeSpans"][0]["spans"].as_array().unwrap();
    assert!(of_destination.contains(load));
    // Its times were made of the other clock's.
    let offset = both.observers[1].alignment.as_ref().unwrap().high_ns.unwrap();
    assert_eq!(attribute(load, "migtrace.clock_offset.high_ns"), Some(json!(offset.to_string())));
    assert_eq!(attribute(named(&spans, "part drain"), "migtrace.clock_offset.high_ns"), None);
}

#[test]
fn the_root_links_to_its_caller() {
    let [source, destination, both] = halves("precopy-7.2").unwrap();
    let caller = TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
    let origin = Origin { caller: Some(caller.with_state("a=b")), ..Origin::default() };
    for record in [source, destination, both] {
        let spans = spans(&sent(&trace_request(&record, &origin).unwrap()));
        let linked: Vec<_> = spans.iter().filter(|span| !span["links"].is_null()).collect();
        assert_eq!(linked.len(), 1);
        assert_eq!(linked[0]["name"], "migration");
        assert_eq!(linked[0]["links"][0]["traceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(linked[0]["links"][0]["traceState"], "a=b");
        assert_eq!(linked[0]["traceId"].as_str().unwrap(), Ids::of(&record).trace.to_string());
    }
}

#[test]
fn what_the_platform_knows_is_on_the_migration_of_each_side_and_replaces_nothing() {
    let mut platform = PlatformAttributes::default();
    platform.insert("tenant.id", "nobody").unwrap().insert("flavour.vcpus", 4).unwrap();
    platform.insert("evacuation", true).unwrap().insert("tenant.id", "acme").unwrap();
    for taken in ["", "migtrace.role", "network.peer.address", "error.type"] {
        assert_eq!(platform.insert(taken, "x").unwrap_err().0, taken);
    }
    let [_, _, both] = halves("cancelled-7.2").unwrap();
    let plain = spans(&trace(&both));
    let request = trace_request_with(&both, &Origin::default(), &platform).unwrap();
    let with = spans(&sent(&request));
    assert_eq!(plain.len(), with.len());
    let mut changed = 0;
    for (plain, with) in plain.iter().zip(&with) {
        if plain["name"] != "migration" {
            assert_eq!(plain, with);
            continue;
        }
        changed += 1;
        let (plain, with) = (plain["attributes"].as_array().unwrap(), with["attributes"].as_array().unwrap());
        let more = json!([
            { "key": "tenant.id", "value": { "stringValue": "acme" } },
            { "key": "flavour.vcpus", "value": { "intValue": "4" } },
            { "key": "evacuation", "value": { "boolValue": true } },
        ]);
        let (own, added): (Vec<Value>, Vec<Value>) =
            with.iter().cloned().partition(|attribute| plain.contains(attribute));
        assert_eq!((&own, &Value::Array(added)), (plain, &more));
    }
    assert_eq!(changed, 2);
}

#[test]
fn a_record_without_a_wall_clock_has_no_trace() {
    let mut record = common::one("precopy-7.2");
    record.start.realtime_ns = None;
    assert_eq!(trace_request(&record, &Origin::default()), Err(NoTrace::NoWallClock));
    record.start.realtime_ns = Some(1);
    record.observers.clear();
    assert_eq!(trace_request(&record, &Origin::default()), Err(NoTrace::NoSide));
}

#[test]
fn attributes_of_one_host_are_not_given_to_the_other() {
    let [_, _, both] = halves("precopy-7.2").unwrap();
    let attributes = [("k8s.node.name", "node-7"), ("deployment.environment.name", "test")];
    let this_host = ThisHost {
        name: "host-b".into(),
        id: Some("feedbeef".into()),
        kernel: "6.12.0-amd64".into(),
        instance: "1".into(),
    };
    let origin = Origin {
        service_name: Some("moves".into()),
        attributes: attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        this_host: Some(this_host),
        caller: None,
    };
    let trace = sent(&trace_request(&both, &origin).unwrap());
    let of = |host: usize, key: &str| attribute(&trace["resourceSpans"][host]["resource"], key);
    let names = ["service.name", "host.name", "host.id", "k8s.node.name", "deployment.environment.name"];
    let seen = |host| names.map(|name| of(host, name).map(|value| value.as_str().unwrap().to_owned()));
    let expected = |values: [Option<&str>; 5]| values.map(|value| value.map(str::to_owned));
    assert_eq!(seen(0), expected([Some("moves"), Some("host-a"), None, None, Some("test")]));
    let own = [Some("moves"), Some("host-b"), Some("feedbeef"), Some("node-7"), Some("test")];
    assert_eq!(seen(1), expected(own));
}

#[test]
fn metrics_count_what_records_say_and_lead_to_their_spans() {
    let mut metrics = Metrics::new(7);
    let record = common::replay("vcpus").remove(0);
    let failed = common::one("failed");
    for record in [&record, &record, &failed] {
        metrics.add(record, 1_000);
    }
    let family = |name| metrics.families().iter().find(|family| family.definition.name == name).unwrap();
    let counts: Vec<_> = family("migtrace.migrations").points.values().collect();
    assert!(counts.contains(&&Point::Counter(2)) && counts.contains(&&Point::Counter(1)), "{counts:?}");
    let Some(Point::Histogram(stop)) = family(STOP.name).points.values().next() else { panic!("no stop") };
    let value = record.downtime.stop.as_ref().unwrap().value_ns as f64 / 1e9;
    assert_eq!((stop.count, stop.min, stop.max), (2, Some(value), Some(value)));
    let exemplar = stop.exemplars.iter().flatten().next().unwrap();
    let spans = spans(&trace(&record));
    assert_eq!(named(&spans, "stop")["spanId"], exemplar.span.to_string());
    assert_eq!(exemplar.trace.to_string(), named(&spans, "stop")["traceId"].as_str().unwrap());
    // The passes of one phase are one value.
    let is_active = |attributes: &[(&str, String)]| attributes.iter().any(|(_, value)| value == "active");
    let mut active = family(WIRE_BYTES.name).points.iter().filter(|(attributes, _)| is_active(attributes));
    let sum: u64 = record
        .phases
        .iter()
        .filter(|phase| phase.name.as_str() == "active")
        .map(|phase| phase.traffic.unwrap().tx.wire_bytes)
        .sum();
    let found = active.any(|(_, point)| {
        matches!(point, Point::Histogram(histogram) if histogram.count == 2 && histogram.max == Some(sum as f64))
    });
    assert!(found);
    let request = |temporality| -> ExportMetricsServiceRequest {
        metrics_request(&metrics, 2_000, temporality, Buckets::Exponential, &Origin::default())
    };
    let line = json_line(&request(Temporality::Cumulative)).unwrap();
    let delta = json_line(&request(Temporality::Delta)).unwrap();
    let kinds = ["\"aggregationTemporality\":2", "\"aggregationTemporality\":1"];
    assert!(line.contains(kinds[0]) && line.replace(kinds[0], kinds[1]) == delta, "{delta}");
    let json: Value = serde_json::from_str(&line).unwrap();
    let names: Vec<_> = json["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|metric| metric["name"].as_str().unwrap().to_owned())
        .collect();
    assert!(names.contains(&"migtrace.migration.stop".to_owned()), "{names:?}");
    assert!(!json.to_string().contains(record.vm.uuid.as_deref().unwrap()));
}
