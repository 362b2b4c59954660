//! How much user space is told of what guests can make come often: so much at once, and again as time passes.

/// How many announcements of a tap are told at once. After them there is one for every part of [`WINDOW_NS`].
pub const ANNOUNCEMENTS: u64 = 256;
/// In this time a budget that is used up is whole again, in nanoseconds.
pub const WINDOW_NS: u64 = 60_000_000_000;

/// What one announcement takes, in nanoseconds of that time.
const COST_NS: u64 = WINDOW_NS / ANNOUNCEMENTS;

/// Takes one from a budget; `None` when nothing is left.
///
/// The budget is the instant until which it is spent: 0 at first. It is whole when that has passed.
#[inline(always)]
#[must_use]
pub const fn spend(spent_until_ns: u64, now_ns: u64) -> Option<u64> {
    let from_ns = if spent_until_ns > now_ns { spent_until_ns } else { now_ns };
    let until_ns = from_ns.wrapping_add(COST_NS);
    if until_ns.wrapping_sub(now_ns) <= WINDOW_NS { Some(until_ns) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START_NS: u64 = 1_000_000_000_000;

    /// How many can be taken at an instant.
    fn taken(budget: &mut u64, now_ns: u64) -> u64 {
        let mut taken = 0;
        while let Some(spent) = spend(*budget, now_ns) {
            *budget = spent;
            taken += 1;
        }
        taken
    }

    #[test]
    fn a_whole_budget_can_be_spent_at_once_and_not_more() {
        let mut budget = 0;
        assert_eq!(taken(&mut budget, START_NS), ANNOUNCEMENTS);
        assert_eq!(taken(&mut budget, START_NS), 0);
        assert_eq!(taken(&mut budget, START_NS + COST_NS - 1), 0);
    }

    #[test]
    fn it_fills_again_with_time_but_never_beyond_its_measure() {
        let mut budget = 0;
        taken(&mut budget, START_NS);
        assert_eq!(taken(&mut budget, START_NS + COST_NS), 1);
        assert_eq!(taken(&mut budget, START_NS + 11 * COST_NS), 10);
        assert_eq!(taken(&mut budget, START_NS + 12 * COST_NS + WINDOW_NS), ANNOUNCEMENTS);
        assert_eq!(taken(&mut budget, START_NS + 1_000 * WINDOW_NS), ANNOUNCEMENTS);
    }

    #[test]
    fn what_comes_rarely_enough_is_told_for_ever() {
        let mut budget = 0;
        // VRRP announces once a second, and more often where its timers are short.
        for second in 0..100_000 {
            let spent = spend(budget, START_NS + second * 1_000_000_000);
            budget = spent.expect("a whole budget");
        }
    }

    #[test]
    fn a_stamp_of_another_cpu_that_is_a_little_older_changes_little() {
        let budget = spend(0, START_NS).unwrap();
        assert_eq!(spend(budget, START_NS - 1_000), Some(budget + COST_NS));
    }
}
