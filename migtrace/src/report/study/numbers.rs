//! Figures with their bounds, in the form that people read.

use super::words::counted;
use crate::report::quantities::{Amount, Bounded, PERCENT};
use crate::study::answer::{Ratio, Reading, Summary, Unit};

/// A number without its bounds.
pub(super) fn amount(unit: Unit, value: i64) -> Amount {
    let size = value.unsigned_abs();
    let amount = match unit {
        Unit::Ns => Amount::time(size),
        Unit::Bytes => Amount::bytes(size),
        Unit::Count => Amount::count(size),
        Unit::Ppm => percent(size),
    };
    amount.signed(if value < 0 { "-" } else { "" })
}

/// `4.3 %`, of millionths.
fn percent(ppm: u64) -> Amount {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let percent = ppm as f64 / 10_000.0;
    let decimals = if percent < 1.0 { 2 } else { 1 };
    Amount::new(format!("{percent:.decimals$}"), PERCENT)
}

/// A difference: with its sign.
fn signed(unit: Unit, value: i64) -> Amount {
    amount(unit, value).signed(if value > 0 { "+" } else { "" })
}

/// A number with its bounds, where it has any.
pub(in crate::report) fn reading(unit: Unit, reading: &Reading) -> Bounded {
    if let (Unit::Ns, Some(low)) = (unit, reading.low)
        && low >= 0
        && !is_exact(reading)
    {
        let [value, low] = [reading.value, low].map(i64::unsigned_abs);
        return Bounded::time(value, low, reading.high.map(i64::unsigned_abs));
    }
    with_bounds(reading, |value| amount(unit, value))
}

/// The same beside a bar, which shows the bounds itself: they are only said where they are wider than the digits.
pub(in crate::report) fn short_reading(unit: Unit, of: &Reading) -> Bounded {
    match unit {
        _ if is_wide(of) => reading(unit, of),
        Unit::Ns if of.value >= 0 => Bounded::alone(Amount::short_time(of.value.unsigned_abs())),
        _ => Bounded::alone(amount(unit, of.value)),
    }
}

/// Whether a bound is further off than a 100th of the number.
fn is_wide(of: &Reading) -> bool {
    let is_far = |bound: i64| bound.abs_diff(of.value) > of.value.unsigned_abs() / 100;
    [of.low, of.high].into_iter().any(|bound| bound.is_none_or(is_far))
}

/// The same of a difference.
pub(in crate::report) fn difference(unit: Unit, reading: &Reading) -> Bounded {
    if let (Some(low), Some(high), Unit::Ns) = (reading.low, reading.high, unit)
        && !is_exact(reading)
    {
        let error = reading.value.abs_diff(low).max(high.abs_diff(reading.value));
        if error <= reading.value.unsigned_abs() / 10 {
            return Bounded::new(signed(unit, reading.value), Some(format!("± {}", Amount::time(error))));
        }
    }
    with_bounds(reading, |value| signed(unit, value))
}

/// The same beside a bar.
pub(in crate::report) fn short_difference(unit: Unit, of: &Reading) -> Bounded {
    if is_wide(of) { difference(unit, of) } else { Bounded::alone(signed(unit, of.value)) }
}

/// Whether the bounds are the number itself. The median of an even number of whole numbers may lie half between two.
fn is_exact(reading: &Reading) -> bool {
    reading.low.zip(reading.high).is_some_and(|(low, high)| high.saturating_sub(low) <= 1)
}

fn with_bounds(reading: &Reading, show: impl Fn(i64) -> Amount) -> Bounded {
    let value = show(reading.value);
    let other = |bound: i64| Some(show(bound)).filter(|bound| *bound != value);
    let bounds = match (reading.low, reading.high) {
        (Some(low), Some(high)) => {
            let (low, high) = (show(low), show(high));
            (low != high).then(|| format!("({})", low.to(&high)))
        }
        (Some(low), None) => {
            let least = other(low).map(|low| format!(" (at least {low})"));
            Some(format!("or more{}", least.unwrap_or_default()))
        }
        (None, Some(high)) => {
            let most = other(high).map(|high| format!(" (at most {high})"));
            Some(format!("or less{}", most.unwrap_or_default()))
        }
        (None, None) => None,
    };
    Bounded::new(value, bounds)
}

/// What stands below the median of a cell with so many runs: the smallest value to the largest, if there are several, and of
/// how many runs.
pub(super) fn spread(unit: Unit, summary: &Summary, runs: usize) -> impl Iterator<Item = String> {
    let [smallest, largest] = [summary.smallest, summary.largest].map(|value| amount(unit, value));
    let range = (summary.count > 1).then(|| smallest.to(&largest));
    range.into_iter().chain([of_runs(summary, runs)])
}

fn of_runs(summary: &Summary, runs: usize) -> String {
    let known = if summary.count == runs as u64 { String::new() } else { format!("{} of ", summary.count) };
    format!("{known}{}", counted(runs as u64, "run"))
}

/// All of a cell with so many runs on one line.
pub(in crate::report) fn summary_line(unit: Unit, of: &Summary, runs: usize) -> String {
    let median = reading(unit, &of.median).to_string();
    std::iter::once(median).chain(spread(unit, of, runs)).collect::<Vec<_>>().join("; ")
}

/// `1.46`, `1.46 (1.40 to 1.52)`, `1.46 or more (at least 1.40)`, `1.46 (without bounds)`.
pub(in crate::report) fn ratio(ratio: &Ratio) -> Bounded {
    let low = times(ratio.low);
    let bounds = match ratio.high.map(times) {
        Some(high) if low == high => None,
        Some(high) => Some(format!("({low} to {high})")),
        None if ratio.low == 0.0 => Some("(without bounds)".to_owned()),
        None => Some(format!("or more (at least {low})")),
    };
    Bounded::new(times(ratio.value), bounds)
}

/// `1.46`, `12.3`, `123`.
pub(in crate::report) fn times(value: f64) -> String {
    let decimals = match value {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_a_bar_there_are_no_digits_that_nobody_needs() {
        let ms = 1_000_000;
        let of = |value, low, high| Reading { value, low, high };
        let cases = [
            (of(15_480_390_421, Some(15_480_360_073), Some(15_480_390_421)), "15.48 s"),
            (of(152_310 * ms, Some(152_309 * ms), Some(152_311 * ms)), "152.3 s"),
            (of(3_182 * ms, Some(3_181 * ms), Some(3_183 * ms)), "3.182 s"),
            (of(290 * ms, Some(267 * ms), Some(313 * ms)), "290.0 ms ± 23.0 ms"),
            (of(290 * ms, Some(290 * ms), None), "290.0 ms or longer"),
            (of(0, Some(0), Some(ms)), "0 ns (0 to 1.0 ms)"),
        ];
        for (reading, said) in cases {
            assert_eq!(short_reading(Unit::Ns, &reading).to_string(), said);
        }
        let off = of(-1_118 * ms, Some(-1_119 * ms), Some(-1_117 * ms));
        assert_eq!(short_difference(Unit::Ns, &off).to_string(), "-1.118 s");
        assert_eq!(
            short_difference(Unit::Ns, &of(4 * ms, Some(-ms), Some(9 * ms))).to_string(),
            "+4.0 ms (-1.0 to +9.0 ms)"
        );
    }
}
