use std::io::Read as _;
use std::net::TcpListener;
use std::time::Instant;

use flate2::read::GzDecoder;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;
use serde_json::json;

use super::testing::{Collector, Reply};
use super::*;

/// An empty request has no bytes, so this one has something in it.
fn request() -> Vec<u8> {
    ExportTraceServiceRequest { resource_spans: vec![Default::default()] }.encode_to_vec()
}

fn settings(variables: &[(&str, &str)], url: &str) -> Settings {
    let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
    Settings::read(find, Some(url)).unwrap()
}

fn send(variables: &[(&str, &str)], url: &str) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let sender = Sender::new(&settings(variables, url)).unwrap();
        sender.send(Signal::Traces, &request()).await
    });
    runtime.shutdown_background();
    answer
}

fn accepted() -> Answer {
    Answer::accepted(None)
}

const SHORT: (&str, &str) = ("OTEL_EXPORTER_OTLP_TIMEOUT", "300");
const GRPC: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");

#[test]
fn a_request_arrives_as_it_was_made_with_the_headers_that_were_asked_for() {
    let collector = Collector::start([Reply::status(200)]);
    let headers = ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x,content-type=text/html");
    assert_eq!(send(&[headers], &collector.url), accepted());
    let received = collector.received().remove(0);
    assert_eq!((received.path.as_str(), received.body.clone()), ("/v1/traces", request()));
    assert_eq!(received.header("content-type"), Some("application/x-protobuf"));
    assert_eq!(received.header("authorization"), Some("Bearer x"));
    assert!(received.header("user-agent").unwrap().starts_with("OTel-OTLP-Exporter-migtrace/"));
}

#[test]
fn a_compressed_request_has_the_same_content() {
    let collector = Collector::start([Reply::status(200)]);
    assert_eq!(send(&[("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")], &collector.url), accepted());
    let received = collector.received().remove(0);
    let mut content = Vec::new();
    GzDecoder::new(&received.body[..]).read_to_end(&mut content).unwrap();
    assert_eq!((received.header("content-encoding"), content), (Some("gzip"), request()));
}

#[test]
fn a_request_may_be_json() {
    let collector = Collector::start([Reply::status(200)]);
    assert_eq!(send(&[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")], &collector.url), accepted());
    let received = collector.received().remove(0);
    assert_eq!(received.header("content-type"), Some("application/json"));
    let content: serde_json::Value = serde_json::from_slice(&received.body).unwrap();
    assert_eq!(content, json!({ "resourceSpans": [{}] }));
}

#[test]
fn what_an_answer_means_is_as_the_specification_has_it() {
    let again = |after| move |why: &str| Answer::TryAgain { after, why: why.to_owned() };
    let refused = |why: &str| Answer::Refused { why: why.to_owned() };
    let seconds = Some(Duration::from_secs(7));
    let cases: [(u16, &'static str, Answer); 9] = [
        (400, "", refused("the collector answered 400 Bad Request")),
        (401, "", refused("the collector answered 401 Unauthorized")),
        (404, "", refused("the collector answered 404 Not Found")),
        (307, "location: http://127.0.0.1:1/\r\n", refused("the collector answered 307 Temporary Redirect")),
        (500, "", refused("the collector answered 500 Internal Server Error")),
        (429, "retry-after: 7\r\n", again(seconds)("the collector answered 429 Too Many Requests")),
        (502, "", again(None)("the collector answered 502 Bad Gateway")),
        (503, "retry-after: soon\r\n", again(None)("the collector answered 503 Service Unavailable")),
        (504, "retry-after: 7\r\n", again(seconds)("the collector answered 504 Gateway Timeout")),
    ];
    for (status, headers, expected) in cases {
        let collector = Collector::start([Reply::With(status, headers, Vec::new())]);
        assert_eq!(send(&[], &collector.url), expected);
        assert_eq!(collector.received().len(), 1);
    }
}

#[test]
fn a_date_to_try_again_at_is_understood() {
    let collector =
        Collector::start([Reply::With(503, "retry-after: Fri, 31 Dec 2100 23:59:59 GMT\r\n", vec![])]);
    let Answer::TryAgain { after: Some(after), .. } = send(&[], &collector.url) else { panic!("no date") };
    assert!(after > Duration::from_hours(24 * 365));
}

#[test]
fn what_the_collector_says_is_repeated_but_not_all_of_it() {
    let protobuf = "content-type: application/x-protobuf\r\n";
    // Field 2 of google.rpc.Status is its message.
    let collector = Collector::start([Reply::With(400, protobuf, b"\x12\x07too old".to_vec())]);
    let why = "the collector answered 400 Bad Request: too old".to_owned();
    assert_eq!(send(&[], &collector.url), Answer::Refused { why });
    let json = "content-type: application/json\r\n";
    let collector = Collector::start([Reply::With(400, json, br#"{"message":"no tenant"}"#.to_vec())]);
    let why = "the collector answered 400 Bad Request: no tenant".to_owned();
    assert_eq!(send(&[], &collector.url), Answer::Refused { why });
    let collector = Collector::start([Reply::With(400, "", vec![b'x'; 1 << 20])]);
    let Answer::Refused { why } = send(&[], &collector.url) else { panic!("it was not refused") };
    assert!(why.len() < 400, "{}", why.len());
}

#[test]
fn a_partial_success_is_counted() {
    let partial = ExportTracePartialSuccess { rejected_spans: 2, error_message: "too old".into() };
    let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let collector = Collector::start([Reply::With(200, "", body)]);
    assert_eq!(send(&[], &collector.url), Answer::Accepted { rejected: 2, message: "too old".into() });
}

#[test]
fn a_collector_that_is_slow_or_away_holds_up_nothing() {
    let never = Collector::start([Reply::Never]);
    let slow = Collector::start([Reply::Slowly(Duration::from_secs(30))]);
    let closing = Collector::start([Reply::Close]);
    // Nobody accepts there, and the kernel takes the connection all the same.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let away = {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        format!("http://127.0.0.1:{port}")
    };
    for protocol in [SHORT, GRPC] {
        for url in [&never.url, &slow.url, &closing.url, &silent, &away] {
            let begun = Instant::now();
            let answer = send(&[SHORT, protocol], url);
            assert!(matches!(answer, Answer::TryAgain { .. }), "{url} {protocol:?}: {answer:?}");
            assert!(begun.elapsed() < Duration::from_secs(3), "{url}: {:?}", begun.elapsed());
        }
    }
}

#[test]
fn a_bad_file_for_tls_is_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let (empty, missing) = (empty.display().to_string(), folder.path().join("no.pem").display().to_string());
    for (path, why) in [(&empty, "it has no certificate in PEM"), (&missing, "No such file or directory")] {
        for protocol in [("", ""), GRPC] {
            let variables = [("OTEL_EXPORTER_OTLP_CERTIFICATE", path.as_str()), protocol];
            let error = Sender::new(&settings(&variables, "https://c:1")).unwrap_err().to_string();
            assert!(error.starts_with(&format!("cannot use {path} for TLS: {why}")), "{error}");
        }
    }
}
