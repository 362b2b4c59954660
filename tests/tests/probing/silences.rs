//! Silences of a guest, and the gaps that should be them.

use super::{Probing, network, one_at_a_time};
use migtrace::probe::{End, Report};
use migtrace::record::Gap;
use migtrace_lab::{
    ActualSilence, CpuStallWatch, CpuStalls, PlannedSilence, PlayedPlan, Responder, SilenceKind,
};
use std::fmt::{self, Display, Formatter};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

const INTERVAL_NS: u64 = 1_000_000;
/// What the bounds may be wider than two intervals and the round trip.
const SLACK_NS: u64 = 200_000;

const SILENCES: u32 = 60;
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(2);

/// For how long silences that the machine has spoilt are tried again.
const PATIENCE: Duration = Duration::from_secs(150);
/// How many silences a round has at least. When few are left, each is played several times: a machine that stands still
/// often spoils most of them.
const AT_ONCE: usize = 16;

/// For how long before a silence its bounds are learnt: 128 round trips, and some that were left out.
const LEARNT_NS: u64 = 150 * INTERVAL_NS;
/// A silence is not told from the time between two requests, and the shortest that is told is an interval long.
const INDISTINCT_NS: u64 = 4 * INTERVAL_NS;

/// As many lengths as there are silences, each a little longer than the one before, in an order that mixes them; at
/// phases that have nothing to do with the requests'.
fn plan(silence: SilenceKind) -> Vec<PlannedSilence> {
    let growth = LONGEST.as_secs_f64() / SHORTEST.as_secs_f64();
    (0..SILENCES)
        .map(|number| {
            // 23 and 60 have no common divisor.
            let rank = f64::from(number * 23 % SILENCES) / f64::from(SILENCES - 1);
            // Squared, for the sake of time: there are more short ones than long ones.
            let length = SHORTEST.mul_f64(growth.powf(rank.powi(2)));
            // Multiples of an irrational number leave no phase out.
            let phase = (f64::from(number) * 0.618_033_988_75).fract();
            PlannedSilence {
                after: Duration::from_millis(150) + Duration::from_millis(1).mul_f64(phase),
                length,
                silence,
            }
        })
        .collect()
}

/// As the report tells times.
fn since_start(at_ns: &RangeInclusive<u64>, report: &Report) -> RangeInclusive<i64> {
    let since = |at_ns: u64| at_ns.cast_signed() - report.start.monotonic_ns.cast_signed();
    since(*at_ns.start())..=since(*at_ns.end())
}

fn overlap<T: Ord>(a: &RangeInclusive<T>, b: &RangeInclusive<T>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

/// The gaps that a silence may be, but for those that may have been none.
pub(crate) fn gaps_of<'a>(truth: &ActualSilence, report: &'a Report) -> Vec<&'a Gap> {
    let silence = *truth.from_ns.start()..=*truth.until_ns.end();
    let silence = since_start(&silence, report);
    let holds = |gap: &&Gap| {
        let end_ns = gap.start.low_ns.saturating_add_unsigned(gap.length.high_ns.unwrap_or(u64::MAX >> 1));
        overlap(&silence, &(gap.start.low_ns..=end_ns))
    };
    report.streams[0].gaps.iter().filter(|gap| gap.is_sure()).filter(holds).collect()
}

/// What is wrong with a gap that should be this silence; none when its bounds hold it.
pub(crate) fn contradiction(truth: &ActualSilence, gap: &Gap, report: &Report) -> Option<String> {
    let shortest_ns = truth.until_ns.start().saturating_sub(*truth.from_ns.end());
    let longest_ns = truth.until_ns.end() - truth.from_ns.start();
    let bounds_ns = gap.length.low_ns..=gap.length.high_ns?;
    let start_ns = gap.start.low_ns..=gap.start.high_ns;
    let from_ns = since_start(&truth.from_ns, report);
    if !overlap(&bounds_ns, &(shortest_ns..=longest_ns)) {
        return Some(format!("it lasted {shortest_ns} to {longest_ns} ns, not {bounds_ns:?}"));
    }
    (!overlap(&start_ns, &from_ns)).then(|| format!("it began at {from_ns:?} ns, not {start_ns:?}"))
}

