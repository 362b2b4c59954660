//! What happens again and again.

use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Ticks at once, and then again and again. Those that are late are skipped.
pub(crate) fn ticks(every: Duration) -> Interval {
    ticks_from(Instant::now(), every)
}

/// The same from an instant on.
pub(crate) fn ticks_from(first: Instant, every: Duration) -> Interval {
    let mut ticks = interval_at(first, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}
