//! What a flow had carried, each time that it was counted.

use crate::timeline::curve;
use crate::units::{Directions, MonotonicNs};

/// The most that are kept: those of four and a half hours, at one a second. A disk may be copied for weeks before its guest moves.
const MOST: usize = 16_384;
/// The latest are kept as they are.
const LATEST: usize = MOST / 2;

/// Wire bytes each time that a flow was counted: all of them at first; then the older, the coarser, as the shape of the curve
/// allows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<(MonotonicNs, Directions<u64>)>);

impl Samples {
    pub(super) fn push(&mut self, at: MonotonicNs, wire_bytes: Directions<u64>) {
        if self.0.len() == MOST {
            self.thin();
        }
        self.0.push((at, wire_bytes));
    }

    /// In the order of arrival, which is nearly that of their times.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (MonotonicNs, Directions<u64>)> {
        self.0.iter().copied()
    }

    /// Keeps half of those that are not among the latest.
    fn thin(&mut self) {
        self.0.sort_by_key(|(at, _)| *at);
        let (older, latest) = self.0.split_at(self.0.len() - LATEST);
        #[expect(clippy::cast_precision_loss, reason = "the shape of a curve")]
        let point = |(at, bytes): &(MonotonicNs, Directions<u64>)| {
            (at.0 as f64, bytes.tx.saturating_add(bytes.rx) as f64)
        };
        let points: Vec<_> = older.iter().map(point).collect();
        let kept = curve::thinned(&points, older.len() / 2);
        let mut samples = Vec::with_capacity(MOST);
        samples.extend(kept.into_iter().map(|index| older[index]));
        samples.extend_from_slice(latest);
        self.0 = samples;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    /// What has crossed by a second: 1 MB a second, but for an hour in which nothing moves.
    fn crossed(second: u64) -> u64 {
        let still = 100_000;
        (second.min(still) + second.saturating_sub(still + 3_600)) * 1_000_000
    }

    fn counted(seconds: u64) -> Samples {
        let mut samples = Samples::default();
        for second in 0..seconds {
            samples.push(MonotonicNs(second * S), Directions { tx: crossed(second), rx: 0 });
        }
        samples
    }

    #[test]
    fn a_flow_of_hours_keeps_every_count() {
        let all: Vec<_> = counted(MOST as u64).iter().map(|(at, _)| at.0 / S).collect();
        assert_eq!(all, (0..MOST as u64).collect::<Vec<_>>());
    }

    #[test]
    fn of_a_month_the_beginning_the_shape_and_the_latest_hours_are_kept() {
        let month = 30 * 86_400;
        let samples = counted(month);
        assert_eq!(samples.0.capacity(), MOST);
        let kept: Vec<_> = samples.iter().map(|(at, bytes)| (at.0 / S, bytes.tx)).collect();
        assert!(kept.is_sorted(), "in the order of their times, and a counter only grows");
        assert_eq!((kept[0].0, kept[kept.len() - 1].0), (0, month - 1));
        let latest: Vec<_> = kept[kept.len() - LATEST..].iter().map(|(second, _)| *second).collect();
        assert_eq!(latest, (month - LATEST as u64..month).collect::<Vec<_>>());
        // Between two that are kept, the curve is off by less than a thousandth of all.
        for pair in kept.windows(2) {
            let ((from, before), (to, after)) = (pair[0], pair[1]);
            let middle = from.midpoint(to);
            let drawn = before + (after - before) * (middle - from) / (to - from);
            assert!(drawn.abs_diff(crossed(middle)) < crossed(month) / 1_000, "{from} to {to}");
        }
    }
}
