//! The monotonic clock, what ties it to wall time, the steps of wall time, and how fast NTP slews both.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{self, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};
use tokio::io::unix::AsyncFd;

use crate::units::{ClockSample, MOST_CRYSTAL_PPM, MOST_SLEW_PPM, MonotonicNs};

/// How many brackets are tried for one sample. The first one or two are slow, since the clock's code is not in the cache.
const BRACKETS: usize = 32;

/// `CLOCK_MONOTONIC` now. The kernel programs' stamps come from the same clock.
///
/// # Errors
/// The system call's.
pub fn now() -> io::Result<MonotonicNs> {
    Ok(MonotonicNs(read_ns(ClockId::CLOCK_MONOTONIC)?.cast_unsigned()))
}

/// `CLOCK_REALTIME - CLOCK_MONOTONIC`, from the tightest of several (monotonic, realtime, monotonic) brackets.
///
/// # Errors
/// The system call's.
pub fn sample() -> io::Result<ClockSample> {
    tied_to(ClockId::CLOCK_REALTIME)
}

/// A clock less `CLOCK_MONOTONIC`, from the tightest of several brackets: a thread may be interrupted between two readings.
fn tied_to(clock: ClockId) -> io::Result<ClockSample> {
    let mut tightest = bracket(clock)?;
    for _ in 1..BRACKETS {
        let next = bracket(clock)?;
        if next.error_ns < tightest.error_ns {
            tightest = next;
        }
    }
    Ok(tightest)
}

fn bracket(clock: ClockId) -> io::Result<ClockSample> {
    let before = read_ns(ClockId::CLOCK_MONOTONIC)?;
    let other = read_ns(clock)?;
    let after = read_ns(ClockId::CLOCK_MONOTONIC)?;
    Ok(tie(before, other, after))
}

/// The other clock showed `other` at some instant between `before` and `after`, so the offset is known to within half of
/// their distance.
const fn tie(before: i64, other: i64, after: i64) -> ClockSample {
    let width = after - before;
    ClockSample {
        offset_ns: other - (before + width / 2),
        // Rounded up, so that the bound stays one.
        error_ns: ((width + 1) / 2).cast_unsigned(),
    }
}

fn read_ns(clock: ClockId) -> io::Result<i64> {
    let time = clock_gettime(clock)?;
    Ok(time.tv_sec() * 1_000_000_000 + time.tv_nsec())
}

/// Notices when the monotonic clock is slewed faster than NTP does: compares it with the one that nobody slews.
#[derive(Debug, Default)]
pub(crate) struct SlewWatcher {
    before: Option<Reading>,
}

/// The two clocks at one instant.
#[derive(Clone, Copy, Debug)]
struct Reading {
    monotonic_ns: i64,
    raw_ns: i64,
}

/// A slew that is faster than NTP's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FastSlew {
    pub(crate) since: MonotonicNs,
    /// By how many millionths the clock ran faster or slower than the one that nobody slews, on average.
    pub(crate) ppm: u64,
}

impl SlewWatcher {
    /// Compares the clocks with what they showed at the last call. To be called about once a second.
    ///
    /// # Errors
    /// The system call's.
    pub(crate) fn look(&mut self) -> io::Result<Option<FastSlew>> {
        let now = Reading::take()?;
        let before = self.before.replace(now);
        Ok(before.and_then(|before| before.fast_slew_until(now)))
    }
}

impl Reading {
    fn take() -> io::Result<Self> {
        let raw = tied_to(ClockId::CLOCK_MONOTONIC_RAW)?;
        let monotonic_ns = read_ns(ClockId::CLOCK_MONOTONIC)?;
        Ok(Self { monotonic_ns, raw_ns: monotonic_ns + raw.offset_ns })
    }

    fn fast_slew_until(self, now: Self) -> Option<FastSlew> {
        let (passed, raw) = (now.monotonic_ns - self.monotonic_ns, now.raw_ns - self.raw_ns);
        let ppm = passed.abs_diff(raw).saturating_mul(1_000_000) / raw.unsigned_abs().max(1);
        // The other clock's crystal is off too, and NTP makes up for that.
        let is_fast = ppm > MOST_SLEW_PPM + MOST_CRYSTAL_PPM;
        is_fast.then(|| FastSlew { since: MonotonicNs(self.monotonic_ns.cast_unsigned()), ppm })
    }
}

/// Reports when somebody sets the wall clock (`settimeofday`, `chronyc makestep`, resume from suspend). Slewing is not a
/// step: it changes the clock's rate, and a new sample at the end shows by how much.
#[derive(Debug)]
pub(crate) struct StepWatcher {
    timer: AsyncFd<Timer>,
}

