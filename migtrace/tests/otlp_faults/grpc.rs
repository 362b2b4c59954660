//! Every answer that a gRPC server can give, and those that it does not give.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use migtrace::export::otlp::queue::{Limits, Queue};
use migtrace::export::otlp::send::Answer;
use migtrace::export::otlp::{ExportCounts, Exporter, Origin};
use migtrace::record::Record;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;
use tonic::{Code, Status};

use super::server::{Reply, Server, Speaks};
use super::{PROTOCOL, TIMEOUT, accepted, request, send, settings};

/// `google.rpc.Status` with a `google.rpc.RetryInfo` of so many seconds, as its fields are numbered.
fn retry_in(code: Code, seconds: u8) -> Status {
    let delay = [&[0x0a, 2, 0x08][..], &[seconds]].concat();
    let url = b"type.googleapis.com/google.rpc.RetryInfo";
    let any = [&[0x0a, url.len() as u8][..], url, &[0x12, delay.len() as u8], &delay].concat();
    let status = [&[0x08, code as u8, 0x1a, any.len() as u8][..], &any].concat();
    Status::with_details(code, "busy", status.into())
}

fn send_to(server: &Server) -> Answer {
    send(&server.url(), &[(PROTOCOL, "grpc"), (TIMEOUT, "300")])
}

#[test]
fn every_status_means_what_the_specification_says() {
    let again = |after, why: &str| Answer::TryAgain { after, why: why.to_owned() };
    let refused = |why: &str| Answer::Refused { why: why.to_owned() };
    let partial = ExportTracePartialSuccess { rejected_spans: 2, error_message: "too old".into() };
    let partial = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let (busy, seconds) = ("the collector answered Unavailable: busy", Some(Duration::from_secs(7)));
    let cases = [
        (Reply::Takes(Vec::new()), accepted()),
        (Reply::Takes(partial), Answer::Accepted { rejected: 2, message: "too old".into() }),
        (Reply::Status(Status::unavailable("busy")), again(None, busy)),
        (Reply::Status(retry_in(Code::Unavailable, 7)), again(seconds, busy)),
        (
            Reply::Status(retry_in(Code::ResourceExhausted, 7)),
            again(seconds, "the collector answered ResourceExhausted: busy"),
        ),
        (
            Reply::Status(Status::resource_exhausted("full")),
            refused("the collector answered ResourceExhausted: full"),
        ),
        (
            Reply::Status(Status::invalid_argument("no tenant")),
            refused("the collector answered InvalidArgument: no tenant"),
        ),
        (
            Reply::Status(Status::unimplemented("no traces")),
            refused("the collector answered Unimplemented: no traces"),
        ),
    ];
    for (reply, expected) in cases {
        let server = Server::start(Speaks::Grpc, None, [reply.clone()]);
        assert_eq!(send_to(&server), expected, "{reply:?}");
        assert_eq!(server.received(), [request()], "{reply:?}");
    }
}

#[test]
fn a_server_that_is_slow_silent_or_breaks_off_holds_up_nothing() {
    for reply in [Reply::Slowly(Duration::from_secs(30)), Reply::Never, Reply::Half, Reply::Closes] {
        let server = Server::start(Speaks::Grpc, None, [reply.clone()]);
        let begun = Instant::now();
        let answer = send_to(&server);
        assert!(matches!(answer, Answer::TryAgain { after: None, .. }), "{reply:?}: {answer:?}");
        assert!(begun.elapsed() < Duration::from_secs(2), "{reply:?}: {:?}", begun.elapsed());
        assert_eq!(server.received().len(), 1, "{reply:?}");
    }
}

/// Records of different migrations.
fn records(number: u8) -> Vec<Record> {
    let text = include_str!("../logs/precopy-7.2.record.json");
    let of = |place| {
        let mut record: Record = serde_json::from_str(text).unwrap();
        record.migration.id = Some(format!("00000000-0000-4000-8000-0000000000{place:02x}"));
        record
    };
    (1..=number).map(of).collect()
}

/// Sends records to a server that gives these replies. Returns what has become of them, what was said, and the last byte of the
/// trace id of each request.
fn export(number: u8, replies: impl IntoIterator<Item = Reply>) -> (ExportCounts, Vec<String>, Vec<u8>) {
    let server = Server::start(Speaks::Grpc, None, replies);
    let variables = [(PROTOCOL, "grpc"), (TIMEOUT, "300"), ("OTEL_METRICS_EXPORTER", "none")];
    let said = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&said);
    let say = move |line: &str| kept.lock().unwrap().push(line.to_owned());
    let queue = Queue::in_memory(Limits::default());
    let settings = settings(&server.url(), &variables);
    let exporter = Exporter::start(&settings, Origin::default(), queue, say).unwrap();
    records(number).iter().for_each(|record| exporter.send(record).unwrap());
    let begun = Instant::now();
    while exporter.counts().sent + exporter.counts().failed < number.into() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", exporter.counts());
        std::thread::sleep(Duration::from_millis(10));
    }
    let counts = exporter.shutdown(Duration::from_secs(5));
    let id = |body: &hyper::body::Bytes| {
        let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
        request.resource_spans[0].scope_spans[0].spans[0].trace_id[15]
    };
    let said = said.lock().unwrap().clone();
    (counts, said, server.received().iter().map(id).collect())
}

#[test]
fn a_trace_is_tried_again_until_it_is_taken_and_that_is_said_once() {
    let begun = Instant::now();
    let (counts, said, traces) = export(
        2,
        [
            Reply::Status(Status::unavailable("starting")),
            Reply::Status(retry_in(Code::ResourceExhausted, 2)),
            Reply::Takes(Vec::new()),
        ],
    );
    assert_eq!((counts.sent, counts.failed, traces), (2, 0, vec![1, 1, 1, 2]));
    assert!(begun.elapsed() > Duration::from_secs(2), "the collector has asked to wait for two seconds");
    let expected = [
        "traces cannot be sent now: the collector answered Unavailable: starting",
        "traces can be sent again",
    ];
    assert_eq!(said, expected);
}

#[test]
fn a_collector_that_refuses_everything_is_said_once_and_each_trace_is_counted() {
    let refused = Reply::Status(Status::invalid_argument("no tenant"));
    let (counts, said, traces) =
        export(5, [refused.clone(), refused.clone(), refused.clone(), Reply::Takes(Vec::new()), refused]);
    assert_eq!((counts.sent, counts.failed, traces), (1, 4, vec![1, 2, 3, 4, 5]));
    let line = "a trace was not taken: the collector answered InvalidArgument: no tenant";
    assert_eq!(said, [line, line], "once, and once more after one was taken");
}

#[test]
fn an_answer_that_nobody_can_read_costs_one_trace_and_no_more() {
    let (counts, said, traces) = export(2, [Reply::Garbled, Reply::Takes(Vec::new())]);
    assert_eq!((counts.sent, counts.failed, traces), (1, 1, vec![1, 2]));
    assert_eq!(said, ["a trace was not taken: the collector's answer cannot be read"]);
}
