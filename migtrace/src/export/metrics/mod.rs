//! What the records of many migrations add up to: counters and histograms, for every export that has metrics.
//!
//! [`Metrics`] adds up records. [`Metrics::families`] gives what they are now, each with the [`Definition`] of what it says.
//! Values are cumulative, from [`Metrics::started_ns`] on. No attribute names a VM: a histogram's [`Exemplar`]s lead to the
//! traces of single migrations.

mod contributions;
mod definitions;
mod exponential;
mod histogram;

use std::collections::BTreeMap;

#[cfg(feature = "openmetrics")]
pub(in crate::export) use contributions::of_every_kind;
pub use definitions::{
    Bounds, Definition, Kind, MIGRATIONS, NETWORK_GAP, REACHABILITY_GAP, STOP, TOTAL, WIRE_BYTES,
};
pub use exponential::Exponential;
pub use histogram::{Exemplar, Histogram};

use crate::record::Record;

/// Names and values that tell the points of one metric apart, sorted by name. Names are those of OpenTelemetry:
/// `migtrace.outcome`. [`label`] makes a name of Prometheus of one.
pub type Attributes = Vec<(&'static str, String)>;

/// An attribute's name as Prometheus writes it, and as it translates those of OpenTelemetry.
#[must_use]
pub fn label(attribute: &str) -> String {
    attribute.replace('.', "_")
}

/// What has been added up of one metric with the same attributes.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub enum Point {
    /// How many there were.
    Counter(u64),
    /// How large they were.
    Histogram(Histogram),
}

/// One metric, with all of its points.
#[non_exhaustive]
#[derive(Clone, Debug)]
pub struct Family {
    /// What it says.
    pub definition: &'static Definition,
    /// Its points, by their attributes.
    pub points: BTreeMap<Attributes, Point>,
}

/// The sums over the migrations of one process.
#[derive(Clone, Debug)]
pub struct Metrics {
    started_ns: u64,
    families: Vec<Family>,
}

impl Metrics {
    /// Nothing yet. `started_ns` is the wall time since which migrations are counted, in nanoseconds since the Unix epoch.
    #[must_use]
    pub fn new(started_ns: u64) -> Self {
        let family = |definition| Family { definition, points: BTreeMap::new() };
        Self { started_ns, families: definitions::ALL.into_iter().map(family).collect() }
    }

    /// Since when migrations are counted, in nanoseconds since the Unix epoch.
    #[must_use]
    pub const fn started_ns(&self) -> u64 {
        self.started_ns
    }

    /// Adds a migration that has ended. `at_ns` is the wall time of that, in nanoseconds since the Unix epoch.
    pub fn add(&mut self, record: &Record, at_ns: u64) {
        for contribution in contributions::of(record, at_ns) {
            let families = self.families.iter_mut();
            let Some(family) = families.into_iter().find(|f| f.definition.name == contribution.metric.name)
            else {
                continue;
            };
            let empty = || match family.definition.kind {
                Kind::Counter => Point::Counter(0),
                Kind::Histogram { bounds } => Point::Histogram(Histogram::new(bounds)),
            };
            match family.points.entry(contribution.attributes).or_insert_with(empty) {
                Point::Counter(count) => *count += 1,
                Point::Histogram(histogram) => histogram.add(contribution.exemplar),
            }
        }
    }

    /// What has been added up. A metric to which nothing has contributed has no points.
    #[must_use]
    pub fn families(&self) -> &[Family] {
        &self.families
    }
}

#[cfg(test)]
mod tests;
