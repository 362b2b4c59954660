//! Times in which the guest did not answer.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::estimate::{Estimate, EstimatedInstant};
use crate::vocabulary::is_default;

/// A time in which an address answered no echo requests, or possibly answered none.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Gap {
    /// When it fell silent.
    pub start: EstimatedInstant,
    /// By how much its start and its end may be off together. Absent when they are not: the clock that stamped them is the
    /// record's.
    #[serde(default, skip_serializing_if = "is_default")]
    pub error_ns: u64,
    /// For how long it was silent. The method is `lost-requests`, `delayed-replies`, `overtaken-requests`, or `open`
    /// when it had not answered again by the end of the observation. Where the lower bound is 0, it may have answered
    /// all the time: requests may have been lost or late for another reason.
    pub length: Estimate,
    /// Requests in the gap that were never answered.
    pub lost: u64,
    /// Requests in the gap that were answered after it.
    pub late: u64,
    /// Repeated replies to requests in the gap.
    pub duplicate: u64,
    /// From the last answered request to the first unanswered one: the resolution of `start`.
    pub interval_at_start_ns: u64,
    /// From the last unanswered request to the first answered one; null when the gap is open.
    pub interval_at_end_ns: Option<u64>,
    /// The longest of the latest round trips before the gap; it limits how well the start is known.
    pub round_trip_before_ns: u64,
    /// The round trip of the reply that ended the gap or, if its request had waited, the longest one around the gap;
    /// it limits how well the end is known. 0 when the gap is open.
    pub round_trip_after_ns: u64,
    /// The longest round trip between the gap before, or the first request, and this gap; 0 when none was seen.
    pub worst_round_trip_ns: u64,
}

impl Gap {
    /// Whether there certainly was a silence: the lower bound is above 0. Otherwise it is only possible.
    #[must_use]
    pub const fn is_sure(&self) -> bool {
        self.length.low_ns > 0
    }

    /// Whether anything suggests a silence: it is certain, or requests were lost or late.
    pub(crate) const fn is_plausible(&self) -> bool {
        self.is_sure() || self.lost > 0 || self.late > 0
    }

    /// When it ended; none for one that had not.
    pub(crate) fn end(&self) -> Option<EstimatedInstant> {
        let signed = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
        let high_ns = self.start.low_ns.saturating_add(signed(self.length.high_ns?));
        Some(EstimatedInstant {
            value_ns: self.start.value_ns.saturating_add(signed(self.length.value_ns)),
            low_ns: self.start.high_ns.saturating_add(signed(self.length.low_ns)),
            high_ns,
        })
    }
}
