//! Quantities in the form that people read.

use humansize::{BINARY, format_size};

use crate::record::Estimate;

const NS_PER_US: u64 = 1_000;
const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// `4.51 GiB`.
pub(super) fn bytes(bytes: u64) -> String {
    format_size(bytes, BINARY)
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

/// The unit in which a length of time is best read, and its name.
const fn unit(ns: u64) -> (u64, &'static str) {
    match ns {
        NS_PER_S.. => (NS_PER_S, "s"),
        NS_PER_MS.. => (NS_PER_MS, "ms"),
        NS_PER_US.. => (NS_PER_US, "µs"),
        _ => (1, "ns"),
    }
}

/// A length of time as a person reads it: `12.345 s`, `27.4 ms`, `3.1 µs`, `60 ns`.
#[must_use]
pub fn duration(ns: u64) -> String {
    duration_to(ns, usual_step(ns))
}

/// As [`duration`], with enough digits to show that it differs from `other_ns`.
#[must_use]
pub fn duration_beside(ns: u64, other_ns: u64) -> String {
    let apart_ns = ns.abs_diff(other_ns);
    let usual_ns = usual_step(ns);
    duration_to(ns, if apart_ns == 0 { usual_ns } else { usual_ns.min(apart_ns) })
}

/// As [`duration`], with four digits at most after whole seconds: `15.48 s`, `152.3 s`.
pub(super) fn short_duration(ns: u64) -> String {
    let step_ns = match ns / NS_PER_S {
        100.. => 100 * NS_PER_MS,
        10.. => 10 * NS_PER_MS,
        _ => usual_step(ns),
    };
    duration_to(ns, step_ns)
}

/// The steps that [`duration`] shows.
const fn usual_step(ns: u64) -> u64 {
    match unit(ns).0 {
        NS_PER_S => NS_PER_MS,
        unit_ns => unit_ns / 10,
    }
}

/// As [`duration`], with as many digits as it takes to show steps of `step_ns`.
fn duration_to(ns: u64, step_ns: u64) -> String {
    let (unit_ns, name) = unit(ns);
    let mut decimals = 0;
    let mut shown_ns = unit_ns;
    while shown_ns > step_ns.max(1) {
        shown_ns /= 10;
        decimals += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "52 bits of nanoseconds are 52 days")]
    let value = ns as f64 / unit_ns as f64;
    format!("{value:.decimals$} {name}")
}

/// As [`duration`], with its sign.
pub(super) fn offset(ns: i64) -> String {
    if ns == 0 {
        return "0 s".to_owned();
    }
    let sign = if ns < 0 { "-" } else { "" };
    format!("{sign}{}", duration(ns.unsigned_abs()))
}

/// `12.3450 s ± 0.2 ms`; `80.1 ms (2.0 to 80.9 ms)` when the error is larger on one side; `36.2 ms or longer` when there
/// is no upper bound.
pub(super) fn estimate(estimate: &Estimate) -> String {
    bounded(estimate.value_ns, estimate.low_ns, estimate.high_ns)
}

/// As [`estimate`], of a length of time and its bounds.
pub(super) fn bounded(value_ns: u64, low_ns: u64, high_ns: Option<u64>) -> String {
    match high_ns {
        Some(high_ns) => {
            let below = value_ns.saturating_sub(low_ns);
            let above = high_ns.saturating_sub(value_ns);
            let error_ns = below.max(above);
            // "±" would hide which side the error is on, or suggest a length below 0.
            let is_lopsided = error_ns > value_ns / 10 && error_ns / 3 > below.min(above);
            if is_lopsided || error_ns > value_ns {
                return format!("{} ({})", duration(value_ns), range(low_ns, high_ns));
            }
            let step_ns = usual_step(value_ns);
            let step_ns = if error_ns == 0 { step_ns } else { step_ns.min(error_ns) };
            format!("{} ± {}", duration_to(value_ns, step_ns), duration(error_ns))
        }
        None => {
            let (value, low) = (duration(value_ns), duration(low_ns));
            if value == low {
                format!("{value} or longer")
            } else {
                format!("{value} or longer (at least {low})")
            }
        }
    }
}

/// `2.0 to 80.9 ms`, or with two units where they differ.
pub(super) fn range(low_ns: u64, high_ns: u64) -> String {
    joined_range(duration(low_ns), duration(high_ns))
}

/// `low to high`, with the unit only once if it is the same.
pub(super) fn joined_range(low: String, high: String) -> String {
    match (low.split_once(' '), high.split_once(' ')) {
        (Some((number, unit)), Some((_, same))) if unit == same => format!("{number} to {high}"),
        _ => format!("{low} to {high}"),
    }
}

/// `943 Mbit/s`: the average of `bytes` over `ns`; none when `ns` is 0.
pub(super) fn rate(bytes: u64, ns: u64) -> Option<String> {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let bits_per_s = (ns > 0).then(|| bytes as f64 * 8.0 * NS_PER_S as f64 / ns as f64)?;
    let (unit, name) = match bits_per_s {
        1e9.. => (1e9, "Gbit/s"),
        1e6.. => (1e6, "Mbit/s"),
        1e3.. => (1e3, "kbit/s"),
        _ => (1.0, "bit/s"),
    };
    Some(three_digits(bits_per_s / unit, name))
}

fn three_digits(value: f64, unit: &str) -> String {
    let decimals = match value {
        100.0.. | 0.0 => 0,
        10.0.. => 1,
        _ => 2,
    };
    format!("{value:.decimals$} {unit}")
}

/// `part` of `whole` in percent; none when `whole` is 0.
pub(super) fn percent(part: u64, whole: u64) -> Option<String> {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    (whole > 0).then(|| format!("{:.2} %", part as f64 * 100.0 / whole as f64))
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
        assert_eq!(e(7_900_000, 0, Some(17_200_000)), "7.9 ms (0 ns to 17.2 ms)");
        assert_eq!(e(36_200_000, 36_000_000, None), "36.2 ms or longer (at least 36.0 ms)");
        assert_eq!(e(36_200_000, 36_200_000, None), "36.2 ms or longer");
    }

    #[test]
    fn rates_counts_and_shares_read_as_people_write_them() {
        assert_eq!(rate(125_000_000, NS_PER_S).unwrap(), "1.00 Gbit/s");
        assert_eq!(rate(117_875_000, NS_PER_S).unwrap(), "943 Mbit/s");
        assert_eq!(rate(1, 0), None);
        assert_eq!(grouped(1_234_567), "1 234 567");
        assert_eq!(grouped(12), "12");
        assert_eq!(bytes(4_831_838_208), "4.50 GiB");
        assert_eq!(percent(43, 1_000).unwrap(), "4.30 %");
    }
}
