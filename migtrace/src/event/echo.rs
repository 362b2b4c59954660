//! What is seen of echo requests to an address, and of the replies.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::MonotonicNs;
use crate::vocabulary::{AttachMode, Echo, is_default};

/// What is asked for echo replies, and how.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct EchoStart {
    /// The address.
    pub target: IpAddr,
    /// The interface at which requests and replies are stamped.
    pub interface: String,
    /// How the programs are attached there.
    pub attach: AttachMode,
    /// The time between two requests that was asked for.
    pub interval_ns: u64,
    /// A silence that surely lasted for less is no gap.
    pub min_gap_ns: u64,
}

/// How it is known whose guest has the probed address.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EchoOwnerMethod {
    /// The network gives the address a MAC, and this guest has a network interface with it.
    Mac,
    /// The person who asked for the probe named this VM.
    Selected,
}

/// What all requests to an address told.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct EchoEnd {
    /// As a whole; absent when no request was seen to leave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<Echo>,
    /// The gap that had not ended: what is told of its end is the last request's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<EchoGap>,
}

/// A silence of the probed address, as the stamps of echo requests and replies tell it.
///
/// Between `answered_request_ns` and `resumed_ns` the address answered nothing, or may have answered nothing. The stamps
/// are facts; what they say of the silence is worked out from them by the timeline.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct EchoGap {
    /// When the latest request was sent that was answered before.
    pub answered_request_ns: MonotonicNs,
    /// When the last reply came before.
    pub last_reply_ns: MonotonicNs,
    /// When the first request was sent that was not answered before `resumed_ns`.
    pub first_waiting_ns: MonotonicNs,
    /// When the request was sent that precedes the one whose reply ended the gap.
    pub before_resumed_ns: MonotonicNs,
    /// When the request was sent whose reply ended the gap.
    pub resuming_request_ns: MonotonicNs,
    /// When that reply came.
    pub resumed_ns: MonotonicNs,
    /// The longest of the latest round trips before, in nanoseconds.
    pub round_trip_before_ns: u64,
    /// The longest of the first round trips after, in nanoseconds; 0 when none was seen.
    pub round_trip_after_ns: u64,
    /// Requests that were sent after `answered_request_ns` and not after `resumed_ns`, but for those that a gap right after
    /// it holds too.
    pub requests: u64,
    /// Of these, those sent before `resuming_request_ns` and answered after `resumed_ns`.
    pub overtaken: u64,
    /// Of these, those sent at `resuming_request_ns` or later that waited for longer than `round_trip_before_ns`.
    pub waited: u64,
    /// Of these, the other answered ones.
    pub prompt: u64,
    /// Replies to these that came more than once.
    pub duplicate: u64,
    /// The longest round trip since the gap before, or since the first request, but for the late ones.
    #[serde(default)]
    pub worst_round_trip_ns: u64,
    /// True for a silence that may have been: all that tells of it is that later requests were answered first. Then
    /// `requests` are those that were passed over and those that passed them, `waited` the ones of all these that waited
    /// for longer than the latest round trips, and `prompt` the other answered ones.
    #[serde(default, skip_serializing_if = "is_default")]
    pub may_be: bool,
    /// Where `may_be` is true: the shortest of the latest round trips, in nanoseconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub shortest_round_trip_ns: u64,
    /// Where `may_be` is true: the longest time between two requests so far, in nanoseconds.
    #[serde(default, skip_serializing_if = "is_default")]
    pub longest_interval_ns: u64,
    /// Where `may_be` is true: how many of the latest replies came after one to a later request.
    #[serde(default, skip_serializing_if = "is_default")]
    pub disordered: u64,
}

impl EchoGap {
    /// How many of its requests were answered.
    pub(crate) const fn answered(&self) -> u64 {
        self.overtaken.saturating_add(self.waited).saturating_add(self.prompt)
    }
}
