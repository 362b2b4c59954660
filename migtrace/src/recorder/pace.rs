//! When to look what the events mean, so that looking never takes most of the time.

use std::time::Duration;

use tokio::time::Instant;

/// QMP events are examined at once. There are many other facts, so whether one of them ended the migration may be found
/// out this much later.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After a look, the next one waits this many times as long as it took. Each look goes through all events so far, and a QEMU
/// may write very many.
const LOOK_REST: u32 = 10;

/// When there was a look, how long it took, and whether another is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    looked: Instant,
    took: Duration,
    /// Something has happened since the last look.
    unexamined: bool,
    /// How many share the time: each rests this many times longer.
    sharing: u32,
}

impl Pace {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { looked: now, took: Duration::ZERO, unexamined: false, sharing: 1 }
    }

    /// From now on, so many share the time.
    pub(crate) const fn share(&mut self, sharing: u32) {
        self.sharing = sharing;
    }

    /// Something has happened. Returns whether to look `now`; a turning point is looked at as soon as the rest is over.
    pub(crate) fn happened(&mut self, now: Instant, is_turning_point: bool) -> bool {
        self.unexamined = true;
        let every = if is_turning_point { Duration::ZERO } else { LOOK_EVERY };
        now >= self.looked + self.pause(every)
    }

    /// A look from `begun` on is over `now`.
    pub(crate) fn looked(&mut self, begun: Instant, now: Instant) {
        self.looked = now;
        self.took = now.saturating_duration_since(begun);
        self.unexamined = false;
    }

    /// When to look again if nothing happens before; `None` when nothing has happened since the last look.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.unexamined.then(|| self.looked + self.pause(LOOK_EVERY))
    }

    /// How long to wait after a look before the next, which is due after `every` at the earliest.
    fn pause(&self, every: Duration) -> Duration {
        every.max(self.took * LOOK_REST * self.sharing.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_look_is_followed_by_a_long_rest_and_by_a_longer_one_if_several_share_the_time() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut pace = Pace::new(start);
        assert_eq!(pace.next_look(), None);
        assert!(pace.happened(start, true) && !pace.happened(start, false));
        assert_eq!(pace.next_look(), Some(start + ms(100)));
        pace.looked(start, start + ms(50));
        assert_eq!(pace.next_look(), None);
        assert!(!pace.happened(start + ms(549), true) && pace.happened(start + ms(550), false));
        pace.share(20);
        assert_eq!(pace.next_look(), Some(start + ms(50 + 50 * 10 * 20)));
    }
}
