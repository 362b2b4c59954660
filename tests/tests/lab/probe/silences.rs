//! Sixty silences of a guest, compared with the gaps that `migtrace probe` reports.

use crate::support::probe_command::ProbeCommand;
use crate::support::{network, one_at_a_time};
use migtrace::probe::{ProbeEndReason, ProbeReport};
use migtrace::record::Gap;
use migtrace_lab::{
    ActualSilence, CpuStallWatch, CpuStalls, PlannedSilence, PlayedPlan, Responder, SilenceKind,
};
use std::fmt::{self, Display, Formatter};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

const INTERVAL_NS: u64 = 1_000_000;
/// How much wider the bounds may be than two intervals and the round trip.
const SLACK_NS: u64 = 200_000;

const SILENCES: u32 = 60;
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(2);

/// For how long silences that the machine has disturbed are repeated.
const RETRY_TIME: Duration = Duration::from_secs(150);
/// A round has at least this many silences. When few are left, each is played several times: a machine that often stalls
/// disturbs most of them.
const PER_ROUND: usize = 16;

/// The bounds of a silence depend on what happened this long before it: 128 round trips, and some that were left out.
const HISTORY_NS: u64 = 150 * INTERVAL_NS;
/// A shorter silence cannot be distinguished from the time between two requests.
const INDISTINCT_NS: u64 = 4 * INTERVAL_NS;

/// Silences of growing lengths, in a mixed order, that begin at phases unrelated to those of the requests.
fn plan(kind: SilenceKind) -> Vec<PlannedSilence> {
    let growth = LONGEST.as_secs_f64() / SHORTEST.as_secs_f64();
    (0..SILENCES)
        .map(|number| {
            // 23 and 60 have no common divisor.
            let rank = f64::from(number * 23 % SILENCES) / f64::from(SILENCES - 1);
            // Squared, to save time: short silences are more frequent than long ones.
            let length = SHORTEST.mul_f64(growth.powf(rank.powi(2)));
            // The multiples of an irrational number cover all phases.
            let phase = (f64::from(number) * 0.618_033_988_75).fract();
            PlannedSilence {
                after: Duration::from_millis(150) + Duration::from_millis(1).mul_f64(phase),
                length,
                kind,
            }
        })
        .collect()
}

/// Stamps as the report has them: since its start.
fn since_start(at_ns: &RangeInclusive<u64>, report: &ProbeReport) -> RangeInclusive<i64> {
    let since = |at_ns: u64| at_ns.cast_signed() - report.start.monotonic_ns.cast_signed();
    since(*at_ns.start())..=since(*at_ns.end())
}

fn overlap<T: Ord>(a: &RangeInclusive<T>, b: &RangeInclusive<T>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

/// The gaps that overlap a silence, without those that may not have happened.
fn gaps_during<'a>(silence: &ActualSilence, report: &'a ProbeReport) -> Vec<&'a Gap> {
    let silence = *silence.start_ns.start()..=*silence.end_ns.end();
    let silence = since_start(&silence, report);
    let holds = |gap: &&Gap| {
        let end_ns = gap.start.low_ns.saturating_add_unsigned(gap.length.high_ns.unwrap_or(u64::MAX >> 1));
        overlap(&silence, &(gap.start.low_ns..=end_ns))
    };
    report.streams[0].gaps.iter().filter(|gap| gap.is_sure()).filter(holds).collect()
}

/// What is wrong with a gap as the report of this silence; none when its bounds contain the silence.
fn contradiction(silence: &ActualSilence, gap: &Gap, report: &ProbeReport) -> Option<String> {
    let shortest_ns = silence.end_ns.start().saturating_sub(*silence.start_ns.end());
    let longest_ns = silence.end_ns.end() - silence.start_ns.start();
    let bounds_ns = gap.length.low_ns..=gap.length.high_ns?;
    let start_ns = gap.start.low_ns..=gap.start.high_ns;
    let from_ns = since_start(&silence.start_ns, report);
    if !overlap(&bounds_ns, &(shortest_ns..=longest_ns)) {
        return Some(format!("it lasted {shortest_ns} to {longest_ns} ns, not {bounds_ns:?}"));
    }
    (!overlap(&start_ns, &from_ns)).then(|| format!("it began at {from_ns:?} ns, not {start_ns:?}"))
}

