//! What the runs of a cell have in common: medians and ranges, with bounds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reading::Reading;

/// A figure over the runs of a cell.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
pub struct Summary {
    /// In how many runs it is known: all that follows is about those.
    pub count: u64,
    /// The median of the values; of an even number of them, the mean of the two in the middle.
    #[serde(flatten)]
    pub median: Reading,
    /// The smallest value.
    pub smallest: i64,
    /// The largest value.
    pub largest: i64,
    /// The smallest lower bound: no true number is less. Null when one has none.
    pub lowest: Option<i64>,
    /// The largest upper bound: no true number is more. Null when one has none.
    pub highest: Option<i64>,
}

impl Summary {
    /// None of no runs.
    pub(super) fn of(readings: &[Reading]) -> Option<Self> {
        let values = sorted(readings, |reading| reading.value);
        let lows = sorted(readings, |reading| Low(reading.low));
        let highs = sorted(readings, |reading| High(reading.high));
        Some(Self {
            count: readings.len() as u64,
            median: Reading {
                value: half(middle(&values)?, 0),
                // The k-th smallest true number lies between the k-th smallest of the lower and of the upper bounds, so
                // the median does, too.
                low: both(middle(&lows)?.map(|low| low.0)).map(|pair| half(pair, 0)),
                high: both(middle(&highs)?.map(|high| high.0)).map(|pair| half(pair, 1)),
            },
            smallest: *values.first()?,
            largest: *values.last()?,
            lowest: lows.first()?.0,
            highest: highs.last()?.0,
        })
    }

    /// Whether no true number of one can be that of the other: then they differ by more than their spread.
    #[must_use]
    pub fn is_apart_from(&self, other: &Self) -> bool {
        let is_below = |a: &Self, b: &Self| a.highest.zip(b.lowest).is_some_and(|(high, low)| high < low);
        is_below(self, other) || is_below(other, self)
    }
}

/// A lower bound: none is below all others.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
struct Low(Option<i64>);

/// An upper bound: none is above all others.
#[derive(Clone, Copy, Eq, PartialEq)]
struct High(Option<i64>);

