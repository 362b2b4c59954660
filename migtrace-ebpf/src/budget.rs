//! How much is told of what others can make come often: so much at once, and more as time passes.
//!
//! A token bucket in one word, so that two CPUs that race for it lose or gain a token and no more.

/// A limit of what is told.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Tokens of a full bucket.
    pub at_once: u64,
    /// After this time there is one token more, in nanoseconds.
    pub token_ns: u64,
}

/// Announcements at one tap: 256 at once, and as many a minute.
pub const ANNOUNCEMENTS: Limit = Limit { at_once: 256, token_ns: 60_000_000_000 / 256 };

/// Lines of QMP of one process: 1,000 at once, and 200 a second.
pub const LINES: Limit = Limit { at_once: 1_000, token_ns: 1_000_000_000 / 200 };

/// A line takes one token for each begun piece of so many bytes.
pub const LINE_TOKEN_BYTES: u64 = 256;

impl Limit {
    /// How long it takes until an empty bucket is full, in nanoseconds.
    #[inline(always)]
    #[must_use]
    pub const fn window_ns(&self) -> u64 {
        self.at_once * self.token_ns
    }

    /// The bucket after `tokens` were taken from it at `now_ns`; `None` when it has not as many.
    ///
    /// A bucket is the instant at which it will be full again, on `CLOCK_MONOTONIC`. At first it is 0.
    #[inline(always)]
    #[must_use]
    pub const fn spend(&self, full_at_ns: u64, tokens: u64, now_ns: u64) -> Option<u64> {
        let from_ns = if full_at_ns > now_ns { full_at_ns } else { now_ns };
        let full_at_ns = from_ns.saturating_add(tokens.saturating_mul(self.token_ns));
        if full_at_ns - now_ns <= self.window_ns() { Some(full_at_ns) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    const START_NS: u64 = 1_000_000_000_000;
    const SECOND_NS: u64 = 1_000_000_000;

    /// How many of `tokens` each are granted at the instants.
    fn granted(limit: Limit, tokens: u64, instants: impl IntoIterator<Item = u64>) -> u64 {
        let mut bucket = 0;
        instants.into_iter().fold(0, |granted, now_ns| match limit.spend(bucket, tokens, now_ns) {
            Some(after) => {
                bucket = after;
                granted + 1
            }
            None => granted,
        })
    }

    #[test]
    fn a_flood_gets_what_there_is_at_once_and_then_what_comes_back() {
        let flood = |seconds: u64| (0..seconds * 10_000).map(|step| START_NS + step * SECOND_NS / 10_000);
        assert_eq!(granted(LINES, 1, flood(1)), 1_000 + 200 - 1);
        assert_eq!(granted(LINES, 1, flood(10)), 1_000 + 10 * 200 - 1);
        assert_eq!(granted(ANNOUNCEMENTS, 1, flood(60)), 2 * 256 - 1);
    }

    #[test]
    fn what_takes_more_tokens_is_granted_less_often() {
        let at_once = |tokens| granted(LINES, tokens, [START_NS; 5_000]);
        assert_eq!((at_once(1), at_once(2), at_once(17)), (1_000, 500, 1_000 / 17));
        assert_eq!(at_once(u64::MAX), 0);
    }

    #[test]
    fn it_fills_again_but_never_beyond_its_measure() {
        let later = [START_NS + 1_000 * LINES.window_ns(); 2_000];
        assert_eq!(granted(LINES, 1, [START_NS; 2_000].into_iter().chain(later)), 2 * LINES.at_once);
    }

    #[test]
    fn what_comes_rarely_enough_is_told_for_ever() {
        // VRRP announces once a second, and more often where its timers are short.
        assert_eq!(granted(ANNOUNCEMENTS, 1, (0..100_000).map(|second| second * SECOND_NS)), 100_000);
    }

    #[test]
    fn a_stamp_of_another_cpu_that_is_a_little_older_changes_little() {
        let bucket = LINES.spend(0, 1, START_NS).unwrap();
        assert_eq!(LINES.spend(bucket, 1, START_NS - 1_000), Some(bucket + LINES.token_ns));
    }

    proptest! {
        /// At most what there is at once and what comes back, over every stretch of time.
        #[test]
        fn nobody_gets_more(
            mut instants in proptest::collection::vec(0..5 * SECOND_NS, 1..800),
            tokens in 1..20_u64,
        ) {
            instants.sort_unstable();
            let mut bucket = 0;
            let mut grants = Vec::new();
            for now_ns in instants {
                if let Some(after) = LINES.spend(bucket, tokens, now_ns) {
                    bucket = after;
                    grants.push(now_ns);
                }
            }
            for (index, from) in grants.iter().enumerate() {
                for (count, to) in (1..).zip(&grants[index..]) {
                    prop_assert!(count * tokens <= LINES.at_once + (to - from).div_ceil(LINES.token_ns));
                }
            }
        }

        /// Who stays below the rate never loses anything.
        #[test]
        fn the_quiet_get_everything(gaps in proptest::collection::vec(LINES.token_ns..SECOND_NS, 1..500)) {
            let instants = gaps.iter().scan(0, |now_ns, gap| {
                *now_ns += gap;
                Some(*now_ns)
            });
            prop_assert_eq!(granted(LINES, 1, instants), gaps.len() as u64);
        }

        /// CPUs that raced, and a clock that seems to go back between two of them: no panic, and no bucket that lasts.
        #[test]
        fn any_word_is_a_bucket(bucket: u64, now_ns: u64, tokens: u64) {
            if let Some(after) = LINES.spend(bucket, tokens, now_ns) {
                prop_assert!(after >= now_ns && after - now_ns <= LINES.window_ns());
            } else {
                let cost_ns = tokens.saturating_mul(LINES.token_ns);
                prop_assert!(bucket.max(now_ns).saturating_add(cost_ns) - now_ns > LINES.window_ns());
            }
        }
    }
}