/// Checks that each of sixty silences is reported as a gap whose bounds contain it and are as narrow as they should be.
/// Bounds that do not contain it fail the test at once, unless the machine provably stalled for as long as they are wrong:
/// then nothing is proven, and the silence is repeated.
pub(super) fn assert_every_silence_is_bounded(kind: SilenceKind) {
    let _lock = one_at_a_time();
    let lab = network();
    let responder = Responder::start(lab.source().netns()).unwrap();
    let mut open: Vec<_> = plan(kind).into_iter().map(OpenSilence::new).collect();
    let mut accuracies = Accuracies::default();
    let deadline = Instant::now() + RETRY_TIME;
    while !open.is_empty() && Instant::now() < deadline {
        let arguments: &[_] = if open.len() == SILENCES as usize { &[] } else { &["--no-preflight"] };
        let probe = ProbeCommand::start(lab.observer(), lab.source().ipv4().into(), arguments);
        play_round(&responder, probe, kind, &mut open);
        accuracies.0.extend(open.iter().filter_map(|open| open.proven));
        open.retain(|open| open.proven.is_none());
    }
    let wide: Vec<_> = open.iter().filter_map(|open| open.wide).collect();
    let unproven = open.len() - wide.len();
    accuracies.0.extend(&wide);
    println!("{kind:?}: {accuracies}; {} of them with wide bounds", wide.len());
    assert_eq!(unproven, 0, "the machine stalled again and again: so many silences are not proven");
    assert_eq!(accuracies.0.len(), SILENCES as usize);
    assert!(wide.len() <= SILENCES as usize / 2, "{accuracies}");
}

/// Plays the silences that are not proven yet, and judges the gaps that the probe reports.
fn play_round(responder: &Responder, probe: ProbeCommand, kind: SilenceKind, open: &mut [OpenSilence]) {
    let repeated = open.len() * PER_ROUND.div_ceil(open.len());
    let plan: Vec<_> = open.iter().map(|open| open.planned).cycle().take(repeated).collect();
    let stall_watch = CpuStallWatch::start().unwrap();
    responder.play(plan).unwrap();
    let played = responder.wait_for_plan().unwrap();
    let (code, report) = probe.stop();
    let stalls = stall_watch.finish().unwrap();
    assert_eq!((code, report.end), (Some(0), ProbeEndReason::Interrupted));
    assert_eq!(played.silences.len(), repeated);

    let circumstances = Circumstances { report: &report, played: &played, stalls: &stalls };
    let mut is_undisturbed = true;
    for (number, silence) in (0..open.len()).cycle().zip(&played.silences) {
        let judgement = judge(silence, kind, &circumstances);
        is_undisturbed &= matches!(judgement, Judgement::Proven(_));
        open[number].take(judgement, kind);
    }
    let echo = &report.streams[0].echo;
    println!("{kind:?}: CPUs stalled for {:?}; {echo:?}", stalls.total());
    assert_eq!(echo.duplicate, 0);
    if is_undisturbed {
        let gaps = report.streams[0].gaps.iter().filter(|gap| gap.is_sure());
        let lost_in_gaps: u64 = gaps.map(|gap| gap.lost).sum();
        assert_eq!(echo.lost, lost_in_gaps, "{report:#?}");
    }
}

/// A silence that is not proven yet.
struct OpenSilence {
    planned: PlannedSilence,
    proven: Option<Accuracy>,
    /// How accurate the gap was when its bounds contained the silence, but were wide.
    wide: Option<Accuracy>,
}

impl OpenSilence {
    const fn new(planned: PlannedSilence) -> Self {
        Self { planned, proven: None, wide: None }
    }

