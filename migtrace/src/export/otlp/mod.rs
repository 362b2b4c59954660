//! Traces and metrics for OpenTelemetry, in its protocol OTLP.
//!
//! [`trace_request`] makes one trace of a record (with [`PlatformAttributes`]: [`trace_request_with`]), and [`metrics_request`] says what many add up to. Both give the messages of
//! `opentelemetry-proto`, which are the same for a file ([`json_line`]), gRPC and HTTP. An [`Exporter`] sends both in the background.

mod attributes;
mod context;
mod exporter;
mod json;
mod metrics;
mod platform;
pub mod queue;
mod resource;
pub mod send;
mod this_host;
mod trace;

pub use context::{BadContext, TraceContext};
pub use exporter::{ExportCounts, Exporter, NoExporter};
pub use json::json_line;
pub use metrics::{Buckets, Temporality, metrics_request};
pub use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
pub use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
pub use platform::{AttributeValue, PlatformAttributes, ReservedName};
pub use resource::{Origin, SERVICE_NAME, ThisHost};
pub use trace::{NoTrace, trace_request, trace_request_with};
