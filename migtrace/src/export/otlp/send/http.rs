//! OTLP over HTTP/1.1, in protobuf or JSON.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{
    CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
};
use hyper::{Method, Request, StatusCode, Uri};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message as _;
use tonic::body::Body;

use super::answer::{Answer, RpcStatus};
use super::connections::{self, Connections, Version};
use super::tls::BadFile;
use super::{LONGEST_ANSWER, Protocol, Signal, Target, hinted};
use crate::export::otlp::json_line;

const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// The most that is repeated of what a collector says.
const LONGEST_QUOTE: usize = 300;

/// What sends one signal.
#[derive(Debug)]
pub(super) struct Client {
    connections: Connections,
    signal: Signal,
    endpoint: Uri,
    headers: Vec<(HeaderName, HeaderValue)>,
    timeout: Duration,
    gzip: bool,
    json: bool,
}

impl Client {
    pub(super) fn new(target: &Target, signal: Signal) -> Result<Self, BadFile> {
        Ok(Self {
            connections: connections::to(target, Version::Http1)?,
            signal,
            endpoint: target.endpoint.clone(),
            headers: target.headers.clone(),
            timeout: target.timeout,
            gzip: target.gzip,
            json: target.protocol == Protocol::HttpJson,
        })
    }

    pub(super) async fn send(&self, request: &[u8]) -> Answer {
        let request = match self.request(request) {
            Ok(request) => request,
            Err(why) => return Answer::Refused { why },
        };
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Answer::on_the_way(format!("no answer within {:?}", self.timeout)),
        }
    }

    fn request(&self, message: &[u8]) -> Result<Request<Body>, String> {
        let mut body = if self.json { json(self.signal, message)? } else { message.to_vec() };
        if self.gzip {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            encoder.write_all(&body).map_err(|error| error.to_string())?;
            body = encoder.finish().map_err(|error| error.to_string())?;
        }
        let mut request = Request::new(Body::new(Full::new(Bytes::from(body))));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.endpoint.clone();
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(super::USER_AGENT));
        headers.extend(self.headers.iter().map(|(name, value)| (Some(name.clone()), value.clone())));
        // Whatever was configured, these say what is there.
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(if self.json { JSON } else { PROTOBUF }));
        if self.gzip {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        Ok(request)
    }

    async fn exchange(&self, request: Request<Body>) -> Answer {
        let response = match self.connections.request(request).await {
            Ok(response) => response,
            Err(error) => return Answer::on_the_way(hinted(&error)),
        };
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LONGEST_ANSWER).collect().await;
        let body = body.map(http_body_util::Collected::to_bytes);
        if head.status.is_success() {
            // What was accepted is accepted, even if the rest of the answer does not come.
            let body = body.unwrap_or_default();
            return match is_json(&head.headers) {
                true => Answer::of_json(&body),
                false => Answer::of_protobuf(self.signal, &body),
            };
        }
        let why = said(head.status, &head.headers, &body.unwrap_or_default());
        if may_be_tried_again(head.status) {
            Answer::TryAgain { after: retry_after(&head.headers), why }
        } else {
            Answer::Refused { why }
        }
    }
}

/// A request as JSON. It is ours, so it can be read.
fn json(signal: Signal, message: &[u8]) -> Result<Vec<u8>, String> {
    let line = match signal {
        Signal::Traces => ExportTraceServiceRequest::decode(message).map(|request| json_line(&request)),
        Signal::Metrics => ExportMetricsServiceRequest::decode(message).map(|request| json_line(&request)),
    };
    let line = line.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    Ok(line.into_bytes())
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|kind| kind.starts_with(JSON))
}

/// The specification names these.
fn may_be_tried_again(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// A number of seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    SystemTime::from(at).duration_since(SystemTime::now()).ok()
}

/// The status of an answer, and what it says.
fn said(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> String {
    let message = if is_json(headers) {
        let said: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        said["message"].as_str().unwrap_or_default().to_owned()
    } else if headers.get(CONTENT_TYPE).is_some_and(|kind| kind == PROTOBUF) {
        RpcStatus::decode(body).map(|status| status.message).unwrap_or_default()
    } else {
        String::from_utf8_lossy(body).into_owned()
    };
    let message: String = message.trim().chars().take(LONGEST_QUOTE).collect();
    let said = if message.is_empty() { String::new() } else { format!(": {message}") };
    format!("the collector answered {status}{said}")
}
