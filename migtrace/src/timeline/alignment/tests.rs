use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Two clocks whose difference is known, and the packets between their hosts.
#[derive(Clone, Debug)]
struct World {
    /// Where the other clock is when the record's shows 0.
    offset: i64,
    /// The rate of the difference in each second, in millionths.
    rates: Vec<i64>,
    /// Packets: when they were sent, how long they took, and whether they go to the other host.
    packets: Vec<(i64, i64, bool)>,
    asked: Vec<i64>,
}

/// Without a slew that is faster than NTP's.
const USUAL_PPM: u32 = 1_200;
const SECOND: i64 = 1_000_000_000;
const BEGIN: i64 = 300_000 * SECOND;

impl World {
    /// The true difference when the record's clock shows `at`.
    fn offset_at(&self, at: i64) -> f64 {
        let mut offset = self.offset as f64;
        for (second, rate) in self.rates.iter().enumerate() {
            let begin = second as i64 * SECOND;
            let until = if second + 1 == self.rates.len() { i64::MAX } else { begin + SECOND };
            offset += (at.min(until) - begin).max(0) as f64 * *rate as f64 / 1e6;
        }
        offset
    }

    fn other(&self, at: i64, rounding: fn(f64) -> f64) -> MonotonicNs {
        stamp(at + rounding(self.offset_at(at)) as i64)
    }

    fn alignment(&self) -> Result<Alignment, NotAligned> {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        for (sent, took, is_there) in &self.packets {
            let arrived = sent + took;
            if *is_there {
                there.push(Pair { record: stamp(*sent), other: self.other(arrived, f64::ceil) });
            } else {
                back.push(Pair { record: stamp(arrived), other: self.other(*sent, f64::floor) });
            }
        }
        Alignment::of(there, back, USUAL_PPM)
    }
}

fn stamp(at: i64) -> MonotonicNs {
    MonotonicNs((BEGIN + at).cast_unsigned())
}

/// How long a packet takes: usually little, sometimes very long.
fn delay() -> impl Strategy<Value = i64> {
    prop_oneof![3 => 2_000..20_000i64, 2 => 20_000..2_000_000i64, 1 => 0..300_000_000i64]
}

/// Crystals that are off by up to 50 millionths, and slews of up to 500 more on each clock that begin at any second.
fn rates() -> impl Strategy<Value = Vec<i64>> {
    (-100..100i64, vec(prop_oneof![3 => Just(0), 1 => -1_000..=1_000i64], 1..12))
        .prop_map(|(crystals, slews)| slews.into_iter().map(|slew| crystals + slew).collect())
}

fn world() -> impl Strategy<Value = World> {
    let offset = prop_oneof![Just(0), -5 * SECOND..5 * SECOND, -259_200 * SECOND..259_200 * SECOND];
    let packets = vec((0..12 * SECOND, delay(), any::<bool>()), 2..60);
    (offset, rates(), packets, vec(0..13 * SECOND, 1..5)).prop_map(|(offset, rates, packets, asked)| World {
        offset,
        rates,
        packets,
        asked,
    })
}

/// How many cases: `PROPTEST_CASES`, or as many as are done while one waits.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(10_000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn the_true_offset_is_within_the_bounds_whatever_the_delays_and_drifts(world in world()) {
        let both_ways = world.packets.iter().any(|(_, _, there)| *there)
            && world.packets.iter().any(|(_, _, there)| !*there);
        let alignment = match world.alignment() {
            Ok(alignment) => alignment,
            Err(why) => {
                prop_assert_eq!(why, NotAligned::NoPackets);
                prop_assert!(!both_ways);
                return Ok(());
            }
        };
        for at in &world.asked {
            let truth = world.offset_at(*at);
            let Bounded { low, high } = alignment.offset_at(stamp(*at));
            prop_assert!(low as f64 <= truth + 1.0 && truth <= high as f64 + 1.0, "{truth} in {low}..{high}");
            let other = world.other(*at, f64::round);
            let Bounded { low, high } = alignment.record_time(other, stamp(0));
            prop_assert!(low <= at + 2 && *at <= high + 2, "{at} in {low}..{high}");
        }
    }

    #[test]
    fn a_shifted_clock_shifts_the_offset_and_nothing_else(world in world(), by in -3 * SECOND..3 * SECOND) {
        let shifted = World { offset: world.offset + by, ..world.clone() };
        let (Ok(plain), Ok(moved)) = (world.alignment(), shifted.alignment()) else { return Ok(()) };
        for at in &world.asked {
            let (before, after) = (plain.offset_at(stamp(*at)), moved.offset_at(stamp(*at)));
            // The stamps of the two worlds are rounded.
            prop_assert!(after.low.abs_diff(before.low + by) <= 2 && after.high.abs_diff(before.high + by) <= 2);
        }
    }
}

fn pair(record: u64, other: u64) -> Pair {
    Pair { record: MonotonicNs(record), other: MonotonicNs(other) }
}

#[test]
fn the_tightest_packets_bound_the_offset_and_the_bounds_widen_with_the_distance() {
    let (there, back) = (vec![pair(1_000_000, 6_000_005)], vec![pair(1_000_100, 6_000_097)]);
    let alignment = Alignment::of(there, back, USUAL_PPM).unwrap();
    let at = |at| alignment.offset_at(MonotonicNs(at));
    assert_eq!(at(1_000_000), Bounded { low: 4_999_996, high: 5_000_005 });
    // 1 ms later: 1.2 µs more.
    assert_eq!(at(2_000_000), Bounded { low: 4_999_997 - 1_200, high: 5_000_005 + 1_200 });
    assert_eq!(at(2_000_000).value(), 5_000_001);
}

#[test]
fn packets_that_arrive_before_they_are_sent_are_a_contradiction() {
    let align = |there, back| Alignment::of(there, back, USUAL_PPM).map(|_| ());
    assert_eq!(align(vec![pair(100, 150)], vec![pair(200, 250)]), Ok(()));
    assert_eq!(align(vec![pair(100, 149)], vec![pair(200, 250)]), Ok(()), "they may have drifted by 1 ns");
    assert_eq!(align(vec![pair(100, 148)], vec![pair(200, 250)]), Err(NotAligned::Contradiction));
    assert_eq!(align(vec![pair(200, 248)], vec![pair(100, 150)]), Err(NotAligned::Contradiction));
    assert_eq!(align(vec![pair(200, 248)], vec![]), Err(NotAligned::NoPackets));
}

#[test]
fn a_fast_slew_widens_the_bounds() {
    assert_eq!(most_drift_ppm([0, 0]), USUAL_PPM);
    assert_eq!(most_drift_ppm([500, 40_000]), 40_700);
    assert_eq!(most_drift_ppm([u64::MAX, u64::MAX]), 200_200);
    let alignment = Alignment::of(vec![pair(0, 50)], vec![pair(0, 40)], 40_700).unwrap();
    assert_eq!(alignment.offset_at(MonotonicNs(1_000)), Bounded { low: 40 - 41, high: 50 + 41 });
}
