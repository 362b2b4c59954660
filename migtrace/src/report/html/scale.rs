//! Scales: where a value stands along an axis, and which values are written there.

use std::fmt::Write as _;

/// The length of an axis in the units of its drawing.
pub(super) const LENGTH: f64 = 1_000.0;

/// The most ticks of an axis.
const MOST_TICKS: f64 = 7.0;

/// What an axis shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::report) enum Quantity {
    /// In nanoseconds.
    Time,
    Bytes,
    /// In bits per second.
    Rate,
    /// Without a unit.
    Number,
}

impl Quantity {
    /// The unit in which values up to `most` are best read, and its name.
    const fn unit(self, most: f64) -> (f64, &'static str) {
        match self {
            Self::Time => match most {
                1e9.. => (1e9, "s"),
                1e6.. => (1e6, "ms"),
                1e3.. => (1e3, "µs"),
                _ => (1.0, "ns"),
            },
            Self::Bytes => match most {
                1_099_511_627_776.0.. => (1_099_511_627_776.0, "TiB"),
                1_073_741_824.0.. => (1_073_741_824.0, "GiB"),
                1_048_576.0.. => (1_048_576.0, "MiB"),
                1_024.0.. => (1_024.0, "KiB"),
                _ => (1.0, "B"),
            },
            Self::Rate => match most {
                1e9.. => (1e9, "Gbit/s"),
                1e6.. => (1e6, "Mbit/s"),
                1e3.. => (1e3, "kbit/s"),
                _ => (1.0, "bit/s"),
            },
            Self::Number => (1.0, ""),
        }
    }
}

/// An axis from one value to another. The second is always the larger one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::report) struct Scale {
    quantity: Quantity,
    from: f64,
    to: f64,
}

/// A value that is written at an axis.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::report) struct Tick {
    /// Where, in the units of the drawing.
    pub(super) at: f64,
    pub(super) label: String,
}

impl Scale {
    /// An axis. Bounds that are no numbers, or leave nothing between them, are moved apart.
    pub(in crate::report) fn new(quantity: Quantity, from: f64, to: f64) -> Self {
        let from = if from.is_finite() { from } else { 0.0 };
        let least = (from.abs() * 1e-9).max(1.0);
        let to = if to.is_finite() { to.max(from + least) } else { from + least };
        Self { quantity, from, to }
    }

    /// From 0 to a round value that is not below `most`.
    pub(in crate::report) fn from_zero(quantity: Quantity, most: f64) -> Self {
        Self::around_zero(quantity, 0.0, most)
    }

    /// From a round value that is not above `least`, nor above 0, to one that is not below `most`, nor below 0.
    pub(in crate::report) fn around_zero(quantity: Quantity, least: f64, most: f64) -> Self {
        let scale = Self::new(quantity, least.min(0.0), most.max(0.0));
        let (unit, _) = scale.unit(0.0);
        // Both ends move by less than a step: it is still the step of the ticks.
        let step = step((scale.to - scale.from) / unit / (MOST_TICKS - 1.0)) * unit;
        Self::new(quantity, (scale.from / step).floor() * step, (scale.to / step).ceil() * step)
    }

    pub(in crate::report) const fn from(&self) -> f64 {
        self.from
    }

    pub(in crate::report) const fn to(&self) -> f64 {
        self.to
    }

    /// Where a value stands; at the end of the axis if it is beyond.
    pub(super) fn at(&self, value: f64) -> f64 {
        let share = (value - self.from) / (self.to - self.from);
        if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) * LENGTH }
    }

    /// Whether a value is on the axis.
    pub(in crate::report) fn has(&self, value: f64) -> bool {
        (self.from..=self.to).contains(&value)
    }

    /// Round values along the axis, counted from `origin`: each with its unit.
    pub(super) fn ticks(&self, origin: f64) -> Vec<Tick> {
        let (unit, name) = self.unit(origin);
        let written =
            |value: f64, decimals: usize| format!("{value:.decimals$} {name}").trim_end().to_owned();
        self.values(origin, unit, MOST_TICKS, written)
    }

    /// As [`Scale::ticks`], from 0, few, and without the unit; and that unit.
    pub(super) fn few_ticks(&self) -> (Vec<Tick>, &'static str) {
        let (unit, name) = self.unit(0.0);
        (self.values(0.0, unit, 2.0, |value, decimals| format!("{value:.decimals$}")), name)
    }

    fn unit(&self, origin: f64) -> (f64, &'static str) {
        self.quantity.unit((self.from - origin).abs().max((self.to - origin).abs()))
    }

    fn values(&self, origin: f64, unit: f64, most: f64, written: impl Fn(f64, usize) -> String) -> Vec<Tick> {
        let (from, to) = ((self.from - origin) / unit, (self.to - origin) / unit);
        let step = step((to - from) / most);
        let decimals = decimals(step);
        // The ends are ticks, too, where only rounding keeps them off.
        let first = (from / step - 1e-6).ceil();
        let last = (to / step + 1e-6).floor();
        let mut ticks = Vec::new();
        let mut index = first;
        while index <= last && ticks.len() <= 2 * MOST_TICKS as usize {
            let value = index * step;
            // Without the sign of a negative zero.
            ticks.push(Tick { at: self.at(origin + value * unit), label: written(value + 0.0, decimals) });
            index += 1.0;
        }
        ticks
    }
}

