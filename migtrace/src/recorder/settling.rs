//! How long a recording goes on after the awaited migration has ended.

use std::time::Duration;

use tokio::time::Instant;

use crate::timeline::Ended;

/// How long to wait, after a migration has ended, for its last packets and for QEMU's last event about it.
const SETTLE: Duration = Duration::from_secs(1);
/// How long to wait until a guest that has arrived runs: its manager starts it, which may take a while.
pub(crate) const GUEST_PATIENCE: Duration = Duration::from_secs(60);
/// How long to watch a probed guest after its migration has ended: the network may lose it only then.
const WATCH_AFTER: Duration = Duration::from_secs(1);
/// How long to wait, after a migration has ended, for a probed guest that is silent.
const SILENCE_PATIENCE: Duration = Duration::from_secs(30);

/// The wait after the end of the awaited migration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settling {
    /// When the migration was found to have ended.
    ended: Instant,
    /// When the rest of the wait began. That is the end or, where the guest did not run yet, when it was found to run.
    /// `None` while the guest is still awaited.
    calm: Option<Instant>,
}

impl Settling {
    /// The migration was found `now` to have ended.
    pub(crate) fn new(now: Instant, end: &Ended) -> Self {
        Self { ended: now, calm: (!end.awaits_guest).then_some(now) }
    }

    /// The migration has ended, as another host has seen; nothing of it was seen here.
    pub(crate) fn elsewhere(now: Instant) -> Self {
        Self { ended: now, calm: Some(now) }
    }

    /// Whether everything that is waited for has come. `end` is what is known `now`.
    pub(crate) fn has_settled(&mut self, now: Instant, end: Option<&Ended>) -> bool {
        let Some(calm) = self.calm(now, end) else { return false };
        let is_over = |end: &Ended| end.flows_closed && end.all_seen;
        now >= calm + SETTLE || end.is_some_and(is_over)
    }

    /// When the rest of the wait began; `None` while the guest is awaited.
    fn calm(&mut self, now: Instant, end: Option<&Ended>) -> Option<Instant> {
        if self.calm.is_none() {
            let awaited = end.is_some_and(|end| end.awaits_guest);
            self.calm = match awaited {
                true if now < self.ended + GUEST_PATIENCE => None,
                // It was waited for long enough: nothing more is expected.
                true => Some(self.ended),
                false => Some(now),
            };
        }
        self.calm
    }

    /// Whether to go on watching a probed guest, which is silent now or is not.
    pub(crate) fn watches(&self, now: Instant, is_silent: bool) -> bool {
        let Some(calm) = self.calm else { return true };
        now < calm + if is_silent { SILENCE_PATIENCE } else { WATCH_AFTER }
    }

    /// When to look again if nothing happens before; `None` when that time is over and only a probed guest is waited for.
    pub(crate) fn next_look(&self, now: Instant) -> Option<Instant> {
        let look = self.calm.map_or(self.ended + GUEST_PATIENCE, |calm| calm + SETTLE);
        (look > now).then_some(look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Mode, Outcome, Role};
    use crate::units::MonotonicNs;

    const MS: Duration = Duration::from_millis(1);

    /// A migration that has ended; its guest may be still to run, or everything about it may be known.
    fn ended(awaits_guest: bool, all_seen: bool) -> Ended {
        Ended {
            pid: Some(7),
            at: MonotonicNs(0),
            outcome: Outcome::Completed,
            role: Role::Source,
            mode: Mode::Precopy,
            flows_closed: true,
            all_seen,
            awaits_guest,
        }
    }

    #[test]
    fn a_source_settles_a_second_after_the_end_or_once_everything_is_known() {
        let start = Instant::now();
        let (known, unknown) = (ended(false, true), ended(false, false));
        let mut settling = Settling::new(start, &unknown);
        assert_eq!(settling.next_look(start), Some(start + SETTLE));
        assert!(!settling.has_settled(start + SETTLE - MS, Some(&unknown)));
        assert!(settling.has_settled(start + MS, Some(&known)));
        assert!(settling.has_settled(start + SETTLE, Some(&unknown)));
        assert_eq!(settling.next_look(start + SETTLE), None, "there is no busy loop");
    }

    #[test]
    fn a_guest_that_does_not_run_yet_is_waited_for_and_then_settles_like_any_other() {
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
    fn a_guest_is_not_waited_for_after_its_qemu_has_ended() {
        let start = Instant::now();
        let mut settling = Settling::new(start, &ended(true, false));
        assert!(!settling.has_settled(start + 2 * SETTLE, Some(&ended(true, false))));
        // Its QEMU is gone: nothing more is expected.
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