    /// Keeps the first judgement of each kind, and prints what was not proven.
    fn take(&mut self, judgement: Judgement, kind: SilenceKind) {
        let length = self.planned.length;
        match judgement {
            Judgement::Proven(accuracy) => self.proven = self.proven.or(Some(accuracy)),
            Judgement::Wide(accuracy, why) => {
                self.wide = self.wide.or(Some(accuracy));
                println!("{kind:?} for {length:?}, wide bounds: {why}");
            }
            Judgement::Disturbed(why) => println!("{kind:?} for {length:?}, disturbed: {why}"),
        }
    }
}

/// What was measured while silences were played.
#[derive(Clone, Copy)]
pub(super) struct Circumstances<'a> {
    pub(super) report: &'a ProbeReport,
    pub(super) played: &'a PlayedPlan,
    pub(super) stalls: &'a CpuStalls,
}

enum Judgement {
    Proven(Accuracy),
    /// The bounds contain the silence, but long round trips both before and after it make them wide.
    Wide(Accuracy, String),
    /// The machine stalled at the wrong time: nothing is proven.
    Disturbed(String),
}

/// Whether the bounds of its gap contain a silence. False when the machine stalled at the wrong time: nothing is proven then.
/// Panics when the two contradict each other.
pub(super) fn is_bounded(
    exact: &ActualSilence,
    kind: SilenceKind,
    circumstances: &Circumstances<'_>,
) -> bool {
    !matches!(judge(exact, kind, circumstances), Judgement::Disturbed(_))
}

/// Compares a silence with its gap. Panics when the two contradict each other.
fn judge(exact: &ActualSilence, kind: SilenceKind, circumstances: &Circumstances<'_>) -> Judgement {
    let Circumstances { report, stalls, played } = *circumstances;
    let silence = exact.start_ns.end()..exact.end_ns.start();
    if !played.arrivals_ns.iter().any(|at_ns| silence.contains(&at_ns)) {
        return Judgement::Disturbed("no request arrived during it".into());
    }
    // A path stalls with its CPU: then it cannot be known when the silence began or ended for the network.
    let stretched = ActualSilence {
        start_ns: stalls.stretch(&exact.start_ns, INTERVAL_NS),
        end_ns: stalls.stretch(&exact.end_ns, INTERVAL_NS),
    };
    let gaps = gaps_during(&stretched, report);
    let stall_ns = circumstances.longest_stall_ns(exact);
    if let Some(gap) = gaps.iter().find(|gap| contradiction(exact, gap, report).is_none()) {
        let as_played = match kind {
            SilenceKind::LosesRequests => gap.lost > 0,
            SilenceKind::DelaysReplies => gap.lost == 0 && gap.late > 0,
        };
        if as_played {
            return judge_width(exact, gap);
        }
        // Replies that the path holds back for this long count as lost when the gap is reported.
        assert!(stall_ns > INDISTINCT_NS, "{kind:?}: {gap:#?}");
        return Judgement::Disturbed(format!(
            "replies came later than others, during a stall of {stall_ns} ns"
        ));
    }
    if gaps.iter().any(|gap| contradiction(&stretched, gap, report).is_none()) {
        return Judgement::Disturbed(format!("its ends are not known better than {stretched:?}"));
    }
    let length_ns = length_ns(exact);
    // The bounds are made from the longest of the latest round trips, at either end.
    let drowned = length_ns < 2 * stall_ns + INDISTINCT_NS;
    let explained = gaps.iter().any(|gap| error_ns(exact, gap, report) <= stall_ns);
    let why: Vec<_> = gaps.iter().map(|gap| (contradiction(&stretched, gap, report), gap)).collect();
    assert!(
        drowned || explained,
        "no gap fits the silence {stretched:?} ({exact:?} by the responder) of {length_ns} ns; the longest stall around \
         it is {stall_ns} ns: {why:#?}"
    );
    Judgement::Disturbed(format!("it cannot be distinguished from a stall of {stall_ns} ns"))
}

