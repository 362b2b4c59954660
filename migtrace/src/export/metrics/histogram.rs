//! A histogram with classic and with exponential buckets, and with exemplars.

use super::Exponential;
use super::definitions::Bounds;
use crate::export::ids::{SpanId, TraceId};

/// One value, and the span that explains it.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// The value, in the metric's unit.
    pub value: f64,
    /// When it was added, in nanoseconds since the Unix epoch.
    pub at_ns: u64,
    /// The trace.
    pub trace: TraceId,
    /// The span.
    pub span: SpanId,
}

/// How large values were.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// How many there were.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The smallest; none without values.
    pub min: Option<f64>,
    /// The largest; none without values.
    pub max: Option<f64>,
    /// The upper bounds of the classic buckets, each inclusive. One more bucket has none.
    pub bounds: Bounds,
    /// How many values each classic bucket has. They are not cumulative.
    pub counts: Vec<u64>,
    /// The latest value of each classic bucket.
    pub exemplars: Vec<Option<Exemplar>>,
    /// The exponential buckets.
    pub exponential: Exponential,
}

impl Histogram {
    pub(super) fn new(bounds: Bounds) -> Self {
        let buckets = bounds.upper().len() + 1;
        Self {
            count: 0,
            sum: 0.0,
            min: None,
            max: None,
            bounds,
            counts: vec![0; buckets],
            exemplars: vec![None; buckets],
            exponential: Exponential::default(),
        }
    }

    pub(super) fn add(&mut self, exemplar: Exemplar) {
        let value = exemplar.value;
        self.count += 1;
        self.sum += value;
        self.min = Some(self.min.map_or(value, |min| min.min(value)));
        self.max = Some(self.max.map_or(value, |max| max.max(value)));
        let bucket = self.bounds.upper().partition_point(|upper| *upper < value);
        self.counts[bucket] += 1;
        self.exemplars[bucket] = Some(exemplar);
        self.exponential.add(value);
    }
}
