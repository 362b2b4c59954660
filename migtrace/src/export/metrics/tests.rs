use proptest::prelude::*;

use super::definitions::{ALL, Bounds};
use super::*;
use crate::export::ids::{SpanId, TraceId};

fn histogram(values: &[f64]) -> Histogram {
    let mut histogram = Histogram::new(Bounds::Seconds);
    for value in values {
        let ids = (TraceId([1; 16]), SpanId([2; 8]));
        histogram.add(Exemplar { value: *value, at_ns: 1, trace: ids.0, span: ids.1 });
    }
    histogram
}

#[test]
fn names_are_those_of_the_conventions() {
    let names: Vec<_> = ALL.iter().map(|definition| definition.prometheus_name()).collect();
    assert_eq!(
        names,
        [
            "migtrace_migrations",
            "migtrace_migration_duration_seconds",
            "migtrace_migration_stop_seconds",
            "migtrace_migration_reachability_gap_seconds",
            "migtrace_migration_network_gap_seconds",
            "migtrace_migration_wire_bytes",
        ]
    );
}

#[test]
fn a_value_at_a_bound_belongs_to_the_bucket_below() {
    let histogram = histogram(&[0.001, 0.0011, 0.0, 9_999.0]);
    assert_eq!(histogram.counts[..2], [2, 1]);
    assert_eq!(histogram.counts.last(), Some(&1));
    assert_eq!((histogram.min, histogram.max, histogram.count), (Some(0.0), Some(9_999.0), 4));
    assert_eq!(histogram.exponential.zero_count, 1);
    assert_eq!(histogram.exemplars[0].unwrap().value.to_bits(), 0.0_f64.to_bits());
}

#[test]
fn powers_of_two_are_the_upper_bounds_of_their_buckets() {
    for scale in [0, 3, 10] {
        for power in -20..40 {
            let mut buckets = Exponential { scale, ..Exponential::default() };
            buckets.add(2_f64.powi(power));
            assert_eq!(buckets.offset, (power << scale) - 1, "2^{power} at scale {scale}");
        }
    }
}

proptest! {
    #[test]
    fn each_value_is_in_the_bucket_that_holds_it(values in prop::collection::vec(1e-9_f64..1e13, 1..60)) {
        let buckets = histogram(&values).exponential;
        prop_assert!(buckets.counts.len() <= 160);
        prop_assert_eq!(buckets.counts.iter().sum::<u64>(), values.len() as u64);
        let base = 2_f64.powf(2_f64.powi(-buckets.scale));
        for (place, count) in buckets.counts.iter().enumerate() {
            let index = f64::from(buckets.offset) + place as f64;
            // The bounds themselves are rounded.
            let (low, high) = (base.powf(index) * (1.0 - 1e-9), base.powf(index + 1.0) * (1.0 + 1e-9));
            let inside = values.iter().filter(|value| **value > low && **value <= high).count() as u64;
            prop_assert!(inside >= *count, "{} of {} in ({}, {}]", inside, count, low, high);
        }
    }
}
