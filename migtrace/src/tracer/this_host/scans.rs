//! When to read `/proc` for QEMUs that no instrument reported, and for taps that were opened late.
//!
//! Reading it takes milliseconds on a host with thousands of processes. So it is read often only while something may
//! have changed that no instrument reports: a QEMU that has just started opens its taps later, and one with an unusual
//! name is not reported, but makes a tap or a connection.

use std::time::Duration;

use tokio::time::Instant;

/// How often `/proc` is read while something may have changed.
pub(in crate::tracer) const SOON: Duration = Duration::from_secs(1);
/// How often it is read otherwise.
pub(in crate::tracer) const RARELY: Duration = Duration::from_secs(60);
/// For how long a change is followed.
const SETTLING: Duration = Duration::from_secs(60);

/// When to read `/proc`.
#[derive(Debug)]
pub(in crate::tracer) struct Scans {
    /// Read it every second, since no instrument reports processes that start and end.
    always: bool,
    last: Instant,
    settled: Instant,
}

impl Scans {
    /// `/proc` is read now. With `always` it is read every second from then on.
    pub(in crate::tracer) fn new(now: Instant, always: bool) -> Self {
        Self { always, last: now, settled: now + SETTLING }
    }

    /// Something has changed, and more may follow.
    pub(in crate::tracer) fn follow_change(&mut self, now: Instant) {
        self.settled = now + SETTLING;
    }

    /// Whether it is read only now and then at present.
    pub(in crate::tracer) fn is_rare(&self, now: Instant) -> bool {
        !self.always && now >= self.settled
    }

    /// Whether it is to be read now. If so, it counts as read.
    pub(in crate::tracer) fn is_due(&mut self, now: Instant) -> bool {
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
    fn proc_is_read_every_second_for_a_minute_after_a_change_and_then_every_minute() {
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
    fn without_instruments_proc_is_read_every_second() {
        let start = Instant::now();
        let mut scans = Scans::new(start, true);
        assert!((1..500).all(|second| scans.is_due(start + SOON * second)));
    }
}
