//! A measurement that was repeated.

use serde::Serialize;

/// The middle of repeated measurements, and where half of them lie.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// The median.
    pub(crate) median: f64,
    /// The lower quartile.
    pub(crate) low: f64,
    /// The upper quartile.
    pub(crate) high: f64,
}

impl Spread {
    /// Of any number of measurements but none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self { median: quantile(&values, 0.5), low: quantile(&values, 0.25), high: quantile(&values, 0.75) }
    }
}

/// Between the two neighbours where none is in the place.
fn quantile(sorted: &[f64], part: f64) -> f64 {
    let place = part * (sorted.len().saturating_sub(1)) as f64;
    let at = |index: f64| sorted.get(index as usize).copied().unwrap_or(f64::NAN);
    at(place.floor()) + (at(place.ceil()) - at(place.floor())) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_not_moved_by_one_that_is_far_away() {
        let spread = Spread::of([2.0, 1.0, 4.0, 1000.0, 3.0]);
        assert_eq!(spread, Spread { median: 3.0, low: 2.0, high: 4.0 });
    }

    #[test]
    fn an_even_number_has_its_middle_between_two() {
        assert_eq!(Spread::of([1.0, 2.0]), Spread { median: 1.5, low: 1.25, high: 1.75 });
        assert_eq!(Spread::of([7.0]), Spread { median: 7.0, low: 7.0, high: 7.0 });
    }
}
