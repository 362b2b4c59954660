//! The gaps that are found are the silences of a simulated guest.

use std::cell::RefCell;

use migtrace_ebpf::abi::shared;
use migtrace_ebpf::echo_session;
use migtrace_ebpf::word::Words as _;
use proptest::prelude::*;

use super::scenarios::{dense_scenarios, scenarios};
use super::simulation::{
    CALM, GuestSilence, MIN_GAP_NS, Outage, Path, Request, Scenario, Simulated, Slots, WhileSilent, simulate,
};
use super::*;
use crate::timeline::echo_gaps::EchoGaps;

const ORIGIN: MonotonicNs = MonotonicNs(1_000_000_000);

/// All gaps that the kernel side reports, with the bounds that a report shows.
fn found(simulated: &Simulated) -> impl Iterator<Item = (abi::EchoGap, Gap)> {
    simulated.gaps.iter().map(|(_, seen)| (*seen, closed(&(*seen).into(), ORIGIN)))
}

/// Those that are shown.
fn shown(simulated: &Simulated) -> Vec<(abi::EchoGap, Gap)> {
    found(simulated).filter(|(_, gap)| gap.is_plausible()).collect()
}

/// Those that certainly lasted as long as a gap must.
fn sure(simulated: &Simulated) -> Vec<(abi::EchoGap, Gap)> {
    shown(simulated).into_iter().filter(|(_, gap)| gap.length.low_ns >= MIN_GAP_NS).collect()
}

fn holds(guest_silence: &GuestSilence, gap: &Gap) -> bool {
    let length_ns = guest_silence.until_ns - guest_silence.from_ns;
    let from_ns = MonotonicNs(guest_silence.from_ns).since(ORIGIN);
    (gap.length.low_ns..=gap.length.high_ns.unwrap()).contains(&length_ns)
        && (gap.start.low_ns..=gap.start.high_ns).contains(&from_ns)
}

/// Whether a silence lies within a gap, sure or not.
fn covers(gap: &Gap, silence: &GuestSilence) -> bool {
    let since = |at_ns: u64| MonotonicNs(at_ns).since(ORIGIN);
    let latest_end = gap.start.low_ns.saturating_add_unsigned(gap.length.high_ns.unwrap());
    gap.start.low_ns <= since(silence.from_ns) && since(silence.until_ns) <= latest_end
}

