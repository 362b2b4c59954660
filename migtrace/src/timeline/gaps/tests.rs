//! The gaps that are found are those of a simulated guest, whose silences are known.
//!
//! A path delays each message, by as much as it likes up to a limit, loses some and repeats some; a guest answers what
//! reaches it, but not while it is silent. The kernel's state machine sees only the stamps of requests and replies.

use std::cell::RefCell;
use std::ops::Range;

use migtrace_ebpf::abi::{EchoSession, shared};
use migtrace_ebpf::session::{self, Reply, Stamps};
use migtrace_ebpf::word::Words as _;
use proptest::prelude::*;

use super::*;
use crate::timeline::echo_gaps::EchoGaps;

const MIN_GAP_NS: u64 = 1_000_000;
/// Requests before the first silence and after the last: the latest round trips are known by then.
const CALM: u64 = 300;

struct Slots(RefCell<Vec<u64>>);

impl Stamps for Slots {
    fn get(&self, sequence: u16) -> u64 {
        self.0.borrow()[usize::from(sequence)]
    }

    fn set(&self, sequence: u16, stamp: u64) {
        self.0.borrow_mut()[usize::from(sequence)] = stamp;
    }
}

/// What the guest does with requests that reach it while it is silent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Silence {
    /// It never answers them.
    Loses,
    /// It answers them all when it wakes up, one after the other.
    Delays,
    /// It answers the last ones: the first went to a host that the guest has left.
    LosesThenDelays,
}

#[derive(Clone, Debug)]
struct Outage {
    /// In intervals.
    length: f64,
    phase: f64,
    silence: Silence,
}

/// How long a message takes each way: the shortest time, and by how much it may be longer.
#[derive(Clone, Copy, Debug)]
struct Path {
    there_ns: u64,
    back_ns: u64,
    jitter_ns: u64,
}

impl Path {
    /// The longest round trip.
    const fn longest_ns(&self) -> u64 {
        self.there_ns + self.back_ns + 2 * self.jitter_ns
    }
}

#[derive(Clone, Debug)]
struct Scenario {
    interval_ns: u64,
    before: Path,
    after: Path,
    outages: Vec<Outage>,
    seed: u64,
    loss_percent: u64,
    duplicate_percent: u64,
    slip_percent: u64,
    /// Requests between two silences, besides those of some round trips.
    calm: u64,
}

#[derive(Clone, Debug)]
struct Request {
    sent_ns: u64,
    arrived_ns: u64,
    replied_ns: Option<u64>,
}

/// A silence as the guest knows it; lost requests next to it are part of it.
#[derive(Clone, Copy, Debug)]
struct Truth {
    from_ns: u64,
    until_ns: u64,
}

struct Simulated {
    requests: Vec<Request>,
    /// The silences, and what was lost next to them.
    truths: Vec<Truth>,
    /// The silences alone.
    silences: Vec<Truth>,
    /// Of each request, whether it was overtaken and took longer than the latest that were answered before it.
    late: Vec<bool>,
    duplicates: u64,
    /// The kernel's view.
    state: EchoSession,
    /// Each with the time at which it was told.
    gaps: Vec<(u64, abi::EchoGap)>,
}

/// A small generator of numbers: the same seed gives the same scenario.
struct Random(u64);

