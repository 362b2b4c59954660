//! OTLP over gRPC.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use hyper::Uri;
use hyper::header::{HeaderMap, HeaderValue, USER_AGENT};
use hyper::http::uri::PathAndQuery;
use prost::Message as _;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};

use super::answer::{Answer, RpcStatus};
use super::connections::{self, Connections, Version};
use super::tls::BadFile;
use super::{CLIENT, LONGEST_ANSWER, Signal, Target, hinted};

/// What sends one signal.
#[derive(Debug)]
pub(super) struct Client {
    collector: Grpc<Connections>,
    signal: Signal,
    headers: MetadataMap,
    timeout: Duration,
    /// The collector sees by TLS who it is, but does not learn who this client is.
    is_unknown: bool,
}

impl Client {
    pub(super) fn new(target: &Target, signal: Signal) -> Result<Self, BadFile> {
        // A path has no meaning in gRPC.
        let mut origin = target.endpoint.clone().into_parts();
        origin.path_and_query = Some(PathAndQuery::from_static("/"));
        let origin = Uri::from_parts(origin).unwrap_or_else(|_| target.endpoint.clone());
        let connections = connections::to(target, Version::Http2)?;
        let mut collector = Grpc::with_origin(connections, origin).max_decoding_message_size(LONGEST_ANSWER);
        if target.gzip {
            collector = collector.send_compressed(CompressionEncoding::Gzip);
        }
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(super::USER_AGENT));
        headers.extend(target.headers.iter().map(|(name, value)| (Some(name.clone()), value.clone())));
        Ok(Self {
            collector,
            signal,
            headers: MetadataMap::from_headers(headers),
            timeout: target.timeout,
            is_unknown: target.endpoint.scheme_str() == Some("https") && target.client.is_none(),
        })
    }

    pub(super) async fn send(&self, request: &[u8]) -> Answer {
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            // The alert that says so comes after the handshake, and does not get here.
            Ok(Answer::TryAgain { after, why }) if self.is_unknown && why.ends_with("connection closed") => {
                Answer::TryAgain { after, why: format!("{why}; if it wants to know its clients: {CLIENT}") }
            }
            Ok(answer) => answer,
            Err(_) => Answer::on_the_way(format!("no answer within {:?}", self.timeout)),
        }
    }

    async fn exchange(&self, request: &[u8]) -> Answer {
        let method = PathAndQuery::from_static(match self.signal {
            Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
            Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        });
        let mut request = Request::new(Bytes::copy_from_slice(request));
        *request.metadata_mut() = self.headers.clone();
        match self.collector.clone().unary(request, method, Encoded).await {
            Ok(response) => Answer::of_protobuf(self.signal, response.get_ref()),
            Err(status) => refused(&status),
        }
    }
}

/// Messages are encoded before they get here, and decoded where it is known what they are.
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// What a status other than OK means. The specification names those to try again.
fn refused(status: &Status) -> Answer {
    let after = RpcStatus::decode(status.details()).ok().and_then(|details| details.retry_after());
    let transport = std::error::Error::source(status);
    let again = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::ResourceExhausted => after.is_some(),
        // Nothing of a collector: the connection broke, or what answers does not speak gRPC.
        Code::Unknown | Code::Internal => transport.is_some(),
        _ => false,
    };
    let why = transport
        .map_or_else(|| format!("the collector answered {:?}: {}", status.code(), status.message()), hinted);
    if again { Answer::TryAgain { after, why } } else { Answer::Refused { why } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_means_what_the_specification_says() {
        let again = |code| matches!(refused(&Status::new(code, "x")), Answer::TryAgain { .. });
        for code in [
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::Aborted,
            Code::OutOfRange,
            Code::Unavailable,
            Code::DataLoss,
        ] {
            assert!(again(code), "{code:?}");
        }
        for code in [
            Code::InvalidArgument,
            Code::Unauthenticated,
            Code::PermissionDenied,
            Code::Unimplemented,
            Code::Internal,
            Code::Unknown,
            // Without a time to wait.
            Code::ResourceExhausted,
        ] {
            assert!(!again(code), "{code:?}");
        }
    }
}
