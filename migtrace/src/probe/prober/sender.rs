//! Sends echo requests at fixed times.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};

use super::socket::EchoSocket;
use crate::host::clock;
use crate::kernel::be_punctual;

/// The longest sleep, so that a request to stop is noticed soon.
const NAP_NS: u64 = 50_000_000;

/// When to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// Time between two requests.
    pub(super) interval: Duration,
    /// How many; none: no limit.
    pub(super) count: Option<u64>,
}

/// What became of the sending.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Requests that the kernel refused.
    pub(super) refused: u64,
    /// Why it refused the last of these.
    pub(super) last_refusal: Option<io::Error>,
}

/// A thread that sends.
#[derive(Debug)]
pub(super) struct Sender {
    thread: JoinHandle<io::Result<Sent>>,
    stop: Arc<AtomicBool>,
}

impl Sender {
    /// Starts sending.
    pub(super) fn start(socket: EchoSocket, schedule: Schedule) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name("migtrace-sender".into()).spawn(move || {
            be_punctual();
            send(socket, schedule, &stopped)
        })?;
        Ok(Self { thread, stop })
    }

    /// Whether everything was sent, or nothing more can be.
    pub(super) fn is_done(&self) -> bool {
        self.thread.is_finished()
    }

    /// Stops sending; blocks for up to [`NAP_NS`].
    pub(super) fn stop(self) -> io::Result<Sent> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the sending thread panicked")))
    }
}

fn send(mut socket: EchoSocket, schedule: Schedule, stop: &AtomicBool) -> io::Result<Sent> {
    let interval_ns = u64::try_from(schedule.interval.as_nanos()).unwrap_or(u64::MAX).max(1);
    let mut sent = Sent::default();
    let mut deadline_ns = clock::now()?.0;
    let mut number: u64 = 0;
    let mut sequence: u16 = 0;
    while schedule.count.is_none_or(|count| number < count) {
        if !sleep_until(deadline_ns, stop)? {
            break;
        }
        match socket.send(sequence) {
            Ok(()) => sequence = sequence.wrapping_add(1),
            Err(error) => {
                sent.refused += 1;
                sent.last_refusal = Some(error);
            }
        }
        number += 1;
        deadline_ns = next_deadline(deadline_ns, interval_ns, clock::now()?.0);
    }
    Ok(sent)
}

/// The next of the fixed times. Missed ones are skipped: catching up would send a burst.
const fn next_deadline(deadline_ns: u64, interval_ns: u64, now_ns: u64) -> u64 {
    let next_ns = deadline_ns.saturating_add(interval_ns);
    if next_ns >= now_ns {
        return next_ns;
    }
    next_ns.saturating_add((now_ns - next_ns).div_ceil(interval_ns).saturating_mul(interval_ns))
}

/// Returns false if sending is to stop.
fn sleep_until(deadline_ns: u64, stop: &AtomicBool) -> io::Result<bool> {
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let now_ns = clock::now()?.0;
        if now_ns >= deadline_ns {
            return Ok(true);
        }
        let until_ns = deadline_ns.min(now_ns + NAP_NS);
        let until = TimeSpec::from_duration(Duration::from_nanos(until_ns));
        match clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missed_times_are_skipped_and_the_others_kept() {
        assert_eq!(next_deadline(1_000, 100, 1_010), 1_100);
        assert_eq!(next_deadline(1_000, 100, 1_100), 1_100);
        assert_eq!(next_deadline(1_000, 100, 1_101), 1_200);
        assert_eq!(next_deadline(1_000, 100, 1_950), 2_000);
        assert_eq!(next_deadline(u64::MAX - 1, 100, u64::MAX), u64::MAX);
    }
}