/// How many cases: `PROPTEST_CASES`, or as many as are done while one waits.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_gap_holds_a_silence_of_the_guest_and_every_silence_is_a_gap(scenario in scenarios()) {
        let simulated = simulate(&scenario);
        let gaps = sure(&simulated);
        for (seen, gap) in &gaps {
            let found = simulated.guest_silences.iter().any(|guest_silence| holds(guest_silence, gap));
            prop_assert!(found, "{gap:#?}\n{seen:#?}\n{:#?}", simulated.guest_silences);
        }
        for guest_silence in &simulated.guest_silences {
            let round_trip_ns = scenario.before.longest_ns().max(scenario.after.longest_ns());
            let slack_ns = 8 * scenario.interval_ns + MIN_GAP_NS + 4 * round_trip_ns;
            let found = gaps.iter().filter(|(_, gap)| holds(guest_silence, gap)).count();
            let is_long = guest_silence.until_ns - guest_silence.from_ns > slack_ns;
            prop_assert!(found == 1 || (found == 0 && !is_long), "{found} for {guest_silence:?}: {gaps:#?}");
        }
    }

    #[test]
    fn every_silence_that_loses_or_holds_up_a_request_lies_in_a_gap_however_long_round_trips_are(
        scenario in dense_scenarios(),
    ) {
        let simulated = simulate(&scenario);
        let (gaps, explained): (Vec<_>, Vec<_>) = found(&simulated).partition(|(_, gap)| gap.is_plausible());
        // The round trips that follow are as long, so nothing speaks for a silence. One that was is no longer than what is
        // possible without a gap.
        let state = &simulated.state;
        let without_gap_ns = state.longest_interval_ns + state.longest_round_trip_ns;
        for (seen, gap) in &explained {
            let longest_ns = seen.resumed_ns - seen.answered_request_ns;
            prop_assert!(seen.may_be == 0 && longest_ns <= without_gap_ns, "{seen:#?} {gap:#?}");
        }
        for silence in &simulated.silences {
            let within = silence.from_ns..silence.until_ns;
            // What was lost next to a gap was lost to it.
            let is_held = |request: &Request| {
                let all = gaps.iter().chain(&explained);
                all.into_iter().any(|(seen, _)| seen.may_be == 0 && seen.holds(request.sent_ns))
            };
            let is_hit = |(request, late): (&Request, &bool)| {
                within.contains(&request.arrived_ns)
                    && (request.replied_ns.is_none() || *late)
                    && !is_held(request)
            };
            let hits = simulated.requests.iter().zip(&simulated.late).filter(|hit| is_hit(*hit)).count();
            let is_long = silence.until_ns - silence.from_ns > MIN_GAP_NS;
            let is_covered = gaps.iter().any(|(_, gap)| covers(gap, silence));
            prop_assert!(is_covered || hits == 0 || !is_long, "{hits} in {silence:?}: {gaps:#?}");
        }
        let mut seen = EchoGaps::default();
        simulated.gaps.iter().for_each(|(_, gap)| seen.push((*gap).into()));
        let unanswered_when_reported = simulated.requests.iter().filter(|request| {
            let within = |(at, seen): &&(u64, abi::EchoGap)| {
                let until_ns = if seen.may_be == 0 { seen.resumed_ns } else { seen.resuming_request_ns };
                request.replied_ns.is_none_or(|replied| replied >= *at)
                    && (seen.answered_request_ns..=until_ns).contains(&request.sent_ns)
            };
            simulated.gaps.iter().any(|gap| within(&gap))
        });
        prop_assert!(seen.lost() <= unanswered_when_reported.count() as u64, "a request counts twice: {seen:#?}");
        for (seen, gap) in &gaps {
            let (low_ns, high_ns) = (gap.length.low_ns, gap.length.high_ns.unwrap());
            prop_assert!((low_ns..=high_ns).contains(&gap.length.value_ns), "{gap:#?}");
            prop_assert!((gap.start.low_ns..=gap.start.high_ns).contains(&gap.start.value_ns), "{gap:#?}");
            prop_assert!(seen.may_be == 0 || (low_ns == 0 && high_ns > MIN_GAP_NS), "{gap:#?}");
            prop_assert!(seen.may_be == 0 || gap.lost + gap.late > 0, "{gap:#?}");
            let is_reported_twice = gaps.iter().any(|(other, _)| {
                other.may_be == 0 && other.holds(seen.first_waiting_ns) && other.holds(seen.before_resumed_ns)
            });
            prop_assert!(seen.may_be == 0 || !is_reported_twice, "{gap:#?}");
        }
    }

    #[test]
    fn a_gap_is_known_to_within_its_two_intervals_and_two_round_trips(scenario in scenarios()) {
        for (seen, gap) in sure(&simulate(&scenario)) {
            let intervals_ns = gap.interval_at_start_ns + gap.interval_at_end_ns.unwrap();
            // Where replies overtake each other, the end is known to within another round trip.
            let longest_ns = gap.round_trip_before_ns.max(seen.round_trip_after_ns);
            let overtaken_ns = if seen.overtaken > 0 { longest_ns } else { 0 };
            let round_trips_ns = gap.round_trip_before_ns + gap.round_trip_after_ns + overtaken_ns;
            // And an answer that was on its way for long says less about when the guest was awake.
            let stray_ns = seen.last_reply_ns - seen.answered_request_ns.min(seen.last_reply_ns);
            let width_ns = gap.length.high_ns.unwrap() - gap.length.low_ns;
            let limit_ns = intervals_ns + round_trips_ns + stray_ns;
            prop_assert!(width_ns <= limit_ns, "{width_ns} > {limit_ns}: {gap:#?}\n{seen:#?}");
        }
    }

    #[test]
    fn every_request_and_reply_is_counted_as_what_it_was(scenario in scenarios()) {
        let simulated = simulate(&scenario);
        let (state, requests) = (&simulated.state, &simulated.requests);
        let answered = requests.iter().filter(|r| r.replied_ns.is_some()).count() as u64;
        prop_assert_eq!(state.sent, requests.len() as u64);
        prop_assert_eq!(state.answered, answered);
        prop_assert_eq!(state.duplicate, simulated.duplicates);
        prop_assert_eq!(state.unasked, 0);
        for (seen, gap) in sure(&simulated) {
            let mut later = found(&simulated).skip_while(|(other, _)| *other != seen).skip(1);
            let next = later.find(|(other, _)| other.may_be == 0).map(|(next, _)| next);
            let inside =
                |r: &&Request| seen.holds(r.sent_ns) && next.is_none_or(|next| !next.holds(r.sent_ns));
            let lost = requests.iter().filter(inside).filter(|r| r.replied_ns.is_none()).count() as u64;
            // Reported when the first replies to later requests had come: slower ones are still on their way.
            let reported_at = simulated.gaps.iter().find(|(_, other)| *other == seen).unwrap().0;
            let slower = requests.iter().filter(inside).filter(|r| r.replied_ns.is_some_and(|at| at >= reported_at));
            let slower = slower.count() as u64;
            prop_assert_eq!(seen.requests, requests.iter().filter(inside).count() as u64);
            prop_assert!((lost..=lost + slower).contains(&gap.lost), "{} of {lost}: {gap:#?}", gap.lost);
        }
    }
}

