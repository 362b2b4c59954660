//! What the clocks of a virtual machine show, found by asking it all the time: independent of migtrace, of QEMU and of the
//! migration's packets.

use migtrace_lab::vm::VmHost;
use migtrace_lab::vm::agent::Reading;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the clocks are read.
const INTERVAL: Duration = Duration::from_millis(5);

/// An instant, or the difference of two clocks, between two bounds in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) low: i64,
    pub(super) high: i64,
}

impl Bounds {
    pub(super) fn overlaps(self, other: Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }

    pub(super) fn contains(self, ns: i64) -> bool {
        self.low <= ns && ns <= self.high
    }

    /// What both have, and what is between them.
    pub(super) fn hull(self, other: Self) -> Self {
        Self { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    pub(super) fn negated(self) -> Self {
        Self { low: -self.high, high: -self.low }
    }

    pub(super) fn widened(self, ns: i64) -> Self {
        Self { low: self.low - ns, high: self.high + ns }
    }

    /// `self - other`, whatever the two are.
    pub(super) fn less(self, other: Self) -> Self {
        Self { low: self.low - other.high, high: self.high - other.low }
    }

    pub(super) fn width(self) -> i64 {
        self.high - self.low
    }
}

/// Reads the clocks of a virtual machine until it is asked for what it has read.
pub(super) struct ClockWatch {
    ends: Arc<AtomicBool>,
    reader: JoinHandle<Vec<Reading>>,
}

impl ClockWatch {
    pub(super) fn start(vm: &VmHost) -> Self {
        let mut clock = vm.clock().unwrap();
        let ends = Arc::new(AtomicBool::new(false));
        let seen_ends = Arc::clone(&ends);
        let reader = thread::spawn(move || {
            let mut readings = Vec::new();
            while !seen_ends.load(Ordering::Relaxed) {
                readings.push(clock.read().unwrap());
                thread::sleep(INTERVAL);
            }
            readings
        });
        Self { ends, reader }
    }

    /// Ends it. The clocks were slewed by at most this many millionths meanwhile.
    pub(super) fn finish(self, most_slew_ppm: i64) -> Truth {
        self.ends.store(true, Ordering::Relaxed);
        Truth { readings: self.reader.join().unwrap(), most_slew_ppm }
    }
}

/// What the clocks of a virtual machine showed when this machine's monotonic clock showed an instant.
pub(super) struct Truth {
    readings: Vec<Reading>,
    most_slew_ppm: i64,
}

impl Truth {
    /// Its monotonic clock less this machine's.
    pub(super) fn offset_at(&self, at: i64) -> Bounds {
        self.bounds(at, |reading| reading.showed_ns)
    }

    /// Its wall clock less this machine's monotonic clock.
    fn wall_offset_at(&self, at: i64) -> Bounds {
        self.bounds(at, |reading| reading.realtime_ns)
    }

    /// When its wall clock showed this, on this machine's monotonic clock, if it was before `latest`.
    pub(super) fn instant_of_wall(&self, shown_ns: i64, latest: i64) -> Bounds {
        let roughly = shown_ns - self.wall_offset_at(latest).high;
        let offset = self.wall_offset_at(roughly).widened(self.drift(latest - roughly));
        Bounds { low: shown_ns - offset.high, high: shown_ns - offset.low }
    }

    /// A clock of the virtual machine less this machine's: no reading was shown before it was asked for, or after it was
    /// answered. Between readings the clocks drift.
    fn bounds(&self, at: i64, shown: impl Fn(&Reading) -> i64) -> Bounds {
        let low = self.readings.iter().map(|r| shown(r) - r.answered_ns - self.drift(at - r.answered_ns));
        let high = self.readings.iter().map(|r| shown(r) - r.asked_ns + self.drift(at - r.asked_ns));
        Bounds { low: low.max().unwrap(), high: high.min().unwrap() }
    }

    fn drift(&self, ns: i64) -> i64 {
        // The emulated machine's counter has the rate of this machine's monotonic clock. Rounding is a fraction of a millionth.
        ns.abs() * (self.most_slew_ppm + 1) / 1_000_000 + 1
    }
}
