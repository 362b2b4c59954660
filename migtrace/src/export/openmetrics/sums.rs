//! What migrations add up to: counters and histograms.

use std::collections::BTreeMap;

use super::labels::Labels;
use super::text::{Family, Kind, Sample};
use crate::export::metrics::{self, Attributes, Histogram, Metrics, Point};

/// The families of the metrics that all exports share.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 migrations")]
pub(super) fn families(metrics: &Metrics) -> Vec<Family> {
    let family = |family: &metrics::Family| {
        let samples = family.points.iter().flat_map(|(attributes, point)| match point {
            Point::Counter(count) => vec![Sample::new(labels(attributes), *count as f64)],
            Point::Histogram(histogram) => buckets(attributes, histogram),
        });
        let mut samples: Vec<_> = samples.collect();
        let definition = family.definition;
        let kind = match definition.kind {
            metrics::Kind::Counter => {
                samples.extend(zeros(&family.points));
                Kind::Counter
            }
            metrics::Kind::Histogram { .. } => Kind::Histogram,
        };
        let (name, unit) = (definition.prometheus_name(), definition.prometheus_unit());
        Family { name, unit, help: definition.help, kind, samples }
    };
    metrics.families().iter().map(family).collect()
}

/// The counts of kinds of which there was none yet. Prometheus sees by how much a series grows: it would miss the first of a
/// kind if its series began with that.
fn zeros(points: &BTreeMap<Attributes, Point>) -> impl Iterator<Item = Sample> {
    let missing = metrics::of_every_kind().into_iter().filter(|kind| !points.contains_key(kind));
    missing.map(|kind| Sample::new(labels(&kind), 0.0))
}

fn labels(attributes: &Attributes) -> Labels {
    let add = |labels: Labels, (name, value): &(&str, String)| labels.with(&metrics::label(name), value);
    attributes.iter().fold(Labels::default(), add)
}

/// The cumulative buckets, the sum and the count.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 migrations")]
fn buckets(attributes: &Attributes, histogram: &Histogram) -> Vec<Sample> {
    let bounds = histogram.bounds.upper().iter().map(|bound| format!("{bound:?}"));
    let mut below = 0;
    let mut samples = Vec::new();
    for (place, bound) in bounds.chain(["+Inf".to_owned()]).enumerate() {
        below += histogram.counts[place];
        samples.push(Sample {
            suffix: "_bucket",
            exemplar: histogram.exemplars[place],
            ..Sample::new(labels(attributes).with("le", &bound), below as f64)
        });
    }
    samples.push(Sample { suffix: "_sum", ..Sample::new(labels(attributes), histogram.sum) });
    samples.push(Sample { suffix: "_count", ..Sample::new(labels(attributes), histogram.count as f64) });
    samples
}