/// A calm path of a few microseconds, and one silence of `length` intervals of 100 µs.
fn scenario(silence: WhileSilent, length: f64) -> Scenario {
    let path = Path { there_ns: 20_000, back_ns: 20_000, jitter_ns: 10_000 };
    Scenario {
        interval_ns: 100_000,
        before: path,
        after: path,
        outages: vec![Outage { length, phase: 0.3, silence }],
        seed: 7,
        loss_percent: 0,
        duplicate_percent: 0,
        slip_percent: 0,
        calm: CALM,
    }
}

#[test]
fn lost_late_and_prompt_requests_are_distinguished() {
    for (silence, lost, late) in [
        (WhileSilent::Loses, 1_000, 0),
        (WhileSilent::Delays, 0, 1_000),
        (WhileSilent::LosesThenDelays, 500, 500),
    ] {
        let simulated = simulate(&scenario(silence, 1_000.0));
        let [(_, gap)] = &sure(&simulated)[..] else { panic!("{:?}", simulated.gaps) };
        assert!(gap.lost.abs_diff(lost) <= 1, "{silence:?}: {gap:?}");
        assert!(gap.late.abs_diff(late) <= 1, "{silence:?}: {gap:?}");
        assert_eq!(simulated.state.late, gap.late);
        let method = if late > 0 { Method::DelayedReplies } else { Method::LostRequests };
        assert_eq!(gap.length.method, method);
        assert!(holds(&simulated.guest_silences[0], gap));
    }
}

/// The guest answers the requests that waited for the end of its silence, and then they are on their way for longer than
/// those before: so it looks as if it had fallen silent once more, with what was on its way at that time.
#[test]
fn what_is_on_its_way_between_two_gaps_is_lost_to_one_of_them() {
    let scenario = Scenario {
        interval_ns: 4_000_000,
        before: Path { there_ns: 17_200_000, back_ns: 800_000, jitter_ns: 0 },
        after: Path { there_ns: 1_000, back_ns: 32_000_000, jitter_ns: 0 },
        outages: vec![Outage { length: 5.7, phase: 1.3, silence: WhileSilent::LosesThenDelays }],
        ..scenario(WhileSilent::Loses, 0.0)
    };
    let simulated = simulate(&scenario);
    let gaps = shown(&simulated);
    let lost: u64 = gaps.iter().map(|(_, gap)| gap.lost).sum();
    let unanswered = simulated.requests.iter().filter(|r| r.replied_ns.is_none()).count();
    assert_eq!((gaps.len(), lost), (2, unanswered as u64), "{gaps:#?}");
}

/// What waited for the end of a silence took just less than twice as long as the slower replies of the host that the guest
/// has moved to.
#[test]
fn a_silence_whose_replies_are_not_much_later_than_those_after_it_may_have_been() {
    let scenario = Scenario {
        before: Path { there_ns: 50_000, back_ns: 450_000, jitter_ns: 0 },
        after: Path { there_ns: 380_000, back_ns: 770_000, jitter_ns: 0 },
        ..scenario(WhileSilent::Delays, 18.0)
    };
    let simulated = simulate(&scenario);
    let [(_, gap)] = &shown(&simulated)[..] else { panic!("{:#?}", simulated.gaps) };
    assert!(!gap.is_sure() && gap.lost == 0 && gap.late > 0, "{gap:#?}");
    assert_eq!(gap.length.method, Method::DelayedReplies);
    assert!(covers(gap, &simulated.silences[0]), "{gap:#?}");
}

#[test]
fn a_silence_that_uses_all_sequence_numbers_is_one_gap_of_the_right_length() {
    for silence in [WhileSilent::Loses, WhileSilent::Delays, WhileSilent::LosesThenDelays] {
        for length in [65_000.0, 65_535.4, 65_536.0, 65_537.2, 80_000.0, 140_000.5] {
            let simulated = simulate(&scenario(silence, length));
            let gaps = sure(&simulated);
            assert_eq!(gaps.len(), 1, "{silence:?} of {length}: {gaps:#?}");
            let gap = &gaps[0].1;
            assert!(holds(&simulated.guest_silences[0], gap), "{silence:?} of {length}: {gap:?}");
            let width_ns = gap.length.high_ns.unwrap() - gap.length.low_ns;
            assert!(width_ns <= 2 * 100_000 + 2 * 60_000, "{silence:?} of {length}: {gap:?}");
        }
    }
}

