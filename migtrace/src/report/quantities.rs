//! Quantities in the form that people read.

use std::fmt;

use crate::record::Estimate;

const NS_PER_US: u64 = 1_000;
const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

const TIMES: [(u64, &str); 4] = [(1, "ns"), (NS_PER_US, "µs"), (NS_PER_MS, "ms"), (NS_PER_S, "s")];
const SIZES: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
const RATES: [(f64, &str); 4] = [(1.0, "bit/s"), (1e3, "kbit/s"), (1e6, "Mbit/s"), (1e9, "Gbit/s")];
/// The unit of a share.
pub(super) const PERCENT: &str = "%";

/// A number in a unit: `27.4 ms`, `4.51 GiB`, `12`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Amount {
    number: String,
    /// Empty for a number of things.
    unit: &'static str,
}

impl Amount {
    pub(super) fn new(number: impl Into<String>, unit: &'static str) -> Self {
        Self { number: number.into(), unit }
    }

    pub(super) fn time(ns: u64) -> Self {
        Self::time_to(ns, usual_step(ns))
    }

    /// With four digits at most of ten seconds and more: `15.48 s`, `152.3 s`.
    pub(super) fn short_time(ns: u64) -> Self {
        let has_four_digits = |step_ns: &u64| ns.saturating_add(step_ns / 2) / (*step_ns).max(1) < 10_000;
        let fewest = 100 * NS_PER_MS;
        let step_ns = [usual_step(ns), 10 * NS_PER_MS].into_iter().find(has_four_digits);
        Self::time_to(ns, step_ns.unwrap_or(fewest))
    }

    /// With as many digits as it takes to show steps of `step_ns`.
    fn time_to(ns: u64, step_ns: u64) -> Self {
        let shown_in = |unit_ns: u64| {
            let (mut shown_ns, mut decimals) = (unit_ns, 0);
            while shown_ns > step_ns.max(1) {
                shown_ns /= 10;
                decimals += 1;
            }
            (shown_ns, decimals)
        };
        let (shown_ns, _) = shown_in(unit(ns).0);
        // What would be rounded to 1000 is 1 of the next unit.
        let (unit_ns, unit) = unit(ns.saturating_add(shown_ns / 2));
        let (_, decimals) = shown_in(unit_ns);
        #[expect(clippy::cast_precision_loss, reason = "52 bits of nanoseconds are 52 days")]
        let value = ns as f64 / unit_ns as f64;
        Self::new(format!("{value:.decimals$}"), unit)
    }

    pub(super) fn bytes(bytes: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
        let mut value = bytes as f64;
        let mut unit = 0;
        // What would be rounded to 1024 is 1 of the next unit.
        while value >= 1023.995 {
            value /= 1024.0;
            unit += 1;
        }
        let decimals = if value.fract() == 0.0 { 0 } else { 2 };
        Self::new(format!("{value:.decimals$}"), SIZES[unit])
    }

    pub(super) fn count(number: u64) -> Self {
        Self::new(grouped(number), "")
    }

    /// With `sign` before it.
    pub(super) fn signed(self, sign: &str) -> Self {
        Self { number: format!("{sign}{}", self.number), ..self }
    }

    /// `2.0 to 80.9 ms`, or with two units where they differ. Nothing is 0 in every unit.
    pub(super) fn to(&self, high: &Self) -> String {
        if self.unit == high.unit || self.number == "0" {
            format!("{} to {high}", self.number)
        } else {
            format!("{self} to {high}")
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.number)?;
        if self.unit.is_empty() { Ok(()) } else { write!(f, " {}", self.unit) }
    }
}

/// A figure: a number, and what bounds it. Both stand on one line, or the bounds beneath the number.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Bounded {
    pub(super) value: String,
    /// `± 16.5 ms`, `(2.0 to 80.9 ms)`, `or longer`; none where they say no more than the number.
    pub(super) bounds: Option<String>,
}

impl Bounded {
    pub(super) fn new(value: impl fmt::Display, bounds: Option<String>) -> Self {
        Self { value: value.to_string(), bounds }
    }

    /// A number that is exact, or what is said instead of one.
    pub(super) fn alone(value: impl fmt::Display) -> Self {
        Self::new(value, None)
    }

    /// `12.3450 s ± 0.2 ms`; `80.1 ms (2.0 to 80.9 ms)` when the error is larger on one side; `36.2 ms or longer` when there
    /// is no upper bound.
    pub(super) fn time(value_ns: u64, low_ns: u64, high_ns: Option<u64>) -> Self {
        let (usual, low) = (Amount::time(value_ns), Amount::time(low_ns));
        let Some(high_ns) = high_ns else {
            let least = if usual == low { String::new() } else { format!(" (at least {low})") };
            return Self::new(usual, Some(format!("or longer{least}")));
        };
        let below = value_ns.saturating_sub(low_ns);
        let above = high_ns.saturating_sub(value_ns);
        let error_ns = below.max(above);
        // "±" would hide which side the error is on, or suggest a length below 0.
        let is_lopsided = error_ns > value_ns / 10 && error_ns / 3 > below.min(above);
        if is_lopsided || error_ns > value_ns {
            return Self::new(usual, Some(format!("({})", low.to(&Amount::time(high_ns)))));
        }
        let step_ns = usual_step(value_ns);
        let step_ns = if error_ns == 0 { step_ns } else { step_ns.min(error_ns) };
        Self::new(Amount::time_to(value_ns, step_ns), Some(format!("± {}", Amount::time(error_ns))))
    }

