//! An instant of the record, which may be bounded on one side only.

use crate::record::{Estimate, Method};
use crate::timeline::alignment::Bounded;

/// An instant with its bounds, in nanoseconds from the migration's start.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Moment {
    /// Not before this; none: there is no such bound.
    pub(super) low: Option<i64>,
    pub(super) value: i64,
    /// Not after this; none: there is no such bound.
    pub(super) high: Option<i64>,
}

impl Moment {
    pub(super) const fn exact(at: i64) -> Self {
        Self { low: Some(at), value: at, high: Some(at) }
    }

    /// How far the true instant may be from the value, where both sides are bounded; 0 for an exact one.
    pub(super) fn error_ns(self) -> u64 {
        let away = |bound: Option<i64>| bound.map_or(0, |bound| bound.abs_diff(self.value));
        away(self.low).max(away(self.high))
    }
}

impl From<Bounded> for Moment {
    fn from(bounds: Bounded) -> Self {
        Self { low: Some(bounds.low), value: bounds.value(), high: Some(bounds.high) }
    }
}

/// The length between two moments. Its bounds hold for all true moments within their own bounds.
pub(super) fn length(from: Moment, to: Moment, method: Method) -> Estimate {
    let between = |from: i64, to: i64| u64::try_from(to.saturating_sub(from)).unwrap_or(0);
    let value_ns = between(from.value, to.value);
    Estimate {
        value_ns,
        low_ns: from.high.zip(to.low).map_or(0, |(from, to)| between(from, to)).min(value_ns),
        high_ns: from.low.zip(to.high).map(|(from, to)| between(from, to).max(value_ns)),
        method,
    }
}