#[test]
fn two_silences_are_two_gaps() {
    let mut scenario = scenario(WhileSilent::Loses, 90.0);
    scenario.outages.push(Outage { length: 1_020.0, phase: 0.0, silence: WhileSilent::Loses });
    let simulated = simulate(&scenario);
    let gaps = sure(&simulated);
    assert_eq!(gaps.len(), 2);
    for (guest_silence, (_, gap)) in simulated.guest_silences.iter().zip(&gaps) {
        assert!(holds(guest_silence, gap), "{guest_silence:?} {gap:?}");
    }
}

#[test]
fn a_silence_just_after_another_is_a_gap_of_its_own() {
    for first in [WhileSilent::Loses, WhileSilent::Delays] {
        for second in [WhileSilent::Loses, WhileSilent::Delays] {
            let mut scenario = scenario(first, 90.0);
            // Within the requests that the round trips after the first are learnt from.
            scenario.calm = 4;
            scenario.outages.push(Outage { length: 1_020.0, phase: 0.5, silence: second });
            let simulated = simulate(&scenario);
            let gaps = sure(&simulated);
            assert_eq!(gaps.len(), 2, "{first:?} {second:?}: {gaps:#?}");
            for (guest_silence, (_, gap)) in simulated.guest_silences.iter().zip(&gaps) {
                assert!(holds(guest_silence, gap), "{first:?} {second:?}: {guest_silence:?} {gap:?}");
            }
        }
    }
}

const MS: u64 = 1_000_000;

/// The gaps that the kernel's state machine sees in these requests: when each was sent since the origin, and how long its reply
/// took, if there was one.
fn gaps_among(requests: impl Iterator<Item = (u64, Option<u64>)>) -> Vec<Gap> {
    let slots = Slots(RefCell::new(vec![0; 1 << 16]));
    let state = shared::EchoSession::default();
    let mut gaps = Vec::new();
    let mut report = |_, gap: &shared::EchoGap| gaps.push(closed(&gap.load().into(), ORIGIN));
    for (number, (since_origin_ns, round_trip_ns)) in requests.enumerate() {
        let (sequence, sent_ns) = (number as u16, ORIGIN.0 + since_origin_ns);
        echo_session::request(&state, &slots, sequence, sent_ns);
        if let Some(round_trip_ns) = round_trip_ns {
            echo_session::reply(&state, &slots, sequence, sent_ns + round_trip_ns, MIN_GAP_NS, &mut report);
        }
    }
    gaps
}

#[test]
fn a_silence_right_after_a_single_late_reply_is_a_gap_of_its_own() {
    let gaps = gaps_among((0..400).map(|number| match number {
        0..200 => (number * MS, Some(100_000)),
        // The sender stood still for 16 ms with one request on its way, which came back after that.
        200 => (number * MS, Some(15 * MS)),
        // A silence of 12 ms, with the next request.
        201..213 => ((number + 16) * MS, None),
        _ => ((number + 16) * MS, Some(100_000)),
    }));
    let [late, lost] = &gaps[..] else { panic!("{gaps:#?}") };
    assert_eq!((late.late, late.lost), (1, 0), "{late:#?}");
    assert_eq!((lost.late, lost.lost), (0, 12), "{lost:#?}");
    assert!((lost.length.low_ns..=lost.length.high_ns.unwrap()).contains(&(12 * MS)), "{lost:#?}");
}

/// The guest woke up just after the request before had reached it. The next one reached it in time, but its reply did not come
/// back so fast.
#[test]
fn a_reply_that_is_held_up_on_its_way_does_not_prove_that_its_request_waited() {
    let gaps = gaps_among((0..800).map(|number| match number {
        300..700 => (number * MS, None),
        700 => (number * MS, Some(200_000)),
        _ => (number * MS, Some(60_000)),
    }));
    let [gap] = &gaps[..] else { panic!("{gaps:#?}") };
    // From the arrival of the first request that was lost to that of the last.
    assert!((gap.length.low_ns..=gap.length.high_ns.unwrap()).contains(&(399 * MS)), "{gap:#?}");
    assert_eq!((gap.length.method.clone(), gap.lost), (Method::LostRequests, 400));
}

#[test]
fn single_losses_and_a_sender_that_stalls_are_no_gaps() {
    let mut scenario = scenario(WhileSilent::Loses, 0.0);
    (scenario.loss_percent, scenario.slip_percent, scenario.interval_ns) = (3, 10, 1_000_000);
    let simulated = simulate(&scenario);
    assert!(simulated.state.answered < simulated.state.sent);
    assert_eq!(sure(&simulated).len(), 0, "{:#?}", simulated.gaps);
}
