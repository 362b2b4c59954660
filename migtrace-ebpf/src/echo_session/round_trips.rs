//! Round trips: the longest and the shortest of the latest ones, and their histogram.

use crate::abi::{EchoSession, shared};

/// How many round trips a window holds. The "latest round trips" are those of the current window and of the one
/// before.
const WINDOW: u64 = 64;

/// Adds a round trip to the latest ones.
#[inline(always)]
pub(super) fn learn(session: &shared::EchoSession, round_trip_ns: u64, overtaken: bool) {
    let count = session.recent_count.get() + 1;
    let shortest_ns = if count == 1 { round_trip_ns } else { session.recent_shortest_ns.get() };
    session.recent_round_trip_ns.raise(round_trip_ns);
    session.recent_shortest_ns.set(shortest_ns.min(round_trip_ns));
    session.recent_disordered.count(u64::from(overtaken));
    session.recent_count.set(count);
    if count == WINDOW {
        session.earlier_round_trip_ns.set(session.recent_round_trip_ns.get());
        session.earlier_shortest_ns.set(session.recent_shortest_ns.get());
        session.earlier_disordered.set(session.recent_disordered.get());
        for word in [&session.recent_round_trip_ns, &session.recent_disordered, &session.recent_count] {
            word.set(0);
        }
    }
}

impl shared::EchoSession {
    /// [`EchoSession::longest_latest_round_trip_ns`]
    #[inline(always)]
    pub(super) fn longest_latest_round_trip_ns(&self) -> u64 {
        self.recent_round_trip_ns.get().max(self.earlier_round_trip_ns.get())
    }

    /// [`EchoSession::shortest_latest_round_trip_ns`]
    #[inline(always)]
    pub(super) fn shortest_latest_round_trip_ns(&self) -> u64 {
        let (recent_ns, earlier_ns) = (self.recent_shortest_ns.get(), self.earlier_shortest_ns.get());
        shortest_latest(self.recent_count.get(), recent_ns, earlier_ns)
    }
}

impl EchoSession {
    /// The longest of the latest round trips, in nanoseconds.
    #[inline(always)]
    #[must_use]
    pub const fn longest_latest_round_trip_ns(&self) -> u64 {
        longer(self.recent_round_trip_ns, self.earlier_round_trip_ns)
    }

    /// The shortest of the latest round trips, in nanoseconds.
    #[inline(always)]
    #[must_use]
    pub const fn shortest_latest_round_trip_ns(&self) -> u64 {
        shortest_latest(self.recent_count, self.recent_shortest_ns, self.earlier_shortest_ns)
    }
}

#[inline(always)]
const fn shortest_latest(recent_count: u64, recent_ns: u64, earlier_ns: u64) -> u64 {
    let no_earlier = earlier_ns == 0;
    let recent_is_shorter = recent_count > 0 && recent_ns < earlier_ns;
    if no_earlier || recent_is_shorter { recent_ns } else { earlier_ns }
}

#[inline(always)]
pub(super) const fn longer(a_ns: u64, b_ns: u64) -> u64 {
    if a_ns > b_ns { a_ns } else { b_ns }
}

/// Each power of two of nanoseconds is divided into 2 to the power of this many buckets. So a bucket is at most 1/16
/// of its value wide.
const STEPS: u32 = 4;
/// Round trips of 2^40 ns (18 minutes) or more share the last bucket.
const LARGEST: u32 = 40;
/// How many buckets a histogram of round trips has.
pub const BUCKETS: usize = (((LARGEST - STEPS) << STEPS) + (1 << STEPS) + 1) as usize;

/// The bucket of a round trip.
#[inline(always)]
#[must_use]
pub const fn bucket(round_trip_ns: u64) -> u32 {
    if round_trip_ns >> LARGEST != 0 {
        return BUCKETS as u32 - 1;
    }
    if round_trip_ns >> STEPS == 0 {
        return round_trip_ns as u32;
    }
    let exponent = 63 - round_trip_ns.leading_zeros();
    let step = (round_trip_ns >> (exponent - STEPS)) as u32 & ((1 << STEPS) - 1);
    ((exponent - STEPS + 1) << STEPS) + step
}

/// The shortest round trip of a bucket, in nanoseconds. The bucket ends where the next one starts.
#[must_use]
pub const fn bucket_start_ns(bucket: u32) -> u64 {
    let exponent = bucket >> STEPS;
    if exponent == 0 {
        return bucket as u64;
    }
    let step = (bucket & ((1 << STEPS) - 1)) as u64;
    ((1 << STEPS) + step) << (exponent - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_holes() {
        for bucket_number in 0..BUCKETS as u32 - 1 {
            let (start, end) = (bucket_start_ns(bucket_number), bucket_start_ns(bucket_number + 1));
            assert_eq!(bucket(start), bucket_number);
            assert_eq!(bucket(end - 1), bucket_number);
            assert!(start < 16 || (end - start) * 16 <= start, "{start} to {end}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS as u32 - 1);
    }
}