impl Random {
    const fn next(&mut self) -> u64 {
        // xorshift64*, Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    const fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    /// One of five values from 0 to `limit`: the limit itself is common.
    const fn step_to(&mut self, limit: u64) -> u64 {
        limit * (self.next() % 5) / 4
    }
}

fn simulate(scenario: &Scenario) -> Simulated {
    let mut random = Random(scenario.seed | 1);
    let interval_ns = scenario.interval_ns;
    let mut truths = Vec::new();
    let mut from_ns = 1_000_000_000 + CALM * interval_ns;
    for outage in &scenario.outages {
        from_ns += (outage.phase * interval_ns as f64) as u64;
        let until_ns = from_ns + (outage.length * interval_ns as f64) as u64;
        truths.push(Truth { from_ns, until_ns });
        let round_trips_ns = 4 * (scenario.after.there_ns + scenario.after.back_ns);
        from_ns = until_ns + scenario.calm * interval_ns + round_trips_ns;
    }
    let end_ns = from_ns + CALM * interval_ns;
    let mut requests = Vec::new();
    let mut lost_at_random = u64::MAX;
    let mut sent_ns = 1_000_000_000;
    while sent_ns < end_ns {
        let number = requests.len() as u64;
        let moved = truths.first().is_some_and(|first: &Truth| sent_ns >= first.from_ns);
        let path = if moved { scenario.after } else { scenario.before };
        // Both ways as slow as can be, from time to time: what is not seen cannot be allowed for.
        let slowest = number.is_multiple_of(50);
        let mut jitter = || if slowest { path.jitter_ns } else { random.step_to(path.jitter_ns) };
        let (there_ns, back_ns) = (path.there_ns + jitter(), path.back_ns + jitter());
        let arrived_ns = sent_ns + there_ns;
        let mut replied_ns = Some(arrived_ns + back_ns);
        let hit = truths.iter().position(|t| (t.from_ns..t.until_ns).contains(&arrived_ns));
        if let Some(index) = hit {
            let truth = truths[index];
            let lost = match scenario.outages[index].silence {
                Silence::Loses => true,
                Silence::Delays => false,
                Silence::LosesThenDelays => arrived_ns < truth.from_ns.midpoint(truth.until_ns),
            };
            // Those that waited leave in order, right after each other.
            let drain_ns = (arrived_ns - truth.from_ns) * 1_000 / (truth.until_ns - truth.from_ns);
            replied_ns = (!lost).then_some(truth.until_ns + drain_ns + back_ns);
        }
        let alone = number.abs_diff(lost_at_random) > 4;
        if alone && number > 10 && random.percent(scenario.loss_percent) {
            lost_at_random = number;
            replied_ns = None;
        }
        requests.push(Request { sent_ns, arrived_ns, replied_ns });
        let slip_ns =
            if random.percent(scenario.slip_percent) { random.next() % (3 * interval_ns) } else { 0 };
        sent_ns += interval_ns + slip_ns;
    }
    let silences = truths.clone();
    extend(&mut truths, &requests);
    let Observed { state, gaps, late, duplicates } = observe(scenario, &requests, &mut random);
    Simulated { requests, truths, silences, late, duplicates, state, gaps }
}

/// A request that was lost next to a silence cannot be told from one that was lost to it, unless the guest has answered
/// one in between.
fn extend(truths: &mut [Truth], requests: &[Request]) {
    for truth in truths {
        let silent = |request: &Request| (truth.from_ns..truth.until_ns).contains(&request.arrived_ns);
        let (Some(first), Some(last)) = (requests.iter().position(silent), requests.iter().rposition(silent))
        else {
            continue;
        };
        // What waited was answered at the end of the silence.
        let answered_at = |r: &Request| if silent(r) { truth.until_ns } else { r.arrived_ns };
        let awake = |range: Range<u64>| {
            let answered = requests.iter().filter(|r| r.replied_ns.is_some()).map(answered_at);
            answered.filter(move |at| range.contains(at))
        };
        let awake_before = awake(0..truth.from_ns).max().map_or(0, |at| at + 1);
        let awake_after = awake(truth.until_ns..u64::MAX).min().unwrap_or(u64::MAX);
        let lost_before = requests[..first].iter().rev().take_while(|r| r.replied_ns.is_none());
        let lost_after = requests[last + 1..].iter().take_while(|r| r.replied_ns.is_none());
        let (before, after) =
            (lost_before.map(|r| r.arrived_ns).min(), lost_after.map(|r| r.arrived_ns).max());
        truth.from_ns = before.map_or(truth.from_ns, |at| at.max(awake_before).min(truth.from_ns));
        truth.until_ns = after.map_or(truth.until_ns, |at| (at + 1).min(awake_after).max(truth.until_ns));
    }
}

struct Observed {
    state: EchoSession,
    gaps: Vec<(u64, abi::EchoGap)>,
    late: Vec<bool>,
    duplicates: u64,
}

/// Shows the stamps to the kernel's state machine, in their order.
fn observe(scenario: &Scenario, requests: &[Request], random: &mut Random) -> Observed {
    let mut seen: Vec<(u64, bool, usize)> = Vec::new();
    let mut duplicates = 0;
    for (number, request) in requests.iter().enumerate() {
        seen.push((request.sent_ns, false, number));
        let Some(replied_ns) = request.replied_ns else { continue };
        seen.push((replied_ns, true, number));
        if random.percent(scenario.duplicate_percent) {
            seen.push((replied_ns + random.next() % (5 * scenario.interval_ns), true, number));
            duplicates += 1;
        }
    }
    seen.sort_unstable();
    let slots = Slots(RefCell::new(vec![0; 1 << 16]));
    let state = shared::EchoSession::default();
    let mut gaps = Vec::new();
    let mut late = vec![false; requests.len()];
    for (at_ns, is_reply, number) in seen {
        let (sequence, sent_ns) = (number as u16, requests[number].sent_ns);
        if is_reply {
            let is_slow = at_ns - sent_ns > state.load().longest_latest_round_trip_ns();
            let is_overtaken = sent_ns < state.answered_request_ns.get();
            let reply = session::reply(&state, &slots, sequence, at_ns, MIN_GAP_NS, |_, gap| {
                gaps.push((at_ns, gap.load()));
            });
            late[number] |= is_slow && is_overtaken && reply != Reply::Duplicate;
        } else {
            session::request(&state, &slots, sequence, at_ns);
        }
    }
    let state = state.load();
    gaps.extend(state.unsettled(MIN_GAP_NS).map(|gap| (u64::MAX, gap)));
    Observed { state, gaps, late, duplicates }
}

const ORIGIN: MonotonicNs = MonotonicNs(1_000_000_000);

/// All gaps that the kernel's side tells, with the bounds that a report shows.
fn found(simulated: &Simulated) -> impl Iterator<Item = (abi::EchoGap, Gap)> {
    simulated.gaps.iter().map(|(_, seen)| (*seen, closed(&(*seen).into(), ORIGIN)))
}

/// Those that are shown.
fn told(simulated: &Simulated) -> Vec<(abi::EchoGap, Gap)> {
    found(simulated).filter(|(_, gap)| gap.is_plausible()).collect()
}

/// Those that surely lasted for as long as a gap has to.
fn sure(simulated: &Simulated) -> Vec<(abi::EchoGap, Gap)> {
    told(simulated).into_iter().filter(|(_, gap)| gap.length.low_ns >= MIN_GAP_NS).collect()
}

fn holds(truth: &Truth, gap: &Gap) -> bool {
    let length_ns = truth.until_ns - truth.from_ns;
    let from_ns = MonotonicNs(truth.from_ns).since(ORIGIN);
    (gap.length.low_ns..=gap.length.high_ns.unwrap()).contains(&length_ns)
        && (gap.start.low_ns..=gap.start.high_ns).contains(&from_ns)
}

/// Whether a silence lies within a gap, sure or not.
fn covers(gap: &Gap, silence: &Truth) -> bool {
    let since = |at_ns: u64| MonotonicNs(at_ns).since(ORIGIN);
    let latest_end = gap.start.low_ns.saturating_add_unsigned(gap.length.high_ns.unwrap());
    gap.start.low_ns <= since(silence.from_ns) && since(silence.until_ns) <= latest_end
}

fn silences() -> impl Strategy<Value = Outage> {
    let silence = prop_oneof![Just(Silence::Loses), Just(Silence::Delays), Just(Silence::LosesThenDelays)];
    (1.0..400.0_f64, 0.0..3.0_f64, silence).prop_map(|(length, phase, silence)| Outage {
        length,
        phase,
        silence,
    })
}

/// Paths from a cable to halfway round the world, with up to twenty requests on their way at once.
fn paths(interval_ns: u64) -> impl Strategy<Value = Path> {
    (1_000..10 * interval_ns, 1_000..10 * interval_ns, 0.0..1.0_f64).prop_map(
        |(there_ns, back_ns, jitter)| Path {
            there_ns,
            back_ns,
            jitter_ns: (there_ns.min(back_ns) as f64 * jitter) as u64,
        },
    )
}

fn scenarios() -> impl Strategy<Value = Scenario> {
    (100_000..10_000_000_u64)
        .prop_flat_map(|interval_ns| {
            let moves = paths(interval_ns)
                .prop_flat_map(move |before| (Just(before), prop_oneof![Just(before), paths(interval_ns)]));
            let outages = prop::collection::vec(silences(), 1..4);
            (Just(interval_ns), moves, outages, any::<u64>(), 0..3_u64, 0..3_u64, 0..3_u64)
        })
        .prop_map(|(interval_ns, (before, after), outages, seed, loss, duplicate, slip)| Scenario {
            interval_ns,
            before,
            after,
            outages,
            seed,
            loss_percent: loss,
            duplicate_percent: duplicate,
            slip_percent: slip,
            calm: CALM,
        })
}

/// EchoGaps at any distance from each other, among more losses.
fn dense_scenarios() -> impl Strategy<Value = Scenario> {
    (scenarios(), 0..CALM, 0..20_u64).prop_map(|(scenario, calm, loss_percent)| Scenario {
        loss_percent,
        calm,
        ..scenario
    })
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
            let found = simulated.truths.iter().any(|truth| holds(truth, gap));
            prop_assert!(found, "{gap:#?}\n{seen:#?}\n{:#?}", simulated.truths);
        }
        for truth in &simulated.truths {
            let round_trip_ns = scenario.before.longest_ns().max(scenario.after.longest_ns());
            let slack_ns = 8 * scenario.interval_ns + MIN_GAP_NS + 4 * round_trip_ns;
            let found = gaps.iter().filter(|(_, gap)| holds(truth, gap)).count();
            let is_long = truth.until_ns - truth.from_ns > slack_ns;
            prop_assert!(found == 1 || (found == 0 && !is_long), "{found} for {truth:?}: {gaps:#?}");
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
        let unanswered_when_told = simulated.requests.iter().filter(|request| {
            let within = |(at, seen): &&(u64, abi::EchoGap)| {
                let until_ns = if seen.may_be == 0 { seen.resumed_ns } else { seen.resuming_request_ns };
                request.replied_ns.is_none_or(|replied| replied >= *at)
                    && (seen.answered_request_ns..=until_ns).contains(&request.sent_ns)
            };
            simulated.gaps.iter().any(|gap| within(&gap))
        });
        prop_assert!(seen.lost() <= unanswered_when_told.count() as u64, "a request counts twice: {seen:#?}");
        for (seen, gap) in &gaps {
            let (low_ns, high_ns) = (gap.length.low_ns, gap.length.high_ns.unwrap());
            prop_assert!((low_ns..=high_ns).contains(&gap.length.value_ns), "{gap:#?}");
            prop_assert!((gap.start.low_ns..=gap.start.high_ns).contains(&gap.start.value_ns), "{gap:#?}");
            prop_assert!(seen.may_be == 0 || (low_ns == 0 && high_ns > MIN_GAP_NS), "{gap:#?}");
            prop_assert!(seen.may_be == 0 || gap.lost + gap.late > 0, "{gap:#?}");
            let is_told_twice = gaps.iter().any(|(other, _)| {
                other.may_be == 0 && other.holds(seen.first_waiting_ns) && other.holds(seen.before_resumed_ns)
            });
            prop_assert!(seen.may_be == 0 || !is_told_twice, "{gap:#?}");
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
            // Told when the first replies to later requests had come: slower ones are still on their way.
            let told_at = simulated.gaps.iter().find(|(_, other)| *other == seen).unwrap().0;
            let slower = requests.iter().filter(inside).filter(|r| r.replied_ns.is_some_and(|at| at >= told_at));
            let slower = slower.count() as u64;
            prop_assert_eq!(seen.requests, requests.iter().filter(inside).count() as u64);
            prop_assert!((lost..=lost + slower).contains(&gap.lost), "{} of {lost}: {gap:#?}", gap.lost);
        }
    }
}

