//! A simulated guest whose silences are known, and what the kernel side sees of it.
//!
//! A path delays each message, arbitrarily up to a limit, loses some and repeats some. The guest answers what reaches it,
//! but not while it is silent. The kernel's state machine sees only the stamps of requests and replies.

use std::cell::RefCell;
use std::ops::Range;

use migtrace_ebpf::abi::{self, EchoSession, shared};
use migtrace_ebpf::echo_session::{self, Reply, Stamps};
use migtrace_ebpf::word::Words as _;

pub(super) const MIN_GAP_NS: u64 = 1_000_000;
/// Requests before the first silence and after the last: the latest round trips are known by then.
pub(super) const CALM: u64 = 300;

pub(super) struct Slots(pub(super) RefCell<Vec<u64>>);

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
pub(super) enum WhileSilent {
    /// It never answers them.
    Loses,
    /// It answers them all when it wakes up, one after the other.
    Delays,
    /// It answers the last ones: the first went to a host that the guest has left.
    LosesThenDelays,
}

/// A silence that a scenario asks for.
#[derive(Clone, Debug)]
pub(super) struct Outage {
    /// In intervals.
    pub(super) length: f64,
    /// How long after the calm it begins, in intervals.
    pub(super) phase: f64,
    pub(super) silence: WhileSilent,
}

/// How long a message takes each way: the shortest time, and by how much it may be longer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) there_ns: u64,
    pub(super) back_ns: u64,
    pub(super) jitter_ns: u64,
}

impl Path {
    /// The longest round trip.
    pub(super) const fn longest_ns(&self) -> u64 {
        self.there_ns + self.back_ns + 2 * self.jitter_ns
    }
}

#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) interval_ns: u64,
    pub(super) before: Path,
    pub(super) after: Path,
    pub(super) outages: Vec<Outage>,
    pub(super) seed: u64,
    pub(super) loss_percent: u64,
    pub(super) duplicate_percent: u64,
    pub(super) slip_percent: u64,
    /// Requests between two silences, besides those of some round trips.
    pub(super) calm: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) sent_ns: u64,
    pub(super) arrived_ns: u64,
    pub(super) replied_ns: Option<u64>,
}

/// A silence as the guest knows it; lost requests next to it are part of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct GuestSilence {
    pub(super) from_ns: u64,
    pub(super) until_ns: u64,
}

pub(super) struct Simulated {
    pub(super) requests: Vec<Request>,
    /// The silences, and what was lost next to them.
    pub(super) guest_silences: Vec<GuestSilence>,
    /// The silences alone.
    pub(super) silences: Vec<GuestSilence>,
    /// Of each request, whether it was overtaken and took longer than the latest that were answered before it.
    pub(super) late: Vec<bool>,
    pub(super) duplicates: u64,
    /// The kernel's view.
    pub(super) state: EchoSession,
    /// Each with the time at which it was reported.
    pub(super) gaps: Vec<(u64, abi::EchoGap)>,
}

/// A small generator of numbers: the same seed gives the same scenario.
pub(super) struct Random(u64);

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