/// Sixty silences, each a gap whose bounds hold the truth and are as narrow as they should be. Bounds that do not hold
/// it fail the test at once, unless the machine is known to have stood still for as long as they are wrong: then nothing
/// is proven, and the silence is tried again.
pub(crate) fn proves_every_silence(silence: SilenceKind) {
    let _lock = one_at_a_time();
    let lab = network();
    let responder = Responder::start(lab.source().netns()).unwrap();
    let mut left: Vec<_> = plan(silence).into_iter().map(Left::new).collect();
    let mut seen = Seen::default();
    let deadline = Instant::now() + PATIENCE;
    while !left.is_empty() && Instant::now() < deadline {
        let is_first = left.len() == SILENCES as usize;
        let arguments: &[_] = if is_first { &[] } else { &["--no-preflight"] };
        let repeated = left.len() * AT_ONCE.div_ceil(left.len());
        let plan: Vec<_> = left.iter().map(|left| left.planned).cycle().take(repeated).collect();
        let probing = Probing::start(lab.observer(), lab.source().ipv4().into(), arguments);
        let witness = CpuStallWatch::start().unwrap();
        responder.play(plan).unwrap();
        let played = responder.played().unwrap();
        let (code, report) = probing.stop();
        let standstills = witness.finish().unwrap();
        assert_eq!((code, report.end), (Some(0), End::Interrupted));
        assert_eq!(played.truths.len(), repeated);

        let around = Surroundings { report: &report, played: &played, standstills: &standstills };
        let mut is_undisturbed = true;
        for (number, truth) in (0..left.len()).cycle().zip(&played.truths) {
            let left = &mut left[number];
            match judge(truth, silence, &around) {
                Verdict::Proven(told) => left.proven = left.proven.or(Some(told)),
                Verdict::Wide(told, why) => {
                    is_undisturbed = false;
                    left.wide = left.wide.or(Some(told));
                    println!("{silence:?} for {:?}, wide: {why}", left.planned.length);
                }
                Verdict::Spoilt(why) => {
                    is_undisturbed = false;
                    println!("{silence:?} for {:?}, spoilt: {why}", left.planned.length);
                }
            }
        }
        let echo = &report.streams[0].echo;
        println!("{silence:?}: CPUs stood still for {:?}; {echo:?}", standstills.total());
        assert_eq!(echo.duplicate, 0);
        if is_undisturbed {
            let gaps = report.streams[0].gaps.iter().filter(|gap| gap.is_sure());
            let lost_in_gaps: u64 = gaps.map(|gap| gap.lost).sum();
            assert_eq!(echo.lost, lost_in_gaps, "{report:#?}");
        }
        seen.0.extend(left.iter().filter_map(|left| left.proven));
        left.retain(|left| left.proven.is_none());
    }
    let wide: Vec<_> = left.iter().filter_map(|left| left.wide).collect();
    let unproven = left.len() - wide.len();
    seen.0.extend(&wide);
    println!("{silence:?}: {seen}; {} of them wide", wide.len());
    assert_eq!(unproven, 0, "the machine stood still again and again: so many silences are not proven");
    assert_eq!(seen.0.len(), SILENCES as usize);
    assert!(wide.len() <= SILENCES as usize / 2, "{seen}");
}

/// A silence that is not proven yet.
struct Left {
    planned: PlannedSilence,
    proven: Option<Told>,
    /// What was told when the bounds held it, but were wide.
    wide: Option<Told>,
}

impl Left {
    const fn new(planned: PlannedSilence) -> Self {
        Self { planned, proven: None, wide: None }
    }
}

/// What was measured around a silence.
#[derive(Clone, Copy)]
struct Surroundings<'a> {
    report: &'a Report,
    played: &'a PlayedPlan,
    standstills: &'a CpuStalls,
}

enum Verdict {
    Proven(Told),
    /// The bounds hold the truth, but long round trips both before and after make them wide.
    Wide(Told, String),
    /// The machine stood still at the wrong time: nothing is proven.
    Spoilt(String),
}

/// Compares a silence with its gap. Panics when the two contradict each other.
fn judge(exact: &ActualSilence, kind: SilenceKind, around: &Surroundings<'_>) -> Verdict {
    let Surroundings { report, standstills, played } = *around;
    let silence = exact.from_ns.end()..exact.until_ns.start();
    if !played.arrivals_ns.iter().any(|at_ns| silence.contains(&at_ns)) {
        return Verdict::Spoilt("no request came in it".into());
    }
    // The path stands still with the CPU that it is on: then nobody can tell when the silence began or ended.
    let truth = ActualSilence {
        from_ns: standstills.stretch(&exact.from_ns, INTERVAL_NS),
        until_ns: standstills.stretch(&exact.until_ns, INTERVAL_NS),
    };
    let gaps = gaps_of(&truth, report);
    let unrest_ns = around.unrest_ns(exact);
    if let Some(gap) = gaps.iter().find(|gap| contradiction(exact, gap, report).is_none()) {
        let as_played = match kind {
            SilenceKind::LosesRequests => gap.lost > 0,
            SilenceKind::DelaysReplies => gap.lost == 0 && gap.late > 0,
        };
        if as_played {
            return judge_width(exact, gap);
        }
        // Replies that the path holds back for so long are counted as lost when the gap is told.
        assert!(unrest_ns > INDISTINCT_NS, "{kind:?}: {gap:#?}");
        return Verdict::Spoilt(format!("replies came later than others, in an unrest of {unrest_ns} ns"));
    }
    if gaps.iter().any(|gap| contradiction(&truth, gap, report).is_none()) {
        return Verdict::Spoilt(format!("its ends are not known better than {truth:?}"));
    }
    let length_ns = exact.until_ns.start() - exact.from_ns.end();
    // The bounds are made from the longest of the latest round trips, at either end.
    let drowned = length_ns < 2 * unrest_ns + INDISTINCT_NS;
    let explained = gaps.iter().any(|gap| error_ns(exact, gap, report) <= unrest_ns);
    let why: Vec<_> = gaps.iter().map(|gap| (contradiction(&truth, gap, report), gap)).collect();
    assert!(
        drowned || explained,
        "no gap is the silence {truth:?} (to the clock: {exact:?}) of {length_ns} ns, the longest unrest around it is \
         {unrest_ns} ns: {why:#?}"
    );
    Verdict::Spoilt(format!("not told from an unrest of {unrest_ns} ns"))
}

