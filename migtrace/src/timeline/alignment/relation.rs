//! How the clock of another host relates to the record's: by what both have stamped, or through a third host, or as their
//! wall clocks say.

use super::{Alignment, Bounded};
use crate::record::AlignmentMethod;
use crate::units::MonotonicNs;

/// How far the wall clocks of two hosts may be apart. Nothing that is seen shows that, so it is an assumption.
pub(crate) const WALL_CLOCKS_APART_NS: i64 = 10_000_000_000;

/// How the clock of another host relates to the record's.
#[derive(Clone, Debug)]
pub(in crate::timeline) enum Relation {
    /// Both hosts have stamped the same.
    Direct(Alignment, AlignmentMethod),
    /// A third host has read both clocks: how its clock relates to the record's, and the other's to its own.
    Through([Alignment; 2]),
    /// By their wall clocks: the other's monotonic clock less the record's.
    WallClock {
        /// What the wall clocks say.
        offset_ns: i64,
    },
}

impl Relation {
    /// How it is known.
    pub(in crate::timeline) fn method(&self) -> AlignmentMethod {
        match self {
            Self::Direct(_, method) => method.clone(),
            Self::Through(_) => AlignmentMethod::ControlConnection,
            Self::WallClock { .. } => AlignmentMethod::WallClock,
        }
    }

    /// How long something takes by the record's clock that takes `ns` by the other.
    pub(in crate::timeline) fn record_length(&self, ns: i64) -> Bounded {
        match self {
            Self::Direct(alignment, _) => alignment.drift.record_length(ns),
            Self::Through([near, far]) => {
                let third = far.drift.record_length(ns);
                Bounded {
                    low: near.drift.record_length(third.low).low,
                    high: near.drift.record_length(third.high).high,
                }
            }
            Self::WallClock { .. } => around(ns),
        }
    }

    /// The other host's clock less the record's, when the record's shows `at`.
    pub(in crate::timeline) fn offset_at(&self, at: MonotonicNs) -> Bounded {
        match self {
            Self::Direct(alignment, _) => alignment.offset_at(at),
            Self::Through([near, far]) => {
                let to_third = near.offset_at(at);
                // What the third clock shows is known no better.
                let third = at.later_by(to_third.value());
                let from_third = far.offset_at(third).widened(far.drift.within(to_third.width()));
                Bounded {
                    low: to_third.low.saturating_add(from_third.low),
                    high: to_third.high.saturating_add(from_third.high),
                }
            }
            Self::WallClock { offset_ns } => around(*offset_ns),
        }
    }

    /// What the record's clock shows when the other shows `at`, in nanoseconds since `origin`.
    pub(in crate::timeline) fn record_time(&self, at: MonotonicNs, origin: MonotonicNs) -> Bounded {
        match self {
            Self::Direct(alignment, _) => alignment.record_time(at, origin),
            Self::Through([near, far]) => {
                let third = far.record_time(at, MonotonicNs::default());
                let [low, high] = [third.low, third.high].map(|third| MonotonicNs::default().later_by(third));
                Bounded { low: near.record_time(low, origin).low, high: near.record_time(high, origin).high }
            }
            Self::WallClock { offset_ns } => around(at.since(origin).saturating_sub(*offset_ns)),
        }
    }
}

/// As far around a value as the wall clocks may be apart.
const fn around(value: i64) -> Bounded {
    Bounded { low: value, high: value }.widened(WALL_CLOCKS_APART_NS)
}
