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
    Ok(Bracket::tightest(ClockId::CLOCK_REALTIME)?.tie())
}

/// Another clock, read between two readings of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug)]
struct Bracket {
    before: i64,
    other: i64,
    after: i64,
}

impl Bracket {
    /// The tightest of several: a thread may be interrupted between two readings.
    fn tightest(clock: ClockId) -> io::Result<Self> {
        let mut tightest = Self::read(clock)?;
        for _ in 1..BRACKETS {
            let next = Self::read(clock)?;
            if next.width() < tightest.width() {
                tightest = next;
            }
        }
        Ok(tightest)
    }

    fn read(clock: ClockId) -> io::Result<Self> {
        let before = read_ns(ClockId::CLOCK_MONOTONIC)?;
        let other = read_ns(clock)?;
        let after = read_ns(ClockId::CLOCK_MONOTONIC)?;
        Ok(Self { before, other, after })
    }

    const fn width(self) -> i64 {
        self.after - self.before
    }

    const fn middle(self) -> i64 {
        self.before + self.width() / 2
    }

    /// The other clock showed what it did at some instant in the bracket, so the offset is known to within half of its width.
    const fn tie(self) -> ClockSample {
        ClockSample {
            offset_ns: self.other - self.middle(),
            // Rounded up, so that the bound stays one.
            error_ns: ((self.width() + 1) / 2).cast_unsigned(),
        }
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
    /// The fastest slew that it has reported.
    fastest_ppm: u64,
}

/// The two clocks at one instant.
#[derive(Clone, Copy, Debug)]
struct Reading {
    monotonic_ns: i64,
    raw_ns: i64,
    /// How far the two may have been read apart.
    error_ns: u64,
}

/// A slew that is faster than NTP's.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FastSlew {
    pub(crate) since: MonotonicNs,
    /// By how many millionths, at most, the clock ran faster or slower than the one that nobody slews, on average.
    pub(crate) ppm: u64,
}

impl SlewWatcher {
    /// Compares the clocks with what they showed at the last call, and returns a slew that is faster than all before. One
    /// that began since is faster than its average, so the calls must be close together, and the last one where the
    /// recording ends.
    ///
    /// # Errors
    /// The system call's.
    pub(crate) fn look(&mut self) -> io::Result<Option<FastSlew>> {
        Ok(self.compare(Reading::take()?))
    }

    fn compare(&mut self, now: Reading) -> Option<FastSlew> {
        let slew = self.before.replace(now)?.fast_slew_until(now)?;
        let is_faster = slew.ppm > self.fastest_ppm;
        self.fastest_ppm = self.fastest_ppm.max(slew.ppm);
        is_faster.then_some(slew)
    }
}

impl Reading {
    fn take() -> io::Result<Self> {
        let bracket = Bracket::tightest(ClockId::CLOCK_MONOTONIC_RAW)?;
        let error_ns = bracket.tie().error_ns;
        Ok(Self { monotonic_ns: bracket.middle(), raw_ns: bracket.other, error_ns })
    }

    fn fast_slew_until(self, now: Self) -> Option<FastSlew> {
        let (passed, raw) = (now.monotonic_ns - self.monotonic_ns, now.raw_ns - self.raw_ns);
        let (slewed_ns, error_ns) = (passed.abs_diff(raw), self.error_ns + now.error_ns);
        let ppm = |ns: u64| ns.saturating_mul(1_000_000).div_ceil(raw.unsigned_abs().max(1));
        // The other clock's crystal is off too, and NTP makes up for that.
        let is_fast = ppm(slewed_ns.saturating_sub(error_ns)) > MOST_SLEW_PPM + MOST_CRYSTAL_PPM;
        let ppm = ppm(slewed_ns + error_ns);
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
            let sample = Bracket { before, other: read_at + offset, after: before + width }.tie();
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
        let apart = sample.realtime_ns(now().unwrap()) - crate::wall_clock::realtime_ns().cast_signed();
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
    fn only_a_slew_that_is_surely_faster_than_ntps_is_noticed() {
        let begin = Reading { monotonic_ns: 5_000_000_000, raw_ns: 4_000_000_000, error_ns: 50_000 };
        let after = |slewed_ns: i64| {
            let now =
                Reading { monotonic_ns: 6_000_000_000 + slewed_ns, raw_ns: 5_000_000_000, error_ns: 50_000 };
            begin.fast_slew_until(now).map(|slew| (slew.since.0, slew.ppm))
        };
        assert_eq!(after(600_000), None);
        assert_eq!(after(-700_000), None);
        assert_eq!(after(700_001), Some((5_000_000_000, 801)));
        assert_eq!(after(2_000_000), Some((5_000_000_000, 2_100)));
        assert_eq!(after(-80_000_000), Some((5_000_000_000, 80_100)));
    }

    #[test]
    fn a_slew_that_began_between_two_looks_is_noticed_again_with_its_whole_rate() {
        let mut watcher = SlewWatcher::default();
        let mut raw_ns = 0;
        let mut ppm_after = |slewed_ns| {
            raw_ns += 100_000_000;
            let reading = Reading { monotonic_ns: raw_ns + slewed_ns, raw_ns, error_ns: 0 };
            watcher.compare(reading).map(|slew| slew.ppm)
        };
        // 5,000 millionths from the middle between the second look and the third.
        let slewed_ns = [0, 0, 250_000, 750_000, 1_250_000];
        assert_eq!(slewed_ns.map(&mut ppm_after), [None, None, Some(2_500), Some(5_000), None]);
        // A slower one changes nothing.
        assert_eq!(ppm_after(1_350_000), None);
        assert_eq!(ppm_after(1_950_000), Some(6_000));
    }

    #[test]
    fn this_machines_clock_is_not_slewed_fast() {
        let mut watcher = SlewWatcher::default();
        assert_eq!(watcher.look().unwrap(), None);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(watcher.look().unwrap(), None);
    }
}
