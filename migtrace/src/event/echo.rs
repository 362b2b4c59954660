//! What is seen of the echo requests to a probed address, and of the replies.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::MonotonicNs;
use crate::vocabulary::{AttachMode, Echo, is_default};

/// What is probed, and how.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct EchoStart {
    /// The address.
    pub target: IpAddr,
    /// The interface at which requests and replies are stamped.
    pub interface: String,
    /// How the programs are attached there.
    pub attach: AttachMode,
    /// The requested time between two requests.
    pub interval_ns: u64,
    /// Silences that are certainly shorter than this are ignored.
    pub min_gap_ns: u64,
    /// The MAC to which the requests go. Absent when this host's neighbour table has none: the address may be behind a
    /// router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The VM that a person has named as the one whose guest has the address: its name or UUID. Absent when none was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<String>,
}

/// How it is known which guest has the probed address.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EchoOwnerMethod {
    /// The network resolves the address to a MAC of this guest.
    Mac,
    /// The person who started the probe named this VM.
    Selected,
}

/// What a probe found in all.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct EchoEnd {
    /// The overall figures; absent when no request was seen leaving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<Echo>,
    /// The gap that had not ended: the stamps of its end are all that of the last request. Absent when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<EchoGap>,
}

/// A silence of the probed address, in stamps of echo requests and replies.
///
/// At some time between `answered_request_ns` and `resumed_ns` the address was silent, or may have been. The stamps are
/// facts; the timeline works out what they say about the silence.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct EchoGap {
    /// When the latest request was sent that was answered before the gap.
    pub answered_request_ns: MonotonicNs,
    /// When the last reply came before the gap.
    pub last_reply_ns: MonotonicNs,
    /// When the first request was sent that was not answered before `resumed_ns`.
    pub first_waiting_ns: MonotonicNs,
    /// When the request before the one whose reply ended the gap was sent.
    pub before_resumed_ns: MonotonicNs,
    /// When the request was sent whose reply ended the gap.
    pub resuming_request_ns: MonotonicNs,
    /// When that reply came.
    pub resumed_ns: MonotonicNs,
    /// The longest of the latest round trips before the gap, in nanoseconds.
    pub round_trip_before_ns: u64,
    /// The longest of the first round trips after the gap, in nanoseconds; 0 when none was seen.
    pub round_trip_after_ns: u64,
    /// Requests sent after `answered_request_ns` and no later than `resumed_ns`, except those that belong to another
    /// gap right after this one.
    pub requests: u64,
    /// How many of `requests` were sent before `resuming_request_ns` and answered after `resumed_ns`.
    pub overtaken: u64,
    /// How many of `requests` were sent at `resuming_request_ns` or later and waited longer than
    /// `round_trip_before_ns`.
    pub waited: u64,
    /// How many others of `requests` were answered.
    pub prompt: u64,
    /// Repeated replies to `requests`.
    pub duplicate: u64,
    /// The longest round trip since the gap before, or since the first request, without late replies.
    #[serde(default)]
    pub worst_round_trip_ns: u64,
    /// True for a possible gap: its only sign is that later requests were answered first. Then `requests` are the
    /// overtaken requests and those that overtook them, `waited` are those of them that waited longer than the latest
    /// round trips, and `prompt` the other answered ones.
    #[serde(default, skip_serializing_if = "is_default")]
    pub may_be: bool,
    /// Where `may_be` is true: the shortest of the latest round trips, in nanoseconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shortest_round_trip_ns: u64,
    /// Where `may_be` is true: the longest time between two requests so far, in nanoseconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub longest_interval_ns: u64,
    /// Where `may_be` is true: how many of the latest replies came after a reply to a later request.
    #[serde(default, skip_serializing_if = "is_default")]
    pub disordered: u64,
}

impl EchoGap {
    /// How many of its requests were answered.
    pub(crate) const fn answered(&self) -> u64 {
        self.overtaken.saturating_add(self.waited).saturating_add(self.prompt)
    }
}