/// A calm path of a few microseconds, and one silence of `length` intervals of 100 µs.
fn scenario(silence: Silence, length: f64) -> Scenario {
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
fn lost_late_and_prompt_requests_are_told_apart() {
    for (silence, lost, late) in
        [(Silence::Loses, 1_000, 0), (Silence::Delays, 0, 1_000), (Silence::LosesThenDelays, 500, 500)]
    {
        let simulated = simulate(&scenario(silence, 1_000.0));
        let [(_, gap)] = &sure(&simulated)[..] else { panic!("{:?}", simulated.gaps) };
        assert!(gap.lost.abs_diff(lost) <= 1, "{silence:?}: {gap:?}");
        assert!(gap.late.abs_diff(late) <= 1, "{silence:?}: {gap:?}");
        assert_eq!(simulated.state.late, gap.late);
        let method = if late > 0 { Method::DelayedReplies } else { Method::LostRequests };
        assert_eq!(gap.length.method, method);
        assert!(holds(&simulated.truths[0], gap));
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
        outages: vec![Outage { length: 5.7, phase: 1.3, silence: Silence::LosesThenDelays }],
        ..scenario(Silence::Loses, 0.0)
    };
    let simulated = simulate(&scenario);
    let gaps = told(&simulated);
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
        ..scenario(Silence::Delays, 18.0)
    };
    let simulated = simulate(&scenario);
    let [(_, gap)] = &told(&simulated)[..] else { panic!("{:#?}", simulated.gaps) };
    assert!(!gap.is_sure() && gap.lost == 0 && gap.late > 0, "{gap:#?}");
    assert_eq!(gap.length.method, Method::DelayedReplies);
    assert!(covers(gap, &simulated.silences[0]), "{gap:#?}");
}

