//! Limits how many events are emitted for what others can cause at will: a burst at once, and then a rate.
//!
//! Each limit is a token bucket in one word, so two CPUs that race for it lose or gain no more than a token.

/// A limit of what is emitted.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// How many tokens a full bucket has.
    pub at_once: u64,
    /// After this time there is one more token, in nanoseconds.
    pub token_ns: u64,
}

/// Announcements at one tap: 256 at once, and as many a minute.
pub const ANNOUNCEMENTS: Limit = Limit { at_once: 256, token_ns: 60_000_000_000 / 256 };

/// QMP lines of one process: 1,000 at once, and 200 a second.
pub const LINES: Limit = Limit { at_once: 1_000, token_ns: 1_000_000_000 / 200 };

/// A line takes one token for each started piece of this many bytes.
pub const LINE_TOKEN_BYTES: u64 = 256;

impl Limit {
    /// How long an empty bucket takes to fill, in nanoseconds.
    #[inline(always)]
    #[must_use]
    pub const fn window_ns(&self) -> u64 {
        self.at_once * self.token_ns
    }

    /// The bucket after `tokens` were taken from it at `now_ns`; `None`: it does not have that many.
    ///
    /// A bucket is stored as the instant at which it will be full again, on `CLOCK_MONOTONIC`. It starts as 0.
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

    /// How many requests, of `tokens` each, are granted at these instants.
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
    fn a_flood_gets_the_burst_and_then_the_rate() {
        let flood = |seconds: u64| (0..seconds * 10_000).map(|step| START_NS + step * SECOND_NS / 10_000);
        assert_eq!(granted(LINES, 1, flood(1)), 1_000 + 200 - 1);
        assert_eq!(granted(LINES, 1, flood(10)), 1_000 + 10 * 200 - 1);
        assert_eq!(granted(ANNOUNCEMENTS, 1, flood(60)), 2 * 256 - 1);
    }

    #[test]
    fn requests_of_more_tokens_are_granted_less_often() {
        let at_once = |tokens| granted(LINES, tokens, [START_NS; 5_000]);
        assert_eq!((at_once(1), at_once(2), at_once(17)), (1_000, 500, 1_000 / 17));
        assert_eq!(at_once(u64::MAX), 0);
    }

    #[test]
    fn a_bucket_refills_but_never_beyond_its_size() {
        let later = [START_NS + 1_000 * LINES.window_ns(); 2_000];
        assert_eq!(granted(LINES, 1, [START_NS; 2_000].into_iter().chain(later)), 2 * LINES.at_once);
    }

    #[test]
    fn whoever_stays_below_the_rate_is_never_refused() {
        // VRRP announces once a second, or more often where its timers are short.
        assert_eq!(granted(ANNOUNCEMENTS, 1, (0..100_000).map(|second| second * SECOND_NS)), 100_000);
    }

    #[test]
    fn a_slightly_older_stamp_from_another_cpu_changes_little() {
        let bucket = LINES.spend(0, 1, START_NS).unwrap();
        assert_eq!(LINES.spend(bucket, 1, START_NS - 1_000), Some(bucket + LINES.token_ns));
    }

    proptest! {
        /// Over every stretch of time: at most the burst and what came back.
        #[test]
        fn nobody_gets_more_than_burst_and_rate(
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

        #[test]
        fn everything_below_the_rate_is_granted(gaps in proptest::collection::vec(LINES.token_ns..SECOND_NS, 1..500)) {
            let instants = gaps.iter().scan(0, |now_ns, gap| {
                *now_ns += gap;
                Some(*now_ns)
            });
            prop_assert_eq!(granted(LINES, 1, instants), gaps.len() as u64);
        }

        /// CPUs may race, and the clock may seem to go back between two of them: no panic, and no bucket that stays
        /// empty.
        #[test]
        fn any_word_is_a_valid_bucket(bucket: u64, now_ns: u64, tokens: u64) {
            if let Some(after) = LINES.spend(bucket, tokens, now_ns) {
                prop_assert!(after >= now_ns && after - now_ns <= LINES.window_ns());
            } else {
                let cost_ns = tokens.saturating_mul(LINES.token_ns);
                prop_assert!(bucket.max(now_ns).saturating_add(cost_ns) - now_ns > LINES.window_ns());
            }
        }
    }
}
