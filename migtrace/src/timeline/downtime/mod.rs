//! How long the guest was gone, from every place where that can be seen: its vCPUs, its tap, the network.

mod claims;
mod figures;
mod marks;
mod remarks;

use serde_json::Value;

use super::clocks::Clocks;
use super::estimates::offset;
use super::facts::{Facts, Mark, MarkKind, Process};
use super::gaps::{self, Silence};
use super::migration::{End as MigrationEnd, Migration};
use super::probed::Probe;
use super::silences::Silences;
use crate::record::{self, Brownout, Disturbance, Downtime, Estimate, Gap, Method, Outcome, Role};
use crate::units::MonotonicNs;
use crate::vocabulary::Echo;

/// QEMU tells its times in milliseconds, rounded.
const NS_PER_MS: u64 = 1_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// What else is known of a migration when its downtime is worked out.
pub(super) struct Context<'a> {
    /// The other half of the same migration, when both QEMUs are on this host.
    pub(super) other: Option<&'a Migration<'a>>,
    /// The gaps of the echo requests to the guest, in their order.
    pub(super) silences: &'a [Silence<'a>],
    /// The echo requests to the guest.
    pub(super) probe: Option<Probe<'a>>,
    pub(super) total_time: Option<&'a Estimate>,
}

/// What both halves of a migration tell of the guest's stop, as far as this host saw them.
struct Sides<'a> {
    start: MonotonicNs,
    clocks: &'a Clocks,
    source: Option<&'a Migration<'a>>,
    destination: Option<&'a Migration<'a>>,
}

/// How long the guest was gone.
pub(super) fn downtime(facts: &Facts, migration: &Migration<'_>, context: &Context<'_>) -> Downtime {
    let Context { other, silences, probe, total_time } = context;
    let (source, destination) = match migration.role {
        Role::Source => (Some(migration), *other),
        Role::Destination => (*other, Some(migration)),
    };
    let sides = Sides { start: migration.start, clocks: &facts.clocks, source, destination };
    let silence = sides.silence(silences);
    let reachability = sides.reachability(silence, probe.as_ref());
    // What may have been no gap bounds nothing, unless it lies around the stop.
    let around_stop = silence.filter(|silence| sides.is_framed_by(silence));
    let gap = around_stop.map(|silence| &silence.gap);
    let stop = sides.stop(gap);
    let tail =
        reachability.as_ref().zip(stop.as_ref()).and_then(|(reachability, stop)| tail(reachability, stop));
    let reported_ms = migration.reply().and_then(|r| r.get("downtime")).and_then(Value::as_u64);
    let host = facts.observation.as_ref().map_or("", |o| o.host.as_str());
    let echo = probe.as_ref().and_then(|probe| probe.echo);
    let brownout =
        reachability.as_ref().and(silence).zip(echo).map(|(silence, echo)| {
            brownout(&facts.silences, silences, silence, sides.next_migration(), echo)
        });
    let mut downtime = Downtime {
        stopped: sides.stopped_at_all(facts),
        stop,
        network: sides.network(),
        reachability,
        tail,
        brownout,
        qemu_reported_ns: reported_ms.and_then(|ms| ms.checked_mul(NS_PER_MS)),
        budget_ns: budget_ns(migration),
        contradictions: Vec::new(),
        remarks: sides.remarks(migration),
        taps: sides.taps(),
        announcements: sides.announcements(),
        marks: sides.marks(host, around_stop),
    };
    let mut found = claims::contradictions(&downtime, *total_time, sides.held_back_ns().unwrap_or(0));
    found.extend(sides.answers_too_early(gap));
    found.extend(claims::against(facts, migration));
    downtime.contradictions = found;
    downtime
}