impl Surroundings<'_> {
    /// The longest time around a silence for which a CPU or the path to the guest stood still.
    fn unrest_ns(&self, truth: &ActualSilence) -> u64 {
        let around = truth.from_ns.start() - LEARNT_NS..=*truth.until_ns.end() + LEARNT_NS;
        let still = self.standstills.within(&around).map(|still| still.end() - still.start()).max();
        let arrivals = self.played.arrivals_ns.windows(2);
        let pauses = arrivals.filter(|pair| overlap(&(pair[0]..=pair[1]), &around));
        let pause = pauses.map(|pair| (pair[1] - pair[0]).saturating_sub(INTERVAL_NS)).max();
        still.max(pause).unwrap_or(0)
    }
}

/// By how much the bounds of a gap miss a silence.
fn error_ns(truth: &ActualSilence, gap: &Gap, report: &Report) -> u64 {
    let length_ns = truth.until_ns.start() - truth.from_ns.end();
    let from_ns = *since_start(&truth.from_ns, report).start();
    let below = gap.length.low_ns.saturating_sub(length_ns);
    let above = gap.length.high_ns.map_or(0, |high_ns| length_ns.saturating_sub(high_ns));
    let before = u64::try_from(gap.start.low_ns - from_ns).unwrap_or(0);
    let after = u64::try_from(from_ns - gap.start.high_ns).unwrap_or(0);
    below.max(above).max(before).max(after)
}

fn judge_width(truth: &ActualSilence, gap: &Gap) -> Verdict {
    let told = Told::new(truth, gap);
    // The sender may have been late: the bounds follow from when the requests really left.
    let intervals_ns = gap.interval_at_start_ns + gap.interval_at_end_ns.unwrap();
    let (before_ns, after_ns) = (gap.round_trip_before_ns, gap.round_trip_after_ns);
    let limit_ns = intervals_ns + before_ns + after_ns;
    assert!(told.width_ns <= limit_ns, "{} ns wide, more than {limit_ns}: {gap:#?}", told.width_ns);
    if told.width_ns <= intervals_ns + before_ns.max(after_ns) + SLACK_NS {
        Verdict::Proven(told)
    } else {
        Verdict::Wide(told, format!("round trips of {before_ns} and {after_ns} ns"))
    }
}

/// How a gap tells of its silence.
#[derive(Clone, Copy, Debug)]
struct Told {
    width_ns: u64,
    error_ns: u64,
    /// Whether its bounds are no wider than they would be if no request had left late.
    is_punctual: bool,
}

impl Told {
    fn new(truth: &ActualSilence, gap: &Gap) -> Self {
        let width_ns = gap.length.high_ns.unwrap() - gap.length.low_ns;
        let round_trip_ns = gap.round_trip_before_ns.max(gap.round_trip_after_ns);
        let length_ns = truth.until_ns.start() - truth.from_ns.end();
        Self {
            width_ns,
            error_ns: gap.length.value_ns.abs_diff(length_ns),
            is_punctual: width_ns <= 2 * INTERVAL_NS + round_trip_ns + SLACK_NS,
        }
    }
}

/// What became of the silences.
#[derive(Debug, Default)]
struct Seen(Vec<Told>);

impl Display for Seen {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let of = |figure: fn(&Told) -> u64| {
            let mut values: Vec<_> = self.0.iter().map(figure).collect();
            values.sort_unstable();
            let median = values.get(values.len() / 2).copied().unwrap_or(0);
            (median / 1_000, values.last().copied().unwrap_or(0) / 1_000)
        };
        let ((width, widest), (error, worst)) = (of(|told| told.width_ns), of(|told| told.error_ns));
        write!(
            f,
            "{} silences, requests around {} left in time; bounds {width} µs wide (median), {widest} µs at most; error \
             {error} µs (median), {worst} µs at most",
            self.0.len(),
            self.0.iter().filter(|told| told.is_punctual).count(),
        )
    }
}