impl StepWatcher {
    /// Arms the watcher. Needs a tokio runtime.
    ///
    /// # Errors
    /// The system calls'.
    #[expect(deprecated, reason = "meant for types that may swap their descriptor; this one keeps its own")]
    pub(crate) fn new() -> io::Result<Self> {
        let timer = TimerFd::new(
            timerfd::ClockId::CLOCK_REALTIME,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        // The kernel cancels only a timer that is armed for an absolute wall time. So arm it for one that is far away:
        // 2^32 s after the epoch, in the year 2106.
        timer.set(
            Expiration::OneShot(TimeSpec::new(1 << 32, 0)),
            TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET,
        )?;
        Ok(Self { timer: AsyncFd::new(Timer(timer))? })
    }

    /// Waits for the next step. May be dropped and called again without missing one.
    ///
    /// # Errors
    /// The system call's.
    pub(crate) async fn stepped(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.timer.readable().await?;
            match nix::unistd::read(self.timer.get_ref().0.as_fd(), &mut [0; 8]) {
                Err(Errno::ECANCELED) => return Ok(()),
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(Errno::EINTR) | Ok(_) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// `TimerFd` in the form that tokio requires.
#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::host::testing::block_on;

    proptest! {
        #[test]
        fn the_error_covers_every_instant_at_which_the_wall_clock_may_have_been_read(
            before in 0..i64::MAX / 4, width in 0..10_000_000_000_i64, part in 0.0..=1.0_f64, offset in 0..i64::MAX / 4,
        ) {
            let read_at = before + (width as f64 * part) as i64;
            let sample = tie(before, read_at + offset, before + width);
            prop_assert!((sample.offset_ns - offset).unsigned_abs() <= sample.error_ns, "{sample:?}");
        }
    }

    #[test]
    fn two_samples_agree_to_within_their_errors() {
        let (first, second) = (sample().unwrap(), sample().unwrap());
        // The wall clock may be slewed by 500 ppm while the two are taken.
        let apart = (first.offset_ns - second.offset_ns).unsigned_abs();
        assert!(apart <= first.error_ns + second.error_ns + 100_000, "{first:?} {second:?}");
        assert!(first.error_ns < 1_000_000, "the tightest of many brackets is far below 1 ms: {first:?}");
    }

    #[test]
    fn the_offset_gives_wall_time() {
        let sample = sample().unwrap();
        let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let apart = sample.realtime_ns(now().unwrap()) - i64::try_from(wall.as_nanos()).unwrap();
        assert!(apart.unsigned_abs() < 1_000_000_000, "{apart} ns from the wall clock");
    }

    #[test]
    fn a_watcher_stays_silent_while_nobody_sets_the_clock() {
        block_on(async {
            let mut watcher = StepWatcher::new().unwrap();
            tokio::time::timeout(Duration::from_millis(50), watcher.stepped()).await.unwrap_err();
        });
    }

    #[test]
    #[ignore = "sets the machine's wall clock (to what it is)"]
    fn a_watcher_reports_every_step() {
        block_on(async {
            let mut watcher = StepWatcher::new().unwrap();
            for _ in 0..3 {
                let time = clock_gettime(ClockId::CLOCK_REALTIME).unwrap();
                nix::time::clock_settime(ClockId::CLOCK_REALTIME, time).unwrap();
                tokio::time::timeout(Duration::from_secs(5), watcher.stepped()).await.unwrap().unwrap();
                tokio::time::timeout(Duration::from_millis(50), watcher.stepped()).await.unwrap_err();
            }
        });
    }

    #[test]
    fn only_a_slew_faster_than_ntps_is_noticed() {
        let begin = Reading { monotonic_ns: 5_000_000_000, raw_ns: 4_000_000_000 };
        let after = |slewed_ns: i64| {
            let now = Reading { monotonic_ns: 6_000_000_000 + slewed_ns, raw_ns: 5_000_000_000 };
            begin.fast_slew_until(now).map(|slew| (slew.since.0, slew.ppm))
        };
        assert_eq!(after(600_000), None);
        assert_eq!(after(-600_000), None);
        assert_eq!(after(2_000_000), Some((5_000_000_000, 2_000)));
        assert_eq!(after(-80_000_000), Some((5_000_000_000, 80_000)));
    }

    #[test]
    fn this_machines_clock_is_not_slewed_fast() {
        let mut watcher = SlewWatcher::default();
        assert_eq!(watcher.look().unwrap(), None);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(watcher.look().unwrap(), None);
    }
}
