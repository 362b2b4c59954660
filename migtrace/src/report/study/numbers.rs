//! Figures with their bounds, in the form that people read.

use super::words::counted;
use crate::report::quantities::{bounded, bytes, duration, grouped, joined_range, short_duration};
use crate::study::answer::{Ratio, Reading, Summary, Unit};

/// A number without its bounds.
pub(in crate::report) fn plain(unit: Unit, value: i64) -> String {
    let size = value.unsigned_abs();
    let text = match unit {
        Unit::Ns => duration(size),
        Unit::Bytes => bytes(size),
        Unit::Count => grouped(size),
        Unit::Ppm => percent(size),
    };
    format!("{}{text}", if value < 0 { "-" } else { "" })
}

/// `4.3 %`, of millionths.
fn percent(ppm: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let percent = ppm as f64 / 10_000.0;
    let decimals = if percent < 1.0 { 2 } else { 1 };
    format!("{percent:.decimals$} %")
}

/// A difference: with its sign.
fn signed(unit: Unit, value: i64) -> String {
    let sign = if value > 0 { "+" } else { "" };
    format!("{sign}{}", plain(unit, value))
}

/// A number with its bounds, where it has any.
pub(in crate::report) fn reading(unit: Unit, reading: &Reading) -> String {
    if let (Unit::Ns, Some(low)) = (unit, reading.low)
        && low >= 0
        && !is_exact(reading)
    {
        let [value, low] = [reading.value, low].map(i64::unsigned_abs);
        return bounded(value, low, reading.high.map(i64::unsigned_abs));
    }
    with_bounds(reading, |value| plain(unit, value))
}

/// The same beside a bar, which shows the bounds itself: they are only said where they are wider than the digits.
pub(in crate::report) fn short_reading(unit: Unit, of: &Reading) -> String {
    match unit {
        _ if is_wide(of) => reading(unit, of),
        Unit::Ns if of.value >= 0 => short_duration(of.value.unsigned_abs()),
        _ => plain(unit, of.value),
    }
}

/// Whether a bound is further off than a 100th of the number.
fn is_wide(of: &Reading) -> bool {
    let is_far = |bound: i64| bound.abs_diff(of.value) > of.value.unsigned_abs() / 100;
    [of.low, of.high].into_iter().any(|bound| bound.is_none_or(is_far))
}

/// The same of a difference.
pub(in crate::report) fn difference(unit: Unit, reading: &Reading) -> String {
    if let (Some(low), Some(high), Unit::Ns) = (reading.low, reading.high, unit)
        && !is_exact(reading)
    {
        let error = reading.value.abs_diff(low).max(high.abs_diff(reading.value));
        if error <= reading.value.unsigned_abs() / 10 {
            return format!("{} ± {}", signed(unit, reading.value), duration(error));
        }
    }
    with_bounds(reading, |value| signed(unit, value))
}

/// The same beside a bar.
pub(in crate::report) fn short_difference(unit: Unit, of: &Reading) -> String {
    if is_wide(of) { difference(unit, of) } else { signed(unit, of.value) }
}

/// Whether the bounds are the number itself. The median of an even number of whole numbers may lie half between two.
fn is_exact(reading: &Reading) -> bool {
    reading.low.zip(reading.high).is_some_and(|(low, high)| high.saturating_sub(low) <= 1)
}

fn with_bounds(reading: &Reading, show: impl Fn(i64) -> String) -> String {
    let value = show(reading.value);
    let beside = |bound: Option<i64>| bound.map(&show).filter(|bound| *bound != value);
    match (reading.low, reading.high) {
        (Some(low), Some(high)) => {
            let (low, high) = (show(low), show(high));
            if low == high { value } else { format!("{value} ({})", joined_range(low, high)) }
        }
        (low @ Some(_), None) => match beside(low) {
            Some(low) => format!("{value} or more (at least {low})"),
            None => format!("{value} or more"),
        },
        (None, high @ Some(_)) => match beside(high) {
            Some(high) => format!("{value} or less (at most {high})"),
            None => format!("{value} or less"),
        },
        (None, None) => value,
    }
}

/// The number of a cell with so many runs, on its lines: the median with its bounds, the range, and of how many runs.
pub(super) fn summary(unit: Unit, summary: &Summary, runs: usize) -> Vec<String> {
    let mut lines = vec![reading(unit, &summary.median)];
    if let Some([smallest, largest]) = ends(unit, summary) {
        lines.push(joined_range(smallest, largest));
    }
    lines.push(of_runs(summary, runs));
    lines
}

/// The same on more lines, for narrow columns.
pub(super) fn narrow_summary(unit: Unit, summary: &Summary, runs: usize) -> Vec<String> {
    let mut lines = bounds_beneath(&reading(unit, &summary.median));
    if let Some([smallest, largest]) = ends(unit, summary) {
        lines.extend([format!("from {smallest}"), format!("to {largest}")]);
    }
    lines.push(of_runs(summary, runs));
    lines
}

/// A number, and its bounds on a line of their own.
pub(super) fn bounds_beneath(number: &str) -> Vec<String> {
    let at = [" ± ", " (", " or "].into_iter().filter_map(|separator| number.find(separator)).min();
    let (value, bounds) = number.split_at(at.unwrap_or(number.len()));
    [value, bounds.trim_start()].into_iter().filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// The smallest and the largest value; none of one run.
fn ends(unit: Unit, summary: &Summary) -> Option<[String; 2]> {
    (summary.count > 1).then(|| [summary.smallest, summary.largest].map(|value| plain(unit, value)))
}

fn of_runs(summary: &Summary, runs: usize) -> String {
    let known = if summary.count == runs as u64 { String::new() } else { format!("{} of ", summary.count) };
    format!("{known}{}", counted(runs as u64, "run"))
}

/// The same on one line.
pub(in crate::report) fn summary_line(unit: Unit, of: &Summary, runs: usize) -> String {
    summary(unit, of, runs).join("; ")
}

/// `1.46`, `1.46 (1.40 to 1.52)`, `1.46 or more (at least 1.40)`, `1.46 (without bounds)`.
pub(in crate::report) fn ratio(ratio: &Ratio) -> String {
    let value = times(ratio.value);
    let low = times(ratio.low);
    match ratio.high.map(times) {
        Some(high) if low == high => value,
        Some(high) => format!("{value} ({low} to {high})"),
        None if ratio.low == 0.0 => format!("{value} (without bounds)"),
        None => format!("{value} or more (at least {low})"),
    }
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
            (of(0, Some(0), Some(ms)), "0 ns (0 ns to 1.0 ms)"),
        ];
        for (reading, said) in cases {
            assert_eq!(short_reading(Unit::Ns, &reading), said);
        }
        let off = of(-1_118 * ms, Some(-1_119 * ms), Some(-1_117 * ms));
        assert_eq!(short_difference(Unit::Ns, &off), "-1.118 s");
        assert_eq!(
            short_difference(Unit::Ns, &of(4 * ms, Some(-ms), Some(9 * ms))),
            "+4.0 ms (-1.0 to +9.0 ms)"
        );
    }
}
