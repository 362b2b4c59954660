//! How much one process may tell: so much at once, and so much a second.
//!
//! A token bucket in one word, so that two threads of a process that race for it lose or gain a token and no more.

/// Tokens of a full bucket.
pub const BURST: u64 = 1_000;

/// Tokens that come back in a second.
pub const PER_SECOND: u64 = 200;

/// One token for each begun piece of so many bytes.
pub const TOKEN_BYTES: u64 = 256;

const TOKEN_NS: u64 = 1_000_000_000 / PER_SECOND;

/// A token bucket. All zero: a full one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Budget {
    /// When the bucket will be full again, on `CLOCK_MONOTONIC`.
    full_at_ns: u64,
}

impl Budget {
    /// The bucket after `bytes` were told at `now_ns`; `None` when it has not as many tokens as they cost.
    #[inline(always)]
    #[must_use]
    pub fn after(self, bytes: u64, now_ns: u64) -> Option<Self> {
        let cost_ns = (bytes / TOKEN_BYTES).saturating_add(1).saturating_mul(TOKEN_NS);
        let full_at_ns = self.full_at_ns.max(now_ns).saturating_add(cost_ns);
        if full_at_ns - now_ns <= BURST * TOKEN_NS { Some(Self { full_at_ns }) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// How many of `bytes` bytes each are granted at the instants.
    fn granted(bytes: u64, instants: impl IntoIterator<Item = u64>) -> u64 {
        let mut budget = Budget::default();
        instants.into_iter().fold(0, |granted, now_ns| match budget.after(bytes, now_ns) {
            Some(after) => {
                budget = after;
                granted + 1
            }
            None => granted,
        })
    }

    #[test]
    fn a_flood_gets_the_burst_and_then_the_rate() {
        let flood = |seconds: u64| (0..seconds * 10_000).map(|step| 7 + step * SECOND_NS / 10_000);
        assert_eq!(granted(100, flood(1)), BURST + PER_SECOND - 1);
        assert_eq!(granted(100, flood(10)), BURST + 10 * PER_SECOND - 1);
    }

    #[test]
    fn long_lines_cost_more() {
        let at_once = |bytes| granted(bytes, [0; 5_000]);
        assert_eq!(at_once(0), BURST);
        assert_eq!(at_once(TOKEN_BYTES - 1), BURST);
        assert_eq!(at_once(TOKEN_BYTES), BURST / 2);
        assert_eq!(at_once(4_096), BURST / 17);
        assert_eq!(at_once(u64::MAX), 0);
    }

    #[test]
    fn what_was_spent_comes_back() {
        let drained = [0; 2_000];
        let later = [20 * SECOND_NS; 2_000];
        assert_eq!(granted(100, drained.into_iter().chain(later)), 2 * BURST);
    }

    proptest! {
        /// At most the burst and the rate, over every stretch of time.
        #[test]
        fn nobody_gets_more(
            mut instants in proptest::collection::vec(0..5 * SECOND_NS, 1..800),
            bytes in 0..5_000_u64,
        ) {
            instants.sort_unstable();
            let mut budget = Budget::default();
            let mut grants = Vec::new();
            for now_ns in instants {
                if let Some(after) = budget.after(bytes, now_ns) {
                    budget = after;
                    grants.push(now_ns);
                }
            }
            let cost = bytes / TOKEN_BYTES + 1;
            for (index, from) in grants.iter().enumerate() {
                for (count, to) in (1..).zip(&grants[index..]) {
                    prop_assert!(count * cost <= BURST + (to - from).div_ceil(TOKEN_NS));
                }
            }
        }

        /// Who stays below the rate never loses anything.
        #[test]
        fn the_quiet_get_everything(gaps in proptest::collection::vec(TOKEN_NS..SECOND_NS, 1..500)) {
            let instants = gaps.iter().scan(0, |now_ns, gap| {
                *now_ns += gap;
                Some(*now_ns)
            });
            prop_assert_eq!(granted(100, instants), gaps.len() as u64);
        }

        /// Threads that raced, and a clock that seems to go back between two CPUs: no panic, and no bucket that lasts.
        #[test]
        fn any_word_is_a_bucket(full_at_ns: u64, now_ns: u64, bytes: u64) {
            let budget = Budget { full_at_ns };
            if let Some(after) = budget.after(bytes, now_ns) {
                prop_assert!(after.full_at_ns > now_ns && after.full_at_ns - now_ns <= BURST * TOKEN_NS);
            } else {
                let cost_ns = (bytes / TOKEN_BYTES + 1).saturating_mul(TOKEN_NS);
                prop_assert!(full_at_ns.max(now_ns).saturating_add(cost_ns) - now_ns > BURST * TOKEN_NS);
            }
        }
    }
}
