//! Exponential buckets, as OpenTelemetry defines them: bucket `index` has the values in `(base^index, base^(index + 1)]` with
//! `base = 2^(2^-scale)`.

use std::collections::VecDeque;
use std::f64::consts::LN_2;

/// The most buckets. Wider values make all of them wider.
const MOST_BUCKETS: usize = 160;

/// The narrowest buckets to begin with.
const FIRST_SCALE: i32 = 20;

/// The buckets of values that are not negative.
#[derive(Clone, Debug, PartialEq)]
pub struct Exponential {
    /// How narrow the buckets are: each is `2^(2^-scale)` times as wide as the one before.
    pub scale: i32,
    /// How many values are 0.
    pub zero_count: u64,
    /// The index of the first bucket.
    pub offset: i32,
    /// How many values each bucket has, from the first on.
    pub counts: VecDeque<u64>,
}

impl Default for Exponential {
    fn default() -> Self {
        Self { scale: FIRST_SCALE, zero_count: 0, offset: 0, counts: VecDeque::new() }
    }
}

impl Exponential {
    pub(super) fn add(&mut self, value: f64) {
        if value <= 0.0 {
            self.zero_count += 1;
            return;
        }
        let mut index = index(value, self.scale);
        while self.width_with(index) > MOST_BUCKETS {
            self.halve();
            index >>= 1;
        }
        if self.counts.is_empty() {
            self.offset = index;
        }
        while index < self.offset {
            self.counts.push_front(0);
            self.offset -= 1;
        }
        let place = usize::try_from(index - self.offset).unwrap_or_default();
        if self.counts.len() <= place {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] += 1;
    }

    /// How many buckets there are if one more has to be there.
    fn width_with(&self, index: i32) -> usize {
        let Some(more) = self.counts.len().checked_sub(1) else { return 1 };
        let last = self.offset + i32::try_from(more).unwrap_or(i32::MAX);
        let width = i64::from(last.max(index)) - i64::from(self.offset.min(index)) + 1;
        usize::try_from(width).unwrap_or(usize::MAX)
    }

    /// Makes one bucket of two.
    fn halve(&mut self) {
        let mut counts: VecDeque<u64> = VecDeque::with_capacity(self.counts.len() / 2 + 1);
        let first = self.offset >> 1;
        for (place, count) in self.counts.iter().enumerate() {
            let index = (self.offset + i32::try_from(place).unwrap_or(i32::MAX)) >> 1;
            let place = usize::try_from(index - first).unwrap_or_default();
            if counts.len() <= place {
                counts.resize(place + 1, 0);
            }
            counts[place] += count;
        }
        self.counts = counts;
        self.offset = first;
        self.scale -= 1;
    }
}

/// The bucket of a positive value.
fn index(value: f64, scale: i32) -> i32 {
    let factor = 2_f64.powi(scale);
    // At a power of two the logarithm may be just above the whole number that it is.
    let exact = value.log2();
    let log = if exact.fract() == 0.0 { exact * factor } else { value.ln() / LN_2 * factor };
    log.ceil() as i32 - 1
}
