//! Monotonic time tied to wall time, and what that says about QEMU's own stamps.

use super::stamped::Stamped;
use crate::units::{ClockSample, MonotonicNs};

/// QEMU stamps in whole microseconds, rounded down.
const QEMU_STAMP_NS: u64 = 1_000;

/// A stamp further than this from the write is not the time of the event: the wall clock was set in between.
const LONGEST_WRITE_NS: u64 = 10_000_000_000;

/// The clock samples of a log.
#[derive(Clone, Debug, Default)]
pub(super) struct Clocks {
    samples: Stamped<ClockSample>,
}

/// The bounds of an instant, monotonic.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Bounds {
    /// It was not before this; absent when there is no such bound.
    pub(super) earliest: Option<u64>,
    /// It was not after this.
    pub(super) latest: u64,
}

impl Bounds {
    /// An instant that is known as it is, like the stamp of a packet.
    pub(super) const fn exact(at: MonotonicNs) -> Self {
        Self { earliest: Some(at.0), latest: at.0 }
    }
}

impl Clocks {
    pub(super) fn push(&mut self, at: MonotonicNs, sample: ClockSample) {
        self.samples.insert(at, sample);
    }

    /// The clock at an instant. NTP slews both clocks alike, so their offset changes only when the wall clock is set.
    /// Each such step is sampled right after it happened, so the latest sample before an instant holds for it.
    pub(super) fn at(&self, at: MonotonicNs) -> Option<ClockSample> {
        let before = self.samples.between(MonotonicNs(0), at).next_back();
        before.or_else(|| self.samples.since(at).next()).map(|(_, sample)| *sample)
    }

    /// When what an event reports became true. QEMU stamps the event just after the fact. The kernel stamps the
    /// write, usually 0.03 to 0.3 ms later, at times 8 ms.
    pub(super) fn written(&self, at: MonotonicNs, qemu_realtime_us: i64) -> Bounds {
        let earliest = self.at(at).and_then(|clock| {
            let built = qemu_realtime_us.checked_mul(1_000)?.checked_sub(clock.offset_ns)?;
            let built = u64::try_from(built).ok()?;
            let stamp_error = clock.error_ns.saturating_add(QEMU_STAMP_NS);
            let earliest = built.saturating_sub(clock.error_ns);
            let plausible =
                built <= at.0.saturating_add(stamp_error) && at.0.saturating_sub(built) <= LONGEST_WRITE_NS;
            plausible.then_some(earliest.min(at.0))
        });
        Bounds { earliest, latest: at.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn sample(offset_ns: i64, error_ns: u64) -> ClockSample {
        ClockSample { offset_ns, error_ns }
    }

    fn clocks(samples: &[(u64, ClockSample)]) -> Clocks {
        let mut clocks = Clocks::default();
        for (at, sample) in samples {
            clocks.push(MonotonicNs(*at), *sample);
        }
        clocks
    }

    fn written(clocks: &Clocks, at: u64, qemu_realtime_us: i64) -> Bounds {
        clocks.written(MonotonicNs(at), qemu_realtime_us)
    }

    #[test]
    fn an_event_happened_between_its_two_stamps() {
        let clocks = clocks(&[(0, sample(1_000_000_000, 50))]);
        // Built at 4.9 ms of the monotonic clock, written at 5 ms.
        let bounds = written(&clocks, 5_000_000, 1_004_900);
        assert_eq!(bounds, Bounds { earliest: Some(4_900_000 - 50), latest: 5_000_000 });
    }

    #[test]
    fn a_stamp_after_the_write_gives_no_lower_bound() {
        let clocks = clocks(&[(0, sample(1_000_000_000, 50))]);
        let within_error = written(&clocks, 5_000_000, 1_005_001);
        assert_eq!(within_error, Bounds { earliest: Some(5_000_000), latest: 5_000_000 });
        let later = written(&clocks, 5_000_000, 1_005_002);
        assert_eq!(later, Bounds { earliest: None, latest: 5_000_000 });
        assert_eq!(written(&clocks, 5_000_000, 0).earliest, None);
        assert_eq!(written(&clocks, 5_000_000, i64::MAX).earliest, None);
    }

    #[test]
    fn a_step_of_the_wall_clock_holds_from_its_sample_on() {
        let clocks = clocks(&[(0, sample(0, 50)), (1_000, sample(1_000_000, 60))]);
        assert_eq!(clocks.at(MonotonicNs(999)), Some(sample(0, 50)));
        assert_eq!(clocks.at(MonotonicNs(1_000)), Some(sample(1_000_000, 60)));
    }

    #[test]
    fn the_first_sample_holds_before_it_too_and_without_samples_nothing_is_known() {
        assert_eq!(clocks(&[(9, sample(7, 1))]).at(MonotonicNs(3)), Some(sample(7, 1)));
        assert_eq!(Clocks::default().at(MonotonicNs(3)), None);
    }
}
