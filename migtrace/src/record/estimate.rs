//! Measured times with their bounds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::words::Method;

/// A measured length of time with its bounds. The true value lies within `[low_ns, high_ns]`.
#[non_exhaustive]
#[derive(Clone, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Estimate {
    /// The best single value.
    pub value_ns: u64,
    /// Lower bound.
    pub low_ns: u64,
    /// Upper bound; null when nothing that was seen bounds it from above.
    pub high_ns: Option<u64>,
    /// How it was measured.
    pub method: Method,
}

/// A measured instant with its bounds, counted from the start of the migration or of the probe. The true one lies within
/// `[low_ns, high_ns]`.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct EstimatedInstant {
    /// The best single value.
    pub value_ns: i64,
    /// Not before this.
    pub low_ns: i64,
    /// Not after this.
    pub high_ns: i64,
}
