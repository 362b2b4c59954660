//! Sending requests to a collector: over gRPC, or as protobuf or JSON over HTTP.
//!
//! A [`Sender`] tries a request once and says what came of it ([`Answer`]). When to try again is decided by who sends: see
//! [`Exporter`](super::Exporter).

mod answer;
mod connections;
mod grpc;
mod http;
mod settings;
#[cfg(test)]
pub(super) mod testing;
mod tls;

use std::time::Duration;

pub use answer::Answer;
pub use settings::{BadSettings, ClientFiles, Protocol, Settings, Signal, Target};
pub use tls::BadFile;

use crate::errors::with_causes;

/// How migtrace names itself to a collector.
const USER_AGENT: &str = concat!("OTel-OTLP-Exporter-migtrace/", env!("CARGO_PKG_VERSION"));

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// The most that is read of an answer.
const LONGEST_ANSWER: usize = 64 * 1024;

/// What sends. It needs a tokio runtime with I/O and time, also to be made.
#[derive(Debug)]
pub struct Sender {
    traces: Option<Client>,
    metrics: Option<Client>,
}

#[derive(Debug)]
enum Client {
    Grpc(Box<grpc::Client>),
    Http(Box<http::Client>),
}

impl Sender {
    /// Reads the certificates that are needed. Nothing is connected yet.
    ///
    /// # Errors
    /// When a file with a key or certificates cannot be used.
    pub fn new(settings: &Settings) -> Result<Self, BadFile> {
        let client = |signal| settings.target(signal).map(|target| Client::new(target, signal)).transpose();
        Ok(Self { traces: client(Signal::Traces)?, metrics: client(Signal::Metrics)? })
    }

    /// Sends one request, an encoded `ExportTraceServiceRequest` or `ExportMetricsServiceRequest`, and waits for the answer
    /// no longer than the target's time-out.
    pub async fn send(&self, signal: Signal, request: &[u8]) -> Answer {
        let client = match signal {
            Signal::Traces => &self.traces,
            Signal::Metrics => &self.metrics,
        };
        match client {
            Some(Client::Grpc(client)) => client.send(request).await,
            Some(Client::Http(client)) => client.send(request).await,
            None => Answer::Refused { why: "it is switched off".to_owned() },
        }
    }
}

impl Client {
    fn new(target: &Target, signal: Signal) -> Result<Self, BadFile> {
        Ok(match target.protocol {
            Protocol::Grpc => Self::Grpc(Box::new(grpc::Client::new(target, signal)?)),
            Protocol::HttpProtobuf | Protocol::HttpJson => {
                Self::Http(Box::new(http::Client::new(target, signal)?))
            }
        })
    }
}

/// Parts of errors that are easily made, and what to do about them.
const HINTS: [(&str, &str); 5] = [
    ("invalid HTTP version", "if that is an endpoint for gRPC, set OTEL_EXPORTER_OTLP_PROTOCOL=grpc"),
    ("InvalidContentType", "nothing speaks TLS there; without TLS, an endpoint begins with http://"),
    ("UnknownIssuer", TRUST),
    ("BadSignature", TRUST),
    ("CertificateRequired", CLIENT),
];
const TRUST: &str = "OTEL_EXPORTER_OTLP_CERTIFICATE names the certificates to trust";
const CLIENT: &str =
    "OTEL_EXPORTER_OTLP_CLIENT_KEY and OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE say who this client is";

/// An error on the way to a collector, with what to do about it.
fn hinted(error: &dyn std::error::Error) -> String {
    let text = with_causes(error);
    match HINTS.iter().find(|(part, _)| text.contains(part)) {
        Some((_, hint)) => format!("{text}; {hint}"),
        None => text,
    }
}

#[cfg(test)]
mod tests;