/// The smallest of 1, 2, 5, 10, 20, ... that is not below `least`.
fn step(least: f64) -> f64 {
    if !(least.is_finite() && least > 0.0) {
        return 1.0;
    }
    let power = 10_f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= least * 0.999_999).unwrap_or(power * 10.0)
}

/// How many decimals it takes to write multiples of a step.
fn decimals(step: f64) -> usize {
    (0..9).find(|decimals| (step * 10_f64.powi(*decimals)).fract().abs() < 1e-6).unwrap_or(9) as usize
}

/// A number of a drawing: as few digits as are seen.
pub(super) fn number(value: f64) -> String {
    let mut text = String::new();
    let _ = write!(text, "{value:.2}");
    let short = text.trim_end_matches('0').trim_end_matches('.');
    if short == "-0" { "0".to_owned() } else { short.to_owned() }
}

/// A place along an axis as a share of its length.
pub(super) fn percent(at: f64) -> String {
    format!("{}%", number(at * 100.0 / LENGTH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: Scale) -> Vec<String> {
        scale.ticks(0.0).into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn ticks_are_round_and_have_units() {
        let time = |from, to| labels(Scale::new(Quantity::Time, from, to));
        assert_eq!(time(0.0, 5.5e9), ["0 s", "1 s", "2 s", "3 s", "4 s", "5 s"]);
        assert_eq!(time(0.0, 345e6), ["0 ms", "50 ms", "100 ms", "150 ms", "200 ms", "250 ms", "300 ms"]);
        assert_eq!(time(0.0, 1.2e9), ["0.0 s", "0.2 s", "0.4 s", "0.6 s", "0.8 s", "1.0 s", "1.2 s"]);
        assert_eq!(time(-1e6, 1e6)[..2], ["-1.0 ms", "-0.5 ms"]);
        let bytes = labels(Scale::new(Quantity::Bytes, 0.0, 250.0 * 1_048_576.0));
        assert_eq!(bytes, ["0 MiB", "50 MiB", "100 MiB", "150 MiB", "200 MiB", "250 MiB"]);
    }

    #[test]
    fn a_rate_ends_at_a_round_value() {
        let scale = Scale::from_zero(Quantity::Rate, 398e6);
        assert_eq!((scale.from(), scale.to()), (0.0, 400e6));
        let (ticks, unit) = scale.few_ticks();
        assert_eq!(unit, "Mbit/s");
        assert_eq!(ticks.into_iter().map(|tick| tick.label).collect::<Vec<_>>(), ["0", "200", "400"]);
    }

    #[test]
    fn an_axis_around_zero_ends_at_its_outermost_ticks() {
        let axis = |least, most| labels(Scale::around_zero(Quantity::Time, least, most));
        assert_eq!(axis(0.0, 51e9), ["0 s", "10 s", "20 s", "30 s", "40 s", "50 s", "60 s"]);
        assert_eq!(axis(-130e6, 1e6), ["-150 ms", "-100 ms", "-50 ms", "0 ms", "50 ms"]);
        for (least, most) in [(0.0, 5.86e9), (-251e6, 0.0), (-3.0, 170.0), (-7e9, 7e9), (-0.9e9, 1.1e9)] {
            let scale = Scale::around_zero(Quantity::Time, least, most);
            let ticks = scale.ticks(0.0);
            assert_eq!((ticks[0].at, ticks[ticks.len() - 1].at), (0.0, LENGTH), "{least} to {most}");
            assert!(ticks.len() <= 8, "{ticks:?}");
            assert!((scale.to() - scale.from()) < 2.0 * (most - least), "{least} to {most}: {scale:?}");
        }
    }

    #[test]
    fn no_value_leaves_the_axis_or_is_no_number() {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN, 0.0, -9.3e18, 9.3e18];
        for from in odd {
            for to in odd {
                let scale = Scale::new(Quantity::Time, from, to);
                assert!(scale.from() < scale.to(), "{from} {to}");
                for value in odd {
                    assert!((0.0..=LENGTH).contains(&scale.at(value)), "{value} from {from} to {to}");
                }
                assert!(scale.ticks(0.0).len() <= 15, "{from} {to}");
            }
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([1.0, 0.5, 12.346, -0.001].map(number), ["1", "0.5", "12.35", "0"]);
        assert_eq!(percent(123.4), "12.34%");
    }
}