pub(super) fn simulate(scenario: &Scenario) -> Simulated {
    let mut random = Random(scenario.seed | 1);
    let interval_ns = scenario.interval_ns;
    let mut guest_silences = Vec::new();
    let mut from_ns = 1_000_000_000 + CALM * interval_ns;
    for outage in &scenario.outages {
        from_ns += (outage.phase * interval_ns as f64) as u64;
        let until_ns = from_ns + (outage.length * interval_ns as f64) as u64;
        guest_silences.push(GuestSilence { from_ns, until_ns });
        let round_trips_ns = 4 * (scenario.after.there_ns + scenario.after.back_ns);
        from_ns = until_ns + scenario.calm * interval_ns + round_trips_ns;
    }
    let end_ns = from_ns + CALM * interval_ns;
    let mut requests = Vec::new();
    let mut lost_at_random = u64::MAX;
    let mut sent_ns = 1_000_000_000;
    while sent_ns < end_ns {
        let number = requests.len() as u64;
        let moved = guest_silences.first().is_some_and(|first: &GuestSilence| sent_ns >= first.from_ns);
        let path = if moved { scenario.after } else { scenario.before };
        // Both ways as slow as can be, from time to time: what is not seen cannot be allowed for.
        let slowest = number.is_multiple_of(50);
        let mut jitter = || if slowest { path.jitter_ns } else { random.step_to(path.jitter_ns) };
        let (there_ns, back_ns) = (path.there_ns + jitter(), path.back_ns + jitter());
        let arrived_ns = sent_ns + there_ns;
        let mut replied_ns = Some(arrived_ns + back_ns);
        let hit = guest_silences.iter().position(|t| (t.from_ns..t.until_ns).contains(&arrived_ns));
        if let Some(index) = hit {
            let guest_silence = guest_silences[index];
            let lost = match scenario.outages[index].silence {
                WhileSilent::Loses => true,
                WhileSilent::Delays => false,
                WhileSilent::LosesThenDelays => {
                    arrived_ns < guest_silence.from_ns.midpoint(guest_silence.until_ns)
                }
            };
            // Those that waited leave in order, right after each other.
            let drain_ns = (arrived_ns - guest_silence.from_ns) * 1_000
                / (guest_silence.until_ns - guest_silence.from_ns);
            replied_ns = (!lost).then_some(guest_silence.until_ns + drain_ns + back_ns);
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
    let silences = guest_silences.clone();
    extend(&mut guest_silences, &requests);
    let Observed { state, gaps, late, duplicates } = observe(scenario, &requests, &mut random);
    Simulated { requests, guest_silences, silences, late, duplicates, state, gaps }
}

/// Extends each silence by the requests that were lost next to it: they cannot be distinguished from those that were
/// lost because of it, unless the guest has answered one in between.
pub(super) fn extend(guest_silences: &mut [GuestSilence], requests: &[Request]) {
    for guest_silence in guest_silences {
        let silent =
            |request: &Request| (guest_silence.from_ns..guest_silence.until_ns).contains(&request.arrived_ns);
        let (Some(first), Some(last)) = (requests.iter().position(silent), requests.iter().rposition(silent))
        else {
            continue;
        };
        // What waited was answered at the end of the silence.
        let answered_at = |r: &Request| if silent(r) { guest_silence.until_ns } else { r.arrived_ns };
        let awake = |range: Range<u64>| {
            let answered = requests.iter().filter(|r| r.replied_ns.is_some()).map(answered_at);
            answered.filter(move |at| range.contains(at))
        };
        let awake_before = awake(0..guest_silence.from_ns).max().map_or(0, |at| at + 1);
        let awake_after = awake(guest_silence.until_ns..u64::MAX).min().unwrap_or(u64::MAX);
        let lost_before = requests[..first].iter().rev().take_while(|r| r.replied_ns.is_none());
        let lost_after = requests[last + 1..].iter().take_while(|r| r.replied_ns.is_none());
        let (before, after) =
            (lost_before.map(|r| r.arrived_ns).min(), lost_after.map(|r| r.arrived_ns).max());
        guest_silence.from_ns =
            before.map_or(guest_silence.from_ns, |at| at.max(awake_before).min(guest_silence.from_ns));
        guest_silence.until_ns =
            after.map_or(guest_silence.until_ns, |at| (at + 1).min(awake_after).max(guest_silence.until_ns));
    }
}

pub(super) struct Observed {
    pub(super) state: EchoSession,
    pub(super) gaps: Vec<(u64, abi::EchoGap)>,
    pub(super) late: Vec<bool>,
    pub(super) duplicates: u64,
}

/// Shows the stamps to the kernel's state machine, in their order.
pub(super) fn observe(scenario: &Scenario, requests: &[Request], random: &mut Random) -> Observed {
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
            let reply = echo_session::reply(&state, &slots, sequence, at_ns, MIN_GAP_NS, |_, gap| {
                gaps.push((at_ns, gap.load()));
            });
            late[number] |= is_slow && is_overtaken && reply != Reply::Duplicate;
        } else {
            echo_session::request(&state, &slots, sequence, at_ns);
        }
    }
    let state = state.load();
    gaps.extend(state.unsettled(MIN_GAP_NS).map(|gap| (u64::MAX, gap)));
    Observed { state, gaps, late, duplicates }
}
