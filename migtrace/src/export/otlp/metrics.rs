//! What migrations add up to, in OTLP.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint,
    Histogram as ExplicitHistogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, exemplar, exponential_histogram_data_point, metric, number_data_point,
};

use super::attributes::Attributes;
use super::resource::Origin;
use super::trace::scope;
use crate::export::metrics::{self, Family, Histogram, Kind, Metrics, Point};

/// What the values of metrics that are sent one after the other have in common.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Temporality {
    /// They count from the same start.
    #[default]
    Cumulative,
    /// Each counts from where the one before has ended.
    Delta,
}

impl From<Temporality> for i32 {
    fn from(temporality: Temporality) -> Self {
        match temporality {
            Temporality::Cumulative => AggregationTemporality::Cumulative as Self,
            Temporality::Delta => AggregationTemporality::Delta as Self,
        }
    }
}

/// Which buckets of histograms are sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Buckets {
    /// Those that the values have made: as narrow as they can be.
    #[default]
    Exponential,
    /// The classic ones, whose bounds are the same at every host.
    Explicit,
}

/// All metrics as they are at `at_ns`, the wall time in nanoseconds since the Unix epoch. Those without a point are left out. Of
/// [`Temporality::Delta`] the caller has to begin anew with each request.
#[must_use]
pub fn metrics_request(
    metrics: &Metrics,
    at_ns: u64,
    temporality: Temporality,
    buckets: Buckets,
    origin: &Origin,
) -> ExportMetricsServiceRequest {
    let maker = Maker { since_ns: metrics.started_ns(), at_ns, temporality: temporality.into(), buckets };
    let families = metrics.families().iter().filter(|family| !family.points.is_empty());
    let metrics = families.map(|family| maker.metric(family)).collect();
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() }];
    let schema_url = opentelemetry_semantic_conventions::SCHEMA_URL.to_owned();
    let resource = Some(origin.of_process());
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource, scope_metrics, schema_url }],
    }
}

struct Maker {
    since_ns: u64,
    at_ns: u64,
    temporality: i32,
    buckets: Buckets,
}

impl Maker {
    fn metric(&self, family: &Family) -> Metric {
        let (points, aggregation_temporality) = (family.points.iter(), self.temporality);
        let data = match (family.definition.kind, self.buckets) {
            (Kind::Counter, _) => metric::Data::Sum(Sum {
                data_points: points.filter_map(|(a, point)| self.number(a, point)).collect(),
                aggregation_temporality,
                is_monotonic: true,
            }),
            (Kind::Histogram { .. }, Buckets::Exponential) => {
                metric::Data::ExponentialHistogram(ExponentialHistogram {
                    data_points: points.filter_map(|(a, point)| self.exponential(a, point)).collect(),
                    aggregation_temporality,
                })
            }
            (Kind::Histogram { .. }, Buckets::Explicit) => metric::Data::Histogram(ExplicitHistogram {
                data_points: points.filter_map(|(a, point)| self.explicit(a, point)).collect(),
                aggregation_temporality,
            }),
        };
        Metric {
            name: family.definition.name.to_owned(),
            description: family.definition.help.to_owned(),
            unit: family.definition.unit.to_owned(),
            data: Some(data),
            ..Metric::default()
        }
    }

    fn number(&self, attributes: &metrics::Attributes, point: &Point) -> Option<NumberDataPoint> {
        let Point::Counter(count) = point else { return None };
        Some(NumberDataPoint {
            attributes: key_values(attributes),
            start_time_unix_nano: self.since_ns,
            time_unix_nano: self.at_ns,
            value: Some(number_data_point::Value::AsInt(i64::try_from(*count).unwrap_or(i64::MAX))),
            ..NumberDataPoint::default()
        })
    }

    fn exponential(
        &self,
        attributes: &metrics::Attributes,
        point: &Point,
    ) -> Option<ExponentialHistogramDataPoint> {
        let Point::Histogram(histogram) = point else { return None };
        let Histogram { count, sum, min, max, exponential, .. } = histogram;
        Some(ExponentialHistogramDataPoint {
            attributes: key_values(attributes),
            start_time_unix_nano: self.since_ns,
            time_unix_nano: self.at_ns,
            count: *count,
            sum: Some(*sum),
            scale: exponential.scale,
            zero_count: exponential.zero_count,
            positive: Some(exponential_histogram_data_point::Buckets {
                offset: exponential.offset,
                bucket_counts: exponential.counts.iter().copied().collect(),
            }),
            exemplars: exemplars(histogram),
            min: *min,
            max: *max,
            ..ExponentialHistogramDataPoint::default()
        })
    }

    fn explicit(&self, attributes: &metrics::Attributes, point: &Point) -> Option<HistogramDataPoint> {
        let Point::Histogram(histogram) = point else { return None };
        let Histogram { count, sum, min, max, bounds, counts, .. } = histogram;
        Some(HistogramDataPoint {
            attributes: key_values(attributes),
            start_time_unix_nano: self.since_ns,
            time_unix_nano: self.at_ns,
            count: *count,
            sum: Some(*sum),
            bucket_counts: counts.clone(),
            explicit_bounds: bounds.upper().to_vec(),
            exemplars: exemplars(histogram),
            min: *min,
            max: *max,
            ..HistogramDataPoint::default()
        })
    }
}

fn exemplars(histogram: &Histogram) -> Vec<Exemplar> {
    histogram.exemplars.iter().flatten().map(exemplar).collect()
}

fn exemplar(exemplar: &metrics::Exemplar) -> Exemplar {
    Exemplar {
        time_unix_nano: exemplar.at_ns,
        trace_id: exemplar.trace.0.to_vec(),
        span_id: exemplar.span.0.to_vec(),
        value: Some(exemplar::Value::AsDouble(exemplar.value)),
        ..Exemplar::default()
    }
}

fn key_values(attributes: &metrics::Attributes) -> Vec<KeyValue> {
    let mut values = Attributes::default();
    for (name, value) in attributes {
        values.text(name, value.as_str());
    }
    values.into_vec()
}