impl Circumstances<'_> {
    /// The longest time around a silence for which a CPU or the path to the guest stalled.
    fn longest_stall_ns(&self, silence: &ActualSilence) -> u64 {
        let around = silence.start_ns.start() - HISTORY_NS..=*silence.end_ns.end() + HISTORY_NS;
        let stall = self.stalls.within(&around).map(|stall| stall.end() - stall.start()).max();
        let arrivals = self.played.arrivals_ns.windows(2);
        let pauses = arrivals.filter(|pair| overlap(&(pair[0]..=pair[1]), &around));
        let pause = pauses.map(|pair| (pair[1] - pair[0]).saturating_sub(INTERVAL_NS)).max();
        stall.max(pause).unwrap_or(0)
    }
}

/// The length of a silence as far as it is certain.
fn length_ns(silence: &ActualSilence) -> u64 {
    silence.end_ns.start() - silence.start_ns.end()
}

/// By how much the bounds of a gap miss a silence.
fn error_ns(silence: &ActualSilence, gap: &Gap, report: &ProbeReport) -> u64 {
    let length_ns = length_ns(silence);
    let from_ns = *since_start(&silence.start_ns, report).start();
    let below = gap.length.low_ns.saturating_sub(length_ns);
    let above = gap.length.high_ns.map_or(0, |high_ns| length_ns.saturating_sub(high_ns));
    let before = u64::try_from(gap.start.low_ns - from_ns).unwrap_or(0);
    let after = u64::try_from(from_ns - gap.start.high_ns).unwrap_or(0);
    below.max(above).max(before).max(after)
}

fn judge_width(silence: &ActualSilence, gap: &Gap) -> Judgement {
    let accuracy = Accuracy::new(silence, gap);
    // The sender may have been late: the bounds follow from when the requests really left.
    let intervals_ns = gap.interval_at_start_ns + gap.interval_at_end_ns.unwrap();
    let (before_ns, after_ns) = (gap.round_trip_before_ns, gap.round_trip_after_ns);
    let limit_ns = intervals_ns + before_ns + after_ns;
    assert!(accuracy.width_ns <= limit_ns, "{} ns wide, more than {limit_ns}: {gap:#?}", accuracy.width_ns);
    if accuracy.width_ns <= intervals_ns + before_ns.max(after_ns) + SLACK_NS {
        Judgement::Proven(accuracy)
    } else {
        Judgement::Wide(accuracy, format!("round trips of {before_ns} and {after_ns} ns"))
    }
}

/// How accurately a gap describes its silence.
#[derive(Clone, Copy, Debug)]
struct Accuracy {
    width_ns: u64,
    error_ns: u64,
    /// Whether its bounds are as narrow as if every request had left on time.
    is_punctual: bool,
}

impl Accuracy {
    fn new(silence: &ActualSilence, gap: &Gap) -> Self {
        let width_ns = gap.length.high_ns.unwrap() - gap.length.low_ns;
        let round_trip_ns = gap.round_trip_before_ns.max(gap.round_trip_after_ns);
        let length_ns = length_ns(silence);
        Self {
            width_ns,
            error_ns: gap.length.value_ns.abs_diff(length_ns),
            is_punctual: width_ns <= 2 * INTERVAL_NS + round_trip_ns + SLACK_NS,
        }
    }
}

/// How accurately the silences were reported.
#[derive(Debug, Default)]
struct Accuracies(Vec<Accuracy>);

impl Display for Accuracies {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let of = |figure: fn(&Accuracy) -> u64| {
            let mut values: Vec<_> = self.0.iter().map(figure).collect();
            values.sort_unstable();
            let median = values.get(values.len() / 2).copied().unwrap_or(0);
            (median / 1_000, values.last().copied().unwrap_or(0) / 1_000)
        };
        let ((width, widest), (error, worst)) = (of(|gap| gap.width_ns), of(|gap| gap.error_ns));
        write!(
            f,
            "{} silences, {} with requests that left on time; bounds {width} µs wide (median), {widest} µs at most; error \
             {error} µs (median), {worst} µs at most",
            self.0.len(),
            self.0.iter().filter(|gap| gap.is_punctual).count(),
        )
    }
}
