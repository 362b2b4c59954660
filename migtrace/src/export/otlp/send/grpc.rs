//! OTLP over gRPC.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use prost::Message as _;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::answer::{Answer, RpcStatus};
use super::tls::{self, BadFile};
use super::{CONNECT, LONGEST_ANSWER, Signal, Target, USER_AGENT, explain};

/// What sends one signal.
#[derive(Debug)]
pub(super) struct Client {
    channel: Channel,
    signal: Signal,
    headers: MetadataMap,
    timeout: Duration,
    gzip: bool,
}

impl Client {
    pub(super) fn new(target: &Target, signal: Signal) -> Result<Self, BadFile> {
        let mut endpoint = Endpoint::from(target.endpoint.clone()).connect_timeout(CONNECT);
        if let Ok(named) = endpoint.clone().user_agent(USER_AGENT) {
            endpoint = named;
        }
        if target.endpoint.scheme_str() == Some("https") {
            endpoint = tls::for_grpc(endpoint, target)?;
        }
        let headers = target.headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        Ok(Self {
            channel: endpoint.connect_lazy(),
            signal,
            headers: MetadataMap::from_headers(headers.collect()),
            timeout: target.timeout,
            gzip: target.gzip,
        })
    }

    pub(super) async fn send(&self, request: &[u8]) -> Answer {
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(_) => Answer::on_the_way(format!("no answer within {:?}", self.timeout)),
        }
    }

    async fn exchange(&self, request: &[u8]) -> Answer {
        // The messages are ours, so they can be read.
        let partial = match self.signal {
            Signal::Traces => match ExportTraceServiceRequest::decode(request) {
                Ok(request) => self.export_traces(request).await,
                Err(error) => return Answer::Refused { why: error.to_string() },
            },
            Signal::Metrics => match ExportMetricsServiceRequest::decode(request) {
                Ok(request) => self.export_metrics(request).await,
                Err(error) => return Answer::Refused { why: error.to_string() },
            },
        };
        partial.map_or_else(|status| refused(&status), Answer::accepted)
    }

    async fn export_traces(
        &self,
        request: ExportTraceServiceRequest,
    ) -> Result<Option<(i64, String)>, Status> {
        let mut client =
            TraceServiceClient::new(self.channel.clone()).max_decoding_message_size(LONGEST_ANSWER);
        if self.gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let response = client.export(self.request(request)).await?.into_inner();
        Ok(response.partial_success.map(|partial| (partial.rejected_spans, partial.error_message)))
    }

    async fn export_metrics(
        &self,
        request: ExportMetricsServiceRequest,
    ) -> Result<Option<(i64, String)>, Status> {
        let mut client =
            MetricsServiceClient::new(self.channel.clone()).max_decoding_message_size(LONGEST_ANSWER);
        if self.gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let response = client.export(self.request(request)).await?.into_inner();
        Ok(response.partial_success.map(|partial| (partial.rejected_data_points, partial.error_message)))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        for header in self.headers.iter() {
            if let KeyAndValueRef::Ascii(key, value) = header {
                request.metadata_mut().insert(key.clone(), value.clone());
            }
        }
        request
    }
}

/// What a status other than OK means. The specification names those to try again.
fn refused(status: &Status) -> Answer {
    let after = RpcStatus::decode(status.details()).ok().and_then(|details| details.retry_after());
    let is_transport = std::error::Error::source(status).is_some();
    let again = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::ResourceExhausted => after.is_some(),
        // Nothing of a collector: the connection broke, or what answers does not speak gRPC.
        Code::Unknown | Code::Internal => is_transport,
        _ => false,
    };
    let why = if is_transport {
        explain(status)
    } else {
        format!("the collector answered {:?}: {}", status.code(), status.message())
    };
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