#[test]
fn a_silence_that_uses_all_sequence_numbers_is_one_gap_of_the_right_length() {
    for silence in [Silence::Loses, Silence::Delays, Silence::LosesThenDelays] {
        for length in [65_000.0, 65_535.4, 65_536.0, 65_537.2, 80_000.0, 140_000.5] {
            let simulated = simulate(&scenario(silence, length));
            let gaps = sure(&simulated);
            assert_eq!(gaps.len(), 1, "{silence:?} of {length}: {gaps:#?}");
            let gap = &gaps[0].1;
            assert!(holds(&simulated.truths[0], gap), "{silence:?} of {length}: {gap:?}");
            let width_ns = gap.length.high_ns.unwrap() - gap.length.low_ns;
            assert!(width_ns <= 2 * 100_000 + 2 * 60_000, "{silence:?} of {length}: {gap:?}");
        }
    }
}

#[test]
fn two_silences_are_two_gaps() {
    let mut scenario = scenario(Silence::Loses, 90.0);
    scenario.outages.push(Outage { length: 1_020.0, phase: 0.0, silence: Silence::Loses });
    let simulated = simulate(&scenario);
    let gaps = sure(&simulated);
    assert_eq!(gaps.len(), 2);
    for (truth, (_, gap)) in simulated.truths.iter().zip(&gaps) {
        assert!(holds(truth, gap), "{truth:?} {gap:?}");
    }
}

