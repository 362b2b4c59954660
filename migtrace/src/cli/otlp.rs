//! The options for OpenTelemetry.

use clap::Args;
#[cfg(feature = "otlp")]
use {migtrace::export::otlp::TraceContext, std::path::PathBuf};

/// The heading of help for these options.
#[cfg(feature = "otlp")]
const OPENTELEMETRY: &str = "OpenTelemetry";

/// Where traces are sent, and what they link to. There is nothing here without the feature `otlp`.
#[derive(Debug, Args)]
pub(crate) struct OtlpArgs {
    /// Send a trace of the migration to an OpenTelemetry collector [default: what OTEL_EXPORTER_OTLP_ENDPOINT says, else
    /// http://localhost:4318]
    ///
    /// How it is sent is said by the OTEL_EXPORTER_OTLP_* variables of OpenTelemetry. To send it again doubles nothing.
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "ENDPOINT", num_args = 0..=1, default_missing_value = "", help_heading = OPENTELEMETRY)]
    pub(crate) otlp: Option<String>,
    /// Keep what the collector does not take in this directory, and send it the next time
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "DIRECTORY", requires = "otlp", help_heading = OPENTELEMETRY)]
    pub(crate) otlp_queue: Option<PathBuf>,
    /// Link the trace to this one, of which the migration was a part: a `traceparent` of W3C Trace Context
    ///
    /// `record` takes it from the variables TRACEPARENT and TRACESTATE otherwise.
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "TRACEPARENT", value_parser = TraceContext::parse, help_heading = OPENTELEMETRY)]
    pub(crate) traceparent: Option<TraceContext>,
}
