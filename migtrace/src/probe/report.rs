//! What a probe found, and its JSON form.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::record::Gap;
use crate::vocabulary::{AttachMode, Echo, NotMeasured};

/// The schema name that every probe report carries.
pub const SCHEMA: &str = "migtrace.probe/1";

/// What a probe found. Times are nanoseconds since its start.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct ProbeReport {
    /// The name of the schema: `migtrace.probe/1`.
    pub schema: String,
    /// migtrace's version.
    pub migtrace: String,
    /// The host that observed.
    pub host: String,
    /// Its kernel's release.
    pub kernel: String,
    /// The probed address.
    pub target: IpAddr,
    /// The interface at which requests and replies were stamped.
    pub interface: String,
    /// How the programs were attached.
    pub attach: AttachMode,
    /// What was sent; null if the requests were somebody else's.
    pub sending: Option<Sending>,
    /// Silences certainly shorter than this are not gaps.
    pub min_gap_ns: u64,
    /// When the observation began.
    pub start: ProbeStart,
    /// How long it lasted.
    pub duration_ns: u64,
    /// Why it ended.
    pub end: ProbeEndReason,
    /// What the pre-flight found; null if there was none.
    pub preflight: Option<Preflight>,
    /// The streams of requests that were followed.
    pub streams: Vec<EchoStream>,
    /// What was not measured, and why.
    pub not_measured: Vec<NotMeasured>,
}

/// What was sent.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Sending {
    /// The configured time between two requests.
    pub interval_ns: u64,
    /// Data bytes after the ICMP header.
    pub data_bytes: u16,
    /// Requests that the kernel refused to send.
    pub refused: u64,
}

/// A stream of requests, and the gaps in its replies.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct EchoStream {
    /// The stream as a whole.
    pub echo: Echo,
    /// In the order of their starts.
    pub gaps: Vec<Gap>,
}

/// When an observation began.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct ProbeStart {
    /// Wall time, nanoseconds since the Unix epoch.
    pub realtime_ns: i64,
    /// Error bound of `realtime_ns`.
    pub error_ns: u64,
    /// The same instant on this host's `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
}

/// Why a probe ended.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeEndReason {
    /// All requests were sent.
    Count,
    /// The duration elapsed.
    Duration,
    /// The first gap ended.
    Gap,
    /// A signal asked to stop (SIGINT, SIGTERM, SIGHUP).
    Interrupted,
}

/// What the pre-flight found before the observation.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Preflight {
    /// Requests.
    pub sent: u64,
    /// Requests that were answered.
    pub answered: u64,
}