#[test]
fn a_silence_just_after_another_is_a_gap_of_its_own() {
    for first in [Silence::Loses, Silence::Delays] {
        for second in [Silence::Loses, Silence::Delays] {
            let mut scenario = scenario(first, 90.0);
            // Within the requests that the round trips after the first are learnt from.
            scenario.calm = 4;
            scenario.outages.push(Outage { length: 1_020.0, phase: 0.5, silence: second });
            let simulated = simulate(&scenario);
            let gaps = sure(&simulated);
            assert_eq!(gaps.len(), 2, "{first:?} {second:?}: {gaps:#?}");
            for (truth, (_, gap)) in simulated.truths.iter().zip(&gaps) {
                assert!(holds(truth, gap), "{first:?} {second:?}: {truth:?} {gap:?}");
            }
        }
    }
}

#[test]
fn a_silence_right_after_a_single_late_reply_is_a_gap_of_its_own() {
    const MS: u64 = 1_000_000;
    let slots = Slots(RefCell::new(vec![0; 1 << 16]));
    let state = shared::EchoSession::default();
    let mut gaps = Vec::new();
    let mut told = |_, gap: &shared::EchoGap| gaps.push(closed(&gap.load().into(), ORIGIN));
    for number in 0..400_u64 {
        // The sender stood still for 16 ms with one request on its way, which came back after that.
        let sent_ns = ORIGIN.0 + number * MS + if number > 200 { 16 * MS } else { 0 };
        session::request(&state, &slots, number as u16, sent_ns);
        let round_trip_ns = match number {
            200 => 15 * MS,
            // A silence of 12 ms, with the next request.
            201..213 => continue,
            _ => 100_000,
        };
        session::reply(&state, &slots, number as u16, sent_ns + round_trip_ns, MIN_GAP_NS, &mut told);
    }
    let [late, lost] = &gaps[..] else { panic!("{gaps:#?}") };
    assert_eq!((late.late, late.lost), (1, 0), "{late:#?}");
    assert_eq!((lost.late, lost.lost), (0, 12), "{lost:#?}");
    assert!((lost.length.low_ns..=lost.length.high_ns.unwrap()).contains(&(12 * MS)), "{lost:#?}");
}

#[test]
fn single_losses_and_a_sender_that_stalls_are_no_gaps() {
    let mut scenario = scenario(Silence::Loses, 0.0);
    (scenario.loss_percent, scenario.slip_percent, scenario.interval_ns) = (3, 10, 1_000_000);
    let simulated = simulate(&scenario);
    assert!(simulated.state.answered < simulated.state.sent);
    assert_eq!(sure(&simulated).len(), 0, "{:#?}", simulated.gaps);
}