impl Ord for High {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |high: &Self| (high.0.is_none(), high.0);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for High {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

fn sorted<T: Ord>(readings: &[Reading], what: impl Fn(&Reading) -> T) -> Vec<T> {
    let mut all: Vec<T> = readings.iter().map(what).collect();
    all.sort_unstable();
    all
}

/// The two in the middle; the same one twice if their number is odd.
fn middle<T: Copy>(sorted: &[T]) -> Option<[T; 2]> {
    let last = sorted.len().checked_sub(1)?;
    Some([sorted[last / 2], sorted[sorted.len() / 2]])
}

fn both([a, b]: [Option<i64>; 2]) -> Option<[i64; 2]> {
    Some([a?, b?])
}

/// The mean of two, rounded down, or up with `up` 1.
fn half([a, b]: [i64; 2], up: i128) -> i64 {
    let sum = i128::from(a) + i128::from(b) + up;
    i64::try_from(sum.div_euclid(2)).unwrap_or(i64::MAX)
}

/// How many times one number is another.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Serialize)]
pub struct Ratio {
    /// The best single value.
    pub value: f64,
    /// Not less than this.
    pub low: f64,
    /// Not more than this; null when nothing bounds it from above.
    pub high: Option<f64>,
}

impl Ratio {
    /// Of two medians that are not negative; none where the second may be nothing.
    pub(super) fn of(of: &Summary, to: &Summary) -> Option<Self> {
        let (of, to) = (of.median, to.median);
        let low = of.low.zip(to.high).and_then(|(of, to)| quotient(of, to));
        Some(Self {
            value: quotient(of.value, to.value)?,
            low: low.unwrap_or(0.0),
            high: of.high.zip(to.low).and_then(|(of, to)| quotient(of, to)),
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "some digits are shown")]
fn quotient(of: i64, to: i64) -> Option<f64> {
    (to > 0).then(|| of.max(0) as f64 / to as f64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Small numbers, so that every combination of true numbers can be tried.
    fn reading() -> impl Strategy<Value = Reading> {
        (-4_i64..5, 0_i64..3, 0_i64..3, any::<[bool; 2]>()).prop_map(|(value, below, above, bounded)| {
            Reading {
                value,
                low: bounded[0].then_some(value - below),
                high: bounded[1].then_some(value + above),
            }
        })
    }

    /// What may be the true numbers; beyond `FAR` where there is no bound.
    const FAR: i64 = 1_000;

    fn possible(reading: &Reading) -> Vec<i64> {
        let [low, high] =
            [reading.low.unwrap_or(reading.value - 1), reading.high.unwrap_or(reading.value + 1)];
        let far = [reading.low.is_none().then_some(-FAR), reading.high.is_none().then_some(FAR)];
        (low..=high).chain(far.into_iter().flatten()).collect()
    }

    /// Every combination of possible true numbers.
    fn combinations(readings: &[Reading]) -> Vec<Vec<i64>> {
        readings.iter().fold(vec![Vec::new()], |all, reading| {
            let with = |before: &Vec<i64>, number| [before.clone(), vec![number]].concat();
            all.iter()
                .flat_map(|before| possible(reading).into_iter().map(|number| with(before, number)))
                .collect()
        })
    }

    /// Twice the median, by its definition: as many are not larger as are not smaller.
    fn doubled_median(numbers: &[i64]) -> i64 {
        let mut sorted = numbers.to_vec();
        sorted.sort_unstable();
        let n = sorted.len();
        if n % 2 == 1 { 2 * sorted[n / 2] } else { sorted[n / 2 - 1] + sorted[n / 2] }
    }

    proptest! {
        #[test]
        fn the_bounds_of_a_median_are_the_least_and_the_most_that_it_can_be(
            readings in prop::collection::vec(reading(), 1..5),
        ) {
            let summary = Summary::of(&readings).unwrap();
            let medians: Vec<i64> = combinations(&readings).iter().map(|all| doubled_median(all)).collect();
            let (least, most) = (*medians.iter().min().unwrap(), *medians.iter().max().unwrap());
            // Where enough bounds are missing, the median itself can be far away.
            match summary.median.low {
                Some(low) => prop_assert_eq!(low, least.div_euclid(2)),
                None => prop_assert!(least < -FAR / 4),
            }
            match summary.median.high {
                Some(high) => prop_assert_eq!(high, (most + 1).div_euclid(2)),
                None => prop_assert!(most > FAR / 4),
            }
            let values: Vec<i64> = readings.iter().map(|reading| reading.value).collect();
            prop_assert_eq!(summary.median.value, doubled_median(&values).div_euclid(2));
            prop_assert_eq!([summary.smallest, summary.largest].map(Some), [values.iter().min(), values.iter().max()].map(Option::<&i64>::copied));
            prop_assert!(summary.median.low.is_none_or(|low| low <= summary.median.value));
            prop_assert!(summary.median.high.is_none_or(|high| high >= summary.median.value));
        }

        #[test]
        fn cells_are_apart_only_if_every_true_number_of_one_is_beyond_all_of_the_other(
            one in prop::collection::vec(reading(), 1..5),
            other in prop::collection::vec(reading(), 1..5),
        ) {
            let all = |readings: &[Reading]| readings.iter().flat_map(possible).collect::<Vec<_>>();
            let (a, b) = (all(&one), all(&other));
            let is_below = |a: &[i64], b: &[i64]| a.iter().max() < b.iter().min();
            let apart = Summary::of(&one).unwrap().is_apart_from(&Summary::of(&other).unwrap());
            prop_assert_eq!(apart, is_below(&a, &b) || is_below(&b, &a));
        }

        #[test]
        fn a_ratio_lies_within_its_bounds(
            of in prop::collection::vec(reading(), 1..4),
            to in prop::collection::vec(reading(), 1..4),
        ) {
            let positive = |readings: Vec<Reading>| {
                let up = |number: i64| number + 8;
                let shifted = |r: Reading| Reading {
                    value: up(r.value),
                    low: Some(r.low.map_or(0, up)),
                    high: r.high.map(up),
                };
                Summary::of(&readings.into_iter().map(shifted).collect::<Vec<_>>()).unwrap()
            };
            let (of, to) = (positive(of), positive(to));
            let ratio = Ratio::of(&of, &to).unwrap();
            prop_assert!((ratio.value - of.median.value as f64 / to.median.value as f64).abs() < 1e-9);
            let ends = |summary: &Summary| [summary.median.low.unwrap(), summary.median.high.unwrap_or(FAR)];
            for (a, b) in ends(&of).into_iter().flat_map(|a| ends(&to).map(|b| (a, b))).filter(|(_, b)| *b > 0) {
                let truth = a as f64 / b as f64;
                prop_assert!(truth >= ratio.low - 1e-9);
                prop_assert!(ratio.high.is_none_or(|high| truth <= high + 1e-9));
            }
        }

        #[test]
        fn a_share_lies_within_its_bounds(part in reading(), whole in reading()) {
            let up = |r: Reading| Reading { value: r.value + 8, low: r.low.map(|low| low + 8), high: r.high.map(|high| high + 8) };
            let (part, whole) = (up(part), up(whole));
            let share = part.share_of(whole).unwrap();
            for (a, b) in possible(&part).into_iter().flat_map(|a| possible(&whole).into_iter().map(move |b| (a.max(0), b.max(1)))) {
                let truth = a as f64 / b as f64 * 1e6;
                prop_assert!(share.low.unwrap() as f64 <= truth + 1e-6);
                prop_assert!(share.high.is_none_or(|high| truth <= high as f64 + 1e-6));
            }
        }
    }

    #[test]
    fn a_median_has_an_upper_bound_unless_too_many_have_none() {
        let of = |highs: &[Option<i64>]| {
            let reading = |high: &Option<i64>| Reading { value: 1, low: Some(1), high: *high };
            Summary::of(&highs.iter().map(reading).collect::<Vec<_>>()).unwrap().median.high
        };
        assert_eq!(of(&[Some(2), Some(3), None]), Some(3));
        assert_eq!(of(&[Some(2), None, None]), None);
        // Of an even number, the upper of the two in the middle must have one.
        assert_eq!(of(&[Some(2), Some(3), Some(6), None]), Some(5));
        assert_eq!(of(&[Some(2), Some(3), None, None]), None);
        assert_eq!(of(&[None]), None);
        assert_eq!(Summary::of(&[]), None);
    }
}
