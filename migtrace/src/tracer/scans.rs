//! When `/proc` is read for QEMUs that no instrument told of, and for taps that were opened late.
//!
//! To read it takes milliseconds on a host with thousands of processes. So it is read often only while something may
//! have changed that no instrument tells of: a QEMU that has just started opens its taps later, and one of an unusual name is
//! not told of, but makes a tap or a connection.

use std::time::Duration;

use tokio::time::Instant;

/// How often it is read while something may have changed.
pub(super) const SOON: Duration = Duration::from_secs(1);
/// How often it is read otherwise.
const RARELY: Duration = Duration::from_secs(60);
/// For how long a change is followed.
const SETTLING: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Scans {
    /// Nothing tells of processes that start and end.
    always: bool,
    last: Instant,
    settled: Instant,
}

impl Scans {
    /// `/proc` is read now. Without instruments that tell of processes, it is `always` to be read soon again.
    pub(super) fn new(now: Instant, always: bool) -> Self {
        Self { always, last: now, settled: now + SETTLING }
    }

    /// Something has changed: more may.
    pub(super) fn follow_change(&mut self, now: Instant) {
        self.settled = now + SETTLING;
    }

    /// Whether it is to be read now; then it is.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.always || now < self.settled || now >= self.last + RARELY;
        if is_due {
            self.last = now;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_every_second_for_a_minute_after_a_change_and_then_every_minute() {
        let start = Instant::now();
        let mut scans = Scans::new(start, false);
        let due = |scans: &mut Scans, from: u64, to: u64| -> Vec<u64> {
            (from..to).filter(|second| scans.is_due(start + SOON * *second as u32)).collect()
        };
        assert_eq!(due(&mut scans, 1, 60), (1..60).collect::<Vec<_>>());
        assert_eq!(due(&mut scans, 60, 300), [119, 179, 239, 299]);
        scans.follow_change(start + SOON * 300);
        assert_eq!(due(&mut scans, 300, 361), (300..360).collect::<Vec<_>>());
    }

    #[test]
    fn without_probes_it_is_read_every_second() {
        let start = Instant::now();
        let mut scans = Scans::new(start, true);
        assert!((1..500).all(|second| scans.is_due(start + SOON * second)));
    }
}
