//! What a collector answers.

use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message;

use super::Signal;

/// What came of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// The collector has it.
    Accepted {
        /// How many spans or points it has not taken.
        rejected: u64,
        /// What it says about that.
        message: String,
    },
    /// The same request may be accepted later.
    TryAgain {
        /// Not before this, if the collector has said so.
        after: Option<Duration>,
        /// What happened.
        why: String,
    },
    /// The collector will not take this request.
    Refused {
        /// What it says.
        why: String,
    },
}

impl Answer {
    /// Of a response in protobuf. An empty one is the usual one.
    pub(super) fn of_protobuf(signal: Signal, response: &[u8]) -> Self {
        let partial = match signal {
            Signal::Traces => ExportTraceServiceResponse::decode(response)
                .ok()
                .and_then(|response| response.partial_success)
                .map(|ExportTracePartialSuccess { rejected_spans: rejected, error_message }| {
                    (rejected, error_message)
                }),
            Signal::Metrics => ExportMetricsServiceResponse::decode(response)
                .ok()
                .and_then(|response| response.partial_success)
                .map(|ExportMetricsPartialSuccess { rejected_data_points: rejected, error_message }| {
                    (rejected, error_message)
                }),
        };
        Self::accepted(partial)
    }

    /// Of a response in JSON.
    pub(super) fn of_json(response: &[u8]) -> Self {
        let response: serde_json::Value = serde_json::from_slice(response).unwrap_or_default();
        let partial = &response["partialSuccess"];
        let rejected = ["rejectedSpans", "rejectedDataPoints"].iter().find_map(|key| {
            // 64-bit numbers are strings there, usually.
            partial[key].as_i64().or_else(|| partial[key].as_str()?.parse().ok())
        });
        let message = partial["errorMessage"].as_str().unwrap_or_default().to_owned();
        Self::accepted(Some((rejected.unwrap_or_default(), message)))
    }

    pub(super) fn accepted(partial: Option<(i64, String)>) -> Self {
        let (rejected, message) = partial.unwrap_or_default();
        Self::Accepted { rejected: u64::try_from(rejected).unwrap_or_default(), message }
    }

    /// What happened on the way to the collector.
    pub(super) const fn on_the_way(why: String) -> Self {
        Self::TryAgain { after: None, why }
    }
}

/// `google.rpc.Status`: what an error says.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Detail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl RpcStatus {
    /// After how long to try again, if it says so.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        let info = self.details.iter().find(|detail| detail.type_url.ends_with("/google.rpc.RetryInfo"))?;
        let delay = RetryInfo::decode(&info.value[..]).ok()?.delay.unwrap_or_default();
        let (seconds, nanos) = (u64::try_from(delay.seconds).ok()?, u32::try_from(delay.nanos).ok()?);
        Some(Duration::from_secs(seconds).saturating_add(Duration::from_nanos(nanos.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_when_to_try_again() {
        let delay = Some(Delay { seconds: 2, nanos: 500_000_000 });
        let info = RetryInfo { delay }.encode_to_vec();
        let detail = Detail { type_url: "type.googleapis.com/google.rpc.RetryInfo".into(), value: info };
        let mut status = RpcStatus { code: 8, message: "full".into(), details: vec![detail] };
        assert_eq!(status.retry_after(), Some(Duration::from_millis(2_500)));
        status.details[0].type_url = "type.googleapis.com/google.rpc.Help".into();
        assert_eq!(status.retry_after(), None);
    }

    #[test]
    fn a_partial_success_is_read_in_both_encodings() {
        let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: "too old".into() };
        let response = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        let expected = Answer::Accepted { rejected: 3, message: "too old".into() };
        assert_eq!(Answer::of_protobuf(Signal::Traces, &response), expected);
        let json = br#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old"}}"#;
        assert_eq!(Answer::of_json(json), expected);
        let none = Answer::Accepted { rejected: 0, message: String::new() };
        for (signal, empty) in [(Signal::Traces, ""), (Signal::Metrics, ""), (Signal::Traces, "no protobuf")]
        {
            assert_eq!(Answer::of_protobuf(signal, empty.as_bytes()), none);
        }
        assert_eq!(Answer::of_json(b"{}"), none);
        assert_eq!(Answer::of_json(b""), none);
    }
}
