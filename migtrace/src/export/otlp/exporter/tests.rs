use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, metric, number_data_point};
use prost::Message as _;

use super::*;
use crate::event::LogReader;
use crate::export::otlp::queue::Limits;
use crate::export::otlp::send::testing::{Collector, Received, Reply};
use crate::selection::Selection;
use crate::timeline::Timeline;

const TRACES: &str = "/v1/traces";
const METRICS: &str = "/v1/metrics";

fn record() -> Record {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/logs/precopy-7.2.jsonl");
    let mut timeline = Timeline::new(Selection::default());
    let log = LogReader::new(BufReader::new(File::open(path).unwrap()));
    log.for_each(|event| timeline.push(&event.unwrap()));
    timeline.finish().remove(0)
}

/// Records of different migrations.
fn records(number: u8) -> Vec<Record> {
    let of = |place| Record {
        migration: crate::record::Migration {
            id: Some(format!("00000000-0000-4000-8000-0000000000{place:02x}")),
            ..record().migration
        },
        ..record()
    };
    (1..=number).map(of).collect()
}

fn settings(url: &str, variables: &[(&str, &str)]) -> Settings {
    let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
    Settings::read(find, Some(url)).unwrap()
}

type Said = Arc<Mutex<Vec<String>>>;

fn start(url: &str, queue: Queue) -> (Exporter, Said) {
    let said = Said::default();
    let kept = Arc::clone(&said);
    let settings = settings(url, &[("OTEL_EXPORTER_OTLP_TIMEOUT", "300")]);
    let say = move |line: &str| kept.lock().unwrap().push(line.to_owned());
    (Exporter::start(&settings, Origin::default(), queue, say).unwrap(), said)
}

fn in_memory() -> Queue {
    Queue::in_memory(Limits::default())
}

/// The last byte of each request's trace id.
fn traces(received: &[Received]) -> Vec<u8> {
    let id = |received: &Received| {
        let request = ExportTraceServiceRequest::decode(&received.body[..]).unwrap();
        request.resource_spans[0].scope_spans[0].spans[0].trace_id[15]
    };
    received.iter().map(id).collect()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn records_are_sent_in_order_and_counted_in_the_metrics() {
    let collector = Collector::start([Reply::status(200)]);
    let (exporter, said) = start(&collector.url, in_memory());
    records(3).iter().for_each(|record| exporter.send(record).unwrap());
    let counts = exporter.shutdown(Duration::from_secs(10));
    assert_eq!(counts, ExportCounts { sent: 3, ..ExportCounts::default() });
    assert!(counts.is_all_sent());
    assert_eq!(traces(&collector.received_at(TRACES)), [1, 2, 3]);
    assert_eq!(collector.received_at(METRICS).len(), 1);
    assert_eq!(*said.lock().unwrap(), [""; 0]);
}

#[test]
fn records_that_are_sent_again_are_not_counted_again() {
    let collector = Collector::start([Reply::status(200)]);
    let (exporter, _) = start(&collector.url, in_memory());
    exporter.send_again(&record()).unwrap();
    assert!(exporter.shutdown(Duration::from_secs(10)).is_all_sent());
    assert_eq!(collector.received_at(TRACES).len(), 1);
    assert_eq!(collector.received_at(METRICS), []);
}

#[test]
fn a_request_is_tried_again_until_it_is_taken() {
    let collector = Collector::start([
        Reply::status(503),
        Reply::Close,
        Reply::With(429, "retry-after: 1\r\n", Vec::new()),
        Reply::status(200),
    ]);
    let (exporter, said) = start(&collector.url, in_memory());
    exporter.send_again(&record()).unwrap();
    wait_until("it was sent", || exporter.counts().sent == 1);
    assert!(exporter.shutdown(Duration::from_secs(5)).is_all_sent());
    let received = traces(&collector.received_at(TRACES));
    assert!(received.len() >= 4 && received.iter().collect::<HashSet<_>>().len() == 1);
    let said = said.lock().unwrap();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("traces cannot be sent now: the collector answered 503"), "{said:?}");
    assert_eq!(said[1], "traces can be sent again");
}

#[test]
fn a_request_that_is_refused_does_not_hold_up_the_next() {
    let collector = Collector::start([Reply::status(400), Reply::status(200)]);
    let (exporter, said) = start(&collector.url, in_memory());
    records(2).iter().for_each(|record| exporter.send_again(record).unwrap());
    let counts = exporter.shutdown(Duration::from_secs(10));
    assert_eq!((counts.sent, counts.failed, counts.queued), (1, 1, 0));
    assert_eq!(*said.lock().unwrap(), ["a trace was not taken: the collector answered 400 Bad Request"]);
}

#[test]
fn sending_and_ending_never_wait_for_a_collector_that_never_answers() {
    let collector = Collector::start([Reply::Never]);
    let (exporter, _) = start(&collector.url, in_memory());
    let records = records(50);
    let begun = Instant::now();
    records.iter().for_each(|record| exporter.send(record).unwrap());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let begun = Instant::now();
    let counts = exporter.shutdown(Duration::from_millis(700));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!((counts.sent, counts.queued), (0, 50));
    assert!(!counts.is_all_sent());
}