/// How well the guest answered before a gap, which is one of those around the migration, and after it until its `next`
/// migration, or until nobody asked any more.
fn brownout(
    silences: &Silences,
    around: &[Silence<'_>],
    downtime: &Silence<'_>,
    next: Option<MonotonicNs>,
    echo: &Echo,
) -> Brownout {
    let before = around.iter().filter(|other| other.seen.resumed_ns < downtime.seen.resumed_ns);
    let before: Vec<_> = before.map(|silence| silence.gap.clone()).collect();
    let just_after = |at: MonotonicNs| MonotonicNs(at.0.saturating_add(1));
    let since = downtime.seen.resumed_ns;
    let until = next.map_or(MonotonicNs(u64::MAX), |next| next.max(since));
    let later = silences.touching(just_after(since), until);
    let after: Vec<_> = later.map(|seen| gaps::closed(seen, since)).collect();
    let worst = |ns: &mut dyn Iterator<Item = u64>| ns.max().filter(|ns| *ns > 0);
    // Of each gap the worst round trip is that since the one before.
    let untils = before.iter().chain([&downtime.gap]).map(|gap| gap.worst_round_trip_ns);
    let behind = silences.first_since(just_after(until)).map(|seen| seen.worst_round_trip_ns);
    let behind = behind.or(echo.worst_since_last_gap_ns);
    let sinces = after.iter().map(|gap| gap.worst_round_trip_ns).chain(behind);
    Brownout {
        before: Disturbance { worst_round_trip_ns: worst(&mut { untils }), longest_gap: longest(&before) },
        after: Disturbance { worst_round_trip_ns: worst(&mut { sinces }), longest_gap: longest(&after) },
    }
}

/// The longest of those that are sure, or else of those that may have been ones.
fn longest(gaps: &[Gap]) -> Option<Estimate> {
    let plausible = gaps.iter().filter(|gap| gap.is_plausible());
    plausible.max_by_key(|gap| (gap.is_sure(), gap.length.value_ns)).map(|gap| gap.length.clone())
}

/// QEMU's `downtime-limit`, as it was told last: managers raise it while a migration does not converge.
fn budget_ns(migration: &Migration<'_>) -> Option<u64> {
    migration.parameters()?.get("downtime-limit").and_then(Value::as_u64)?.checked_mul(NS_PER_MS)
}

/// What the network needed to find the guest again; none of two lengths that contradict each other.
fn tail(reachability: &Estimate, stop: &Estimate) -> Option<Estimate> {
    if reachability.high_ns.is_some_and(|high| high < stop.low_ns) {
        return None;
    }
    let value_ns = reachability.value_ns.saturating_sub(stop.value_ns);
    Some(Estimate {
        value_ns,
        low_ns: stop.high_ns.map_or(0, |high| reachability.low_ns.saturating_sub(high)).min(value_ns),
        high_ns: reachability.high_ns.map(|high| high.saturating_sub(stop.low_ns).max(value_ns)),
        method: Method::ReachabilityLessStop,
    })
}

/// A length of time in a sentence, to a thousandth: `1.250 s`, `36.812 ms`.
pub(super) fn spoken(ns: u64) -> String {
    let (unit_ns, unit) = if ns >= NS_PER_S { (NS_PER_S, "s") } else { (NS_PER_MS, "ms") };
    format!("{}.{:03} {unit}", ns / unit_ns, ns % unit_ns / (unit_ns / 1_000))
}

/// The first RESUME from `at` on.
fn resume_after<'a>(migration: &Migration<'a>, at: MonotonicNs) -> Option<&'a Mark> {
    migration.marks.iter().copied().find(|m| m.kind == MarkKind::Resume && m.at >= at)
}

/// The first frame of a guest from `at` on, at any of its taps.
fn first_frame(process: &Process, at: MonotonicNs) -> Option<MonotonicNs> {
    process.first_frames.since(at).next().map(|(first, _)| first)
}

/// When the vCPUs left KVM for a stop.
#[derive(Clone, Copy, Debug)]
struct Left {
    first: MonotonicNs,
    /// The last of those that are known.
    last: MonotonicNs,
    /// Whether the VM has no others.
    all_known: bool,
}

/// When the vCPUs left KVM for a stop: as they were at QEMU's event or, where that could not be read, when they ran again.
fn left(process: Option<&Process>, stop: &Mark) -> Option<Left> {
    let later = || process?.runs.vcpus_since(stop.at);
    let vcpus = stop.vcpus.or_else(later).filter(|vcpus| vcpus.inside == 0)?;
    let (first, last) = vcpus.first_left_ns.zip(vcpus.last_left_ns).filter(|(_, last)| *last <= stop.at)?;
    let in_all = process.and_then(|p| p.qemu.as_ref()).and_then(|q| q.vcpus);
    Some(Left { first: first.min(last), last, all_known: in_all.is_none_or(|all| vcpus.known >= all) })
}

impl<'a> Sides<'a> {
    fn at(&self, at: MonotonicNs) -> i64 {
        offset(at, self.start)
    }

    /// When the guest's next migration begins, where it has arrived or else where it was.
    fn next_migration(&self) -> Option<MonotonicNs> {
        self.destination.or(self.source)?.next_start
    }

    fn last_stop(&self) -> Option<&'a Mark> {
        self.source?.last_stop()
    }

    /// Where the guest can run again, the likelier side first, each with until when that is an end of the stop: a migration
    /// that has completed leaves no guest at the source, and what runs there later is another matter.
    fn places_to_run(&self) -> impl Iterator<Item = (&'a Migration<'a>, MonotonicNs)> {
        let until = |source: &Migration<'_>| match source.end {
            MigrationEnd::Declared(end, Outcome::Completed)
            | MigrationEnd::Replied(end, Outcome::Completed) => end,
            _ => MonotonicNs(u64::MAX),
        };
        let destination = self.destination.map(|destination| (destination, MonotonicNs(u64::MAX)));
        destination.into_iter().chain(self.source.map(|source| (source, until(source))))
    }
}

/// When a gap ended; none for one that has not.
fn ended(gap: &Gap) -> Option<record::Instant> {
    let signed = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
    let high_ns = gap.start.low_ns.saturating_add(signed(gap.length.high_ns?));
    Some(record::Instant {
        value_ns: gap.start.value_ns.saturating_add(signed(gap.length.value_ns)),
        low_ns: gap.start.high_ns.saturating_add(signed(gap.length.low_ns)),
        high_ns,
    })
}
