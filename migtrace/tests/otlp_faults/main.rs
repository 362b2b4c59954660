//! Sending to collectors that refuse, are slow, break off or speak TLS, over real connections.

#![cfg(feature = "otlp")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod grpc;
mod server;
mod tls;

use migtrace::export::otlp::send::{Answer, Sender, Settings, Signal};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use prost::Message as _;

/// A request that is not empty.
fn request() -> Vec<u8> {
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans::default()] }.encode_to_vec()
}

fn settings(url: &str, variables: &[(&str, &str)]) -> Settings {
    let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, v)| (*v).to_owned());
    Settings::read(find, Some(url)).unwrap()
}

/// Sends [`request`] once.
fn send(url: &str, variables: &[(&str, &str)]) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(async {
        let sender = Sender::new(&settings(url, variables)).unwrap();
        sender.send(Signal::Traces, &request()).await
    });
    runtime.shutdown_background();
    answer
}

fn accepted() -> Answer {
    Answer::Accepted { rejected: 0, message: String::new() }
}

const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";
const TIMEOUT: &str = "OTEL_EXPORTER_OTLP_TIMEOUT";