    /// The number, and its bounds beneath it.
    pub(super) fn lines(self) -> Vec<String> {
        std::iter::once(self.value).chain(self.bounds).collect()
    }
}

impl From<&Estimate> for Bounded {
    fn from(estimate: &Estimate) -> Self {
        Self::time(estimate.value_ns, estimate.low_ns, estimate.high_ns)
    }
}

impl From<String> for Bounded {
    fn from(value: String) -> Self {
        Self { value, bounds: None }
    }
}

impl fmt::Display for Bounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.value)?;
        self.bounds.as_ref().map_or(Ok(()), |bounds| write!(f, " {bounds}"))
    }
}

/// A figure on one line.
pub(super) fn estimate(estimate: &Estimate) -> String {
    Bounded::from(estimate).to_string()
}

/// `4.51 GiB`.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    Amount::bytes(bytes).to_string()
}

/// `1 234 567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `-1 234`.
pub(super) fn signed(number: i64) -> String {
    format!("{}{}", if number < 0 { "-" } else { "" }, grouped(number.unsigned_abs()))
}

/// Whether a word is the unit of a number before it.
pub(super) fn is_unit(word: &str) -> bool {
    let times = TIMES.map(|(_, unit)| unit);
    let rates = RATES.map(|(_, unit)| unit);
    word == PERCENT || [&times[..], &SIZES, &rates].concat().contains(&word)
}

/// The unit in which a length of time is best read, and its name.
fn unit(ns: u64) -> (u64, &'static str) {
    TIMES.into_iter().rev().find(|(unit_ns, _)| ns >= *unit_ns).unwrap_or(TIMES[0])
}

/// A length of time as a person reads it: `12.345 s`, `27.4 ms`, `3.1 µs`, `60 ns`.
#[must_use]
pub fn duration(ns: u64) -> String {
    Amount::time(ns).to_string()
}

/// As [`duration`], with enough digits to show that it differs from `other_ns`.
#[must_use]
pub fn duration_beside(ns: u64, other_ns: u64) -> String {
    let apart_ns = ns.abs_diff(other_ns);
    let usual_ns = usual_step(ns);
    Amount::time_to(ns, if apart_ns == 0 { usual_ns } else { usual_ns.min(apart_ns) }).to_string()
}

/// The steps that [`duration`] shows: those of the unit in which the rounded length is read.
fn usual_step(ns: u64) -> u64 {
    let step = |ns| match unit(ns).0 {
        NS_PER_S => NS_PER_MS,
        unit_ns => unit_ns / 10,
    };
    step(ns.saturating_add(step(ns) / 2))
}

/// As [`duration`], with its sign.
pub(super) fn offset(ns: i64) -> String {
    if ns == 0 {
        return "0 s".to_owned();
    }
    let sign = if ns < 0 { "-" } else { "" };
    format!("{sign}{}", duration(ns.unsigned_abs()))
}

/// `943 Mbit/s`: the average of `bytes` over `ns`; none when `ns` is 0.
pub(super) fn rate(bytes: u64, ns: u64) -> Option<String> {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let bits_per_s = (ns > 0).then(|| bytes as f64 * 8.0 * NS_PER_S as f64 / ns as f64)?;
    // What would be rounded to 1000 is 1 of the next unit.
    let best = RATES.into_iter().rev().find(|(unit, _)| bits_per_s >= 0.9995 * unit);
    let (unit, name) = best.unwrap_or(RATES[0]);
    Some(three_digits(bits_per_s / unit, name))
}

