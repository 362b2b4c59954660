//! When a recording is over: for how long it goes on after the awaited migration has ended.

use std::time::Duration;

use tokio::time::Instant;

use crate::timeline::Ended;

/// How long is waited, after a migration has ended, for its last packets and for QEMU's last word about it.
const SETTLE: Duration = Duration::from_secs(1);
/// How long is waited for a guest that has arrived to run: its manager lets it, and may take its time.
const GUEST_PATIENCE: Duration = Duration::from_secs(60);
/// For how long a probed guest is watched after its migration has ended: the network may lose it only then.
const WATCH_AFTER: Duration = Duration::from_secs(1);
/// How long is waited, after a migration has ended, for a probed guest that is silent.
const SILENCE_PATIENCE: Duration = Duration::from_secs(30);

/// The wait after the end of the awaited migration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settling {
    /// When the migration was found to have ended.
    ended: Instant,
    /// When the rest of the wait began: with the end, or where the guest was still to run, when it was found to run.
    /// None while it is still awaited.
    calm: Option<Instant>,
}

impl Settling {
    /// The migration was found `now` to have ended.
    pub(super) fn new(now: Instant, end: &Ended) -> Self {
        Self { ended: now, calm: (!end.awaits_guest).then_some(now) }
    }

    /// Whether all has come that is waited for. `end` is what is known `now`.
    pub(super) fn has_settled(&mut self, now: Instant, end: Option<&Ended>) -> bool {
        let Some(calm) = self.calm(now, end) else { return false };
        let is_over = |end: &Ended| end.flows_closed && end.all_told;
        now >= calm + SETTLE || end.is_some_and(is_over)
    }

    /// When the rest of the wait began; none while the guest is awaited.
    fn calm(&mut self, now: Instant, end: Option<&Ended>) -> Option<Instant> {
        if self.calm.is_none() {
            let awaited = end.is_some_and(|end| end.awaits_guest);
            self.calm = match awaited {
                true if now < self.ended + GUEST_PATIENCE => None,
                // It was waited for long enough: there is nothing more to come.
                true => Some(self.ended),
                false => Some(now),
            };
        }
        self.calm
    }

    /// Whether a probed guest that is silent now, or not, may still be or fall silent.
    pub(super) fn watches(&self, now: Instant, is_silent: bool) -> bool {
        let Some(calm) = self.calm else { return true };
        now < calm + if is_silent { SILENCE_PATIENCE } else { WATCH_AFTER }
    }

    /// When to look again if nothing happens before; none when that time is over and only a probed guest is waited for.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        let look = self.calm.map_or(self.ended + GUEST_PATIENCE, |calm| calm + SETTLE);
        (look > now).then_some(look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Outcome;
    use crate::units::MonotonicNs;

    const MS: Duration = Duration::from_millis(1);

    /// A migration that has ended, with a guest that is still to run, and with one that has told all.
    fn ended(awaits_guest: bool, all_told: bool) -> Ended {
        Ended {
            pid: Some(7),
            at: MonotonicNs(0),
            outcome: Outcome::Completed,
            flows_closed: true,
            all_told,
            awaits_guest,
        }
    }

    #[test]
    fn a_source_is_over_a_second_after_its_end_or_when_all_is_told() {
        let start = Instant::now();
        let (told, untold) = (ended(false, true), ended(false, false));
        let mut settling = Settling::new(start, &untold);
        assert_eq!(settling.next_look(start), Some(start + SETTLE));
        assert!(!settling.has_settled(start + SETTLE - MS, Some(&untold)));
        assert!(settling.has_settled(start + MS, Some(&told)));
        assert!(settling.has_settled(start + SETTLE, Some(&untold)));
        assert_eq!(settling.next_look(start + SETTLE), None, "nobody spins");
    }

    #[test]
    fn a_guest_that_is_still_to_run_is_waited_for_and_then_settles_as_any_other() {
        let start = Instant::now();
        let mut settling = Settling::new(start, &ended(true, false));
        let (late, ran) = (start + 20 * SETTLE, start + 21 * SETTLE);
        assert!(!settling.has_settled(late, Some(&ended(true, false))));
        assert_eq!(settling.next_look(late), Some(start + GUEST_PATIENCE));
        assert!(settling.watches(late, false), "whatever else is waited for");
        assert!(!settling.has_settled(ran, Some(&ended(false, false))));
        assert_eq!(settling.next_look(ran), Some(ran + SETTLE));
        assert!(
            settling.watches(ran + WATCH_AFTER - MS, false) && !settling.watches(ran + WATCH_AFTER, false)
        );
        assert!(settling.watches(ran + SILENCE_PATIENCE - MS, true));
        assert!(settling.has_settled(ran + MS, Some(&ended(false, true))));
        assert!(settling.has_settled(ran + SETTLE, Some(&ended(false, false))));
    }

    #[test]
    fn a_guest_whose_qemu_ends_is_waited_for_no_longer() {
        let start = Instant::now();
        let mut settling = Settling::new(start, &ended(true, false));
        assert!(!settling.has_settled(start + 2 * SETTLE, Some(&ended(true, false))));
        // Its QEMU is gone: there is nothing more to be told.
        assert!(settling.has_settled(start + 3 * SETTLE, Some(&ended(false, true))));
    }

    #[test]
    fn a_guest_that_never_runs_is_given_up_after_a_minute() {
        let start = Instant::now();
        let mut settling = Settling::new(start, &ended(true, false));
        assert!(!settling.has_settled(start + GUEST_PATIENCE - MS, Some(&ended(true, false))));
        assert!(settling.has_settled(start + GUEST_PATIENCE, Some(&ended(true, false))));
        assert!(!settling.watches(start + GUEST_PATIENCE, true), "a guest that does not run does not answer");
    }
}