#[test]
fn what_waits_in_a_directory_is_sent_by_the_next_process() {
    let folder = tempfile::tempdir().unwrap();
    let queue = || Queue::in_directory(folder.path(), Limits::default()).unwrap();
    let away = Collector::start([Reply::status(503)]);
    let (exporter, _) = start(&away.url, queue());
    records(3).iter().for_each(|record| exporter.send(record).unwrap());
    let counts = exporter.shutdown(Duration::from_millis(300));
    assert_eq!((counts.sent, counts.queued, counts.dropped), (0, 3, 0));
    let back = Collector::start([Reply::status(200)]);
    let (exporter, _) = start(&back.url, queue());
    assert!(exporter.shutdown(Duration::from_secs(10)).is_all_sent());
    assert_eq!(traces(&back.received_at(TRACES)), [1, 2, 3]);
    assert!(queue().is_empty());
}

#[test]
fn a_full_queue_drops_the_oldest_and_says_so() {
    let away = Collector::start([Reply::status(503)]);
    let limits = Limits { entries: 2, bytes: 1 << 20 };
    let (exporter, said) = start(&away.url, Queue::in_memory(limits));
    records(5).iter().for_each(|record| exporter.send(record).unwrap());
    wait_until("three were dropped", || exporter.counts().dropped == 3);
    let counts = exporter.shutdown(Duration::from_millis(200));
    assert_eq!((counts.queued, counts.dropped), (2, 3));
    assert!(said.lock().unwrap().iter().any(|line| line.ends_with("had to make room for later ones")));
}

#[test]
fn metrics_are_sent_from_time_to_time() {
    let collector = Collector::start([Reply::status(200)]);
    let settings = settings(&collector.url, &[("OTEL_METRIC_EXPORT_INTERVAL", "50")]);
    let exporter = Exporter::start(&settings, Origin::default(), in_memory(), |_| {}).unwrap();
    exporter.send(&record()).unwrap();
    wait_until("metrics came three times", || collector.received_at(METRICS).len() >= 3);
    drop(exporter);
}

/// Metrics of one start after the other, every 50 ms, and no traces.
const DELTAS: [(&str, &str); 4] = [
    ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "Delta"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "300"),
    ("OTEL_TRACES_EXPORTER", "none"),
];

/// From when to when a request counts, and how many migrations.
fn counted(received: &Received) -> (u64, u64, i64) {
    let request = ExportMetricsServiceRequest::decode(&received.body[..]).unwrap();
    let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
    let migrations = metrics.iter().find(|metric| metric.name == "migtrace.migrations").unwrap();
    let Some(metric::Data::Sum(sum)) = &migrations.data else { panic!("no sum: {migrations:?}") };
    assert_eq!(sum.aggregation_temporality, AggregationTemporality::Delta as i32);
    let [point] = &sum.data_points[..] else { panic!("not one point: {sum:?}") };
    let Some(number_data_point::Value::AsInt(count)) = point.value else { panic!("no count: {point:?}") };
    (point.start_time_unix_nano, point.time_unix_nano, count)
}

#[test]
fn deltas_that_were_not_taken_come_again_as_they_were_and_all_of_them_add_up() {
    let again = Reply::status(503);
    let collector = Collector::start([again.clone(), again.clone(), again, Reply::status(200)]);
    let settings = settings(&collector.url, &DELTAS);
    let exporter = Exporter::start(&settings, Origin::default(), in_memory(), |_| {}).unwrap();
    exporter.send(&record()).unwrap();
    wait_until("metrics came", || !collector.received().is_empty());
    exporter.send(&record()).unwrap();
    exporter.send(&record()).unwrap();
    wait_until("they were taken, and those after them", || collector.received().len() >= 5);
    // Nothing has happened since: there is nothing to send.
    thread::sleep(Duration::from_millis(200));
    exporter.send(&record()).unwrap();
    let counts = exporter.shutdown(Duration::from_secs(10));
    assert_eq!((counts.metrics_failed, counts.is_all_sent()), (3, true));
    let received = collector.received();
    assert!(received[..4].iter().all(|request| request.body == received[0].body));
    let taken: Vec<_> = received[3..].iter().map(counted).collect();
    assert_eq!(taken.iter().map(|(.., count)| *count).collect::<Vec<_>>(), [1, 2, 1], "{taken:?}");
    assert!(taken.windows(2).all(|two| two[0].1 == two[1].0), "{taken:?}");
}

#[test]
fn deltas_that_nobody_takes_do_not_hold_up_the_end() {
    for reply in [Reply::status(503), Reply::status(400), Reply::Never] {
        let collector = Collector::start([reply.clone()]);
        let settings = settings(&collector.url, &DELTAS);
        let exporter = Exporter::start(&settings, Origin::default(), in_memory(), |_| {}).unwrap();
        exporter.send(&record()).unwrap();
        let begun = Instant::now();
        let counts = exporter.shutdown(Duration::from_millis(1_500));
        assert!(
            begun.elapsed() < Duration::from_secs(2) && counts.metrics_failed > 0,
            "{reply:?} {counts:?}"
        );
    }
}

#[test]
fn a_record_without_a_trace_is_counted_all_the_same() {
    let collector = Collector::start([Reply::status(200)]);
    let (exporter, _) = start(&collector.url, in_memory());
    let mut record = record();
    record.start.realtime_ns = None;
    assert_eq!(exporter.send(&record), Err(NoTrace::NoWallClock));
    assert!(exporter.shutdown(Duration::from_secs(5)).is_all_sent());
    assert_eq!(collector.received_at(METRICS).len(), 1);
}