fn three_digits(value: f64, unit: &str) -> String {
    let decimals = match value {
        99.95.. | 0.0 => 0,
        9.995.. => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {unit}")
}

/// `part` of `whole` in percent; none when `whole` is 0.
pub(super) fn percent(part: u64, whole: u64) -> Option<String> {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    (whole > 0).then(|| format!("{:.2} {PERCENT}", part as f64 * 100.0 / whole as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Method;

    #[test]
    fn times_are_read_in_their_own_unit() {
        assert_eq!(duration(12_345_000_000), "12.345 s");
        assert_eq!(duration(27_400_000), "27.4 ms");
        assert_eq!(duration(3_100), "3.1 µs");
        assert_eq!(duration(60), "60 ns");
        assert_eq!(duration(0), "0 ns");
        assert_eq!(offset(-27_400_000), "-27.4 ms");
    }

    #[test]
    fn what_would_be_rounded_to_a_thousand_is_one_of_the_next_unit() {
        let lengths = [999_949_999, 999_950_000, 1_000_000_000, 999_949, 999_950, 999, 1_000];
        let shown = ["999.9 ms", "1.000 s", "1.000 s", "999.9 µs", "1.0 ms", "999 ns", "1.0 µs"];
        assert_eq!(lengths.map(duration), shown);
        let step_100_us = |ns| Amount::time_to(ns, 100_000).to_string();
        assert_eq!([999_940_000, 999_960_000].map(step_100_us), ["999.9 ms", "1.0000 s"]);
        assert_eq!(Amount::time_to(999_960, 1_000_000).to_string(), "1 ms");
        let short =
            [9_999_499_999, 9_999_500_000, 99_999_000_000].map(|ns| Amount::short_time(ns).to_string());
        assert_eq!(short, ["9.999 s", "10.00 s", "100.0 s"]);
    }

    #[test]
    fn every_unit_is_known_as_one() {
        let shown = [duration(5), duration(5_000), duration(5_000_000), duration(5_000_000_000)];
        let rates = [1, 1_000, 1_000_000, 1_000_000_000].map(|bytes| rate(bytes, NS_PER_S).unwrap());
        let sizes = (0..7).map(|power| bytes(1 << (10 * power)));
        for text in shown.into_iter().chain(rates).chain(sizes).chain(percent(1, 2)) {
            assert!(text.split_once(' ').is_some_and(|(_, unit)| is_unit(unit)), "{text}");
        }
        assert!(!is_unit("runs") && !is_unit(""));
    }

    #[test]
    fn two_times_that_differ_do_not_read_the_same() {
        assert_eq!(duration_beside(65_700_000, 60_000_000), "65.7 ms");
        assert_eq!(duration_beside(60_040_000, 60_000_000), "60.04 ms");
        assert_eq!(duration_beside(60_000_001, 60_000_000), "60.000001 ms");
        assert_eq!(duration_beside(2_000_000_001, 2_000_000_000), "2.000000001 s");
        assert_eq!(duration_beside(60_000_000, 60_000_000), "60.0 ms");
    }

    #[test]
    fn an_estimate_shows_no_more_and_no_fewer_digits_than_its_bound() {
        let e = |value_ns, low_ns, high_ns| {
            estimate(&Estimate { value_ns, low_ns, high_ns, method: Method::Vcpus })
        };
        assert_eq!(e(12_345_678_901, 12_345_478_901, Some(12_345_700_000)), "12.3457 s ± 200.0 µs");
        assert_eq!(e(12_345_678_901, 12_000_000_000, Some(12_345_700_000)), "12.346 s ± 345.7 ms");
        assert_eq!(e(80_100_000, 2_000_000, Some(80_900_000)), "80.1 ms (2.0 to 80.9 ms)");
        assert_eq!(e(7_900_000, 0, Some(17_200_000)), "7.9 ms (0 to 17.2 ms)");
        assert_eq!(e(36_200_000, 36_000_000, None), "36.2 ms or longer (at least 36.0 ms)");
        assert_eq!(e(36_200_000, 36_200_000, None), "36.2 ms or longer");
    }

    #[test]
    fn a_range_names_its_unit_once() {
        let time = |low, high| Amount::time(low).to(&Amount::time(high));
        assert_eq!(time(2_000_000, 80_900_000), "2.0 to 80.9 ms");
        assert_eq!(time(900_000, 80_900_000), "900.0 µs to 80.9 ms");
        assert_eq!(time(0, 80_900_000), "0 to 80.9 ms");
        assert_eq!(Amount::bytes(1 << 20).to(&Amount::bytes(5 << 20)), "1 to 5 MiB");
        // The blanks within a number are not before a unit.
        assert_eq!(Amount::count(1_234).to(&Amount::count(5_234)), "1 234 to 5 234");
    }

    #[test]
    fn sizes_have_binary_units() {
        let sizes = [0, 1_023, 1_024, 1_536, (1 << 20) - 1, 4_842_000_000, u64::MAX].map(bytes);
        assert_eq!(sizes, ["0 B", "1023 B", "1 KiB", "1.50 KiB", "1.00 MiB", "4.51 GiB", "16 EiB"]);
    }

    #[test]
    fn rates_counts_and_shares_read_as_people_write_them() {
        assert_eq!(rate(125_000_000, NS_PER_S).unwrap(), "1.00 Gbit/s");
        assert_eq!(rate(117_875_000, NS_PER_S).unwrap(), "943 Mbit/s");
        assert_eq!(rate(124_999_000, NS_PER_S).unwrap(), "1.00 Gbit/s");
        assert_eq!(rate(12_499_000, NS_PER_S).unwrap(), "100 Mbit/s");
        assert_eq!(rate(1_249_900, NS_PER_S).unwrap(), "10.0 Mbit/s");
        assert_eq!(rate(1, 0), None);
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(grouped(12), "12");
        assert_eq!(bytes(4_831_838_208), "4.50 GiB");
        assert_eq!(percent(43, 1_000).unwrap(), "4.30 %");
    }
}
