//! The facts that were lost, and when.

use std::sync::OnceLock;

use crate::units::MonotonicNs;
use crate::vocabulary::Lost;

/// How long before its report a loss may have happened, where the log does not say: losses are counted about once a
/// second.
const WINDOW_NS: u64 = 2_000_000_000;

/// Lost facts, each time that more of them were counted.
#[derive(Clone, Debug, Default)]
pub(super) struct Losses {
    found: Vec<Loss>,
    so_far: Lost,
    /// Computed on demand, and dropped when more is lost.
    sums: OnceLock<Sums>,
}

/// Facts that were lost between two instants.
#[derive(Clone, Copy, Debug)]
struct Loss {
    since: MonotonicNs,
    until: MonotonicNs,
    lost: Lost,
}

/// What was lost until each instant; needed for every migration of a log.
#[derive(Clone, Debug)]
struct Sums {
    /// By the latest instant before each loss, with the sum of all losses up to it.
    by_since: Vec<(MonotonicNs, Lost)>,
    /// By the earliest instant after each loss, with the sum of all losses up to it.
    by_until: Vec<(MonotonicNs, Lost)>,
}

impl Losses {
    /// Takes in what was lost `so_far`, as counted at `at`. The count before was at `since`.
    pub(super) fn push(&mut self, at: MonotonicNs, since: Option<MonotonicNs>, so_far: Lost) {
        let lost = less(so_far, self.so_far);
        if lost == Lost::default() {
            return;
        }
        let since = since.unwrap_or(MonotonicNs(at.0.saturating_sub(WINDOW_NS)));
        self.found.push(Loss { since: since.min(at), until: at, lost });
        self.so_far = plus(self.so_far, lost);
        self.sums.take();
    }

    /// The losses that may have happened between two instants.
    pub(super) fn between(&self, start: MonotonicNs, end: MonotonicNs) -> Lost {
        let sums = self.sums.get_or_init(|| Sums::of(&self.found));
        let begun = until(&sums.by_since, |at| at <= end.max(start));
        less(begun, until(&sums.by_until, |at| at < start))
    }
}

impl Sums {
    fn of(found: &[Loss]) -> Self {
        let sums = |at: fn(&Loss) -> MonotonicNs| {
            let mut losses: Vec<_> = found.iter().map(|loss| (at(loss), loss.lost)).collect();
            losses.sort_by_key(|(at, _)| *at);
            let mut sum = Lost::default();
            for (_, lost) in &mut losses {
                sum = plus(sum, *lost);
                *lost = sum;
            }
            losses
        };
        Self { by_since: sums(|loss| loss.since), by_until: sums(|loss| loss.until) }
    }
}

fn until(sums: &[(MonotonicNs, Lost)], early: impl Fn(MonotonicNs) -> bool) -> Lost {
    let count = sums.partition_point(|(at, _)| early(*at));
    count.checked_sub(1).map_or_else(Lost::default, |last| sums[last].1)
}

/// The sum of two.
pub(super) const fn plus(a: Lost, b: Lost) -> Lost {
    Lost {
        ring_buffer: a.ring_buffer.saturating_add(b.ring_buffer),
        flows: a.flows.saturating_add(b.flows),
        hook_calls: a.hook_calls.saturating_add(b.hook_calls),
        qmp_lines: a.qmp_lines.saturating_add(b.qmp_lines),
        vcpus: a.vcpus.saturating_add(b.vcpus),
    }
}

/// What `a` has more than `b`.
pub(crate) const fn less(a: Lost, b: Lost) -> Lost {
    Lost {
        ring_buffer: a.ring_buffer.saturating_sub(b.ring_buffer),
        flows: a.flows.saturating_sub(b.flows),
        hook_calls: a.hook_calls.saturating_sub(b.hook_calls),
        qmp_lines: a.qmp_lines.saturating_sub(b.qmp_lines),
        vcpus: a.vcpus.saturating_sub(b.vcpus),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(ring_buffer: u64) -> Lost {
        Lost { ring_buffer, ..Lost::default() }
    }

    #[test]
    fn a_loss_may_have_happened_at_any_time_since_the_count_before_it() {
        let mut losses = Losses::default();
        losses.push(MonotonicNs(20), Some(MonotonicNs(10)), lost(1));
        losses.push(MonotonicNs(40), Some(MonotonicNs(30)), lost(3));
        // Counted again, and nothing more.
        losses.push(MonotonicNs(50), Some(MonotonicNs(40)), lost(3));
        let between = |from, to| losses.between(MonotonicNs(from), MonotonicNs(to)).ring_buffer;
        assert_eq!(between(0, 9), 0);
        assert_eq!(between(0, 10), 1);
        assert_eq!(between(20, 29), 1);
        assert_eq!(between(21, 29), 0);
        assert_eq!(between(20, 30), 3);
        assert_eq!(between(40, 99), 2);
        assert_eq!(between(41, 99), 0);
        losses.push(MonotonicNs(90), None, lost(7));
        assert_eq!(losses.between(MonotonicNs(41), MonotonicNs(99)), lost(4));
    }
}
