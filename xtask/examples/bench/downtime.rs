//! How exactly each tool reports for how long a guest did not answer, against the guest's own clock.
//!
//! All ping the same guest at the same time. The guest is simulated: it knows its own silences to microseconds.

use std::fmt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use migtrace_lab::{ActualSilence, CpuStallWatch, CpuStalls, Lab, PlannedSilence, Responder, SilenceKind};
use serde::Serialize;

use crate::migrations;
use crate::pinging_tools::{PingingTool, ReportedGap, Running};
use crate::report::{Machine, table};
use crate::statistics::Spread;

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_millis(500);
/// Between two silences, so that a ping every 0.2 s gets two replies there.
const BETWEEN: Duration = Duration::from_millis(650);
/// A standstill this close to an end of a silence makes that end uncertain.
const NEAR_NS: u64 = 1_000_000;
/// Before the first silence and after the last: tools start late, and report late.
const MARGIN: Duration = Duration::from_secs(1);

/// Everything that was measured.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    parts: Vec<Part>,
    migrations: Vec<migrations::Row>,
}

/// The silences of one kind.
#[derive(Serialize)]
struct Part {
    kind: &'static str,
    silences: usize,
    /// The share of CPU time in which the machine kept a real-time thread waiting: what it adds by itself.
    stood_still: f64,
    rows: Vec<Row>,
}

/// A silence by the guest's own clock, on `CLOCK_MONOTONIC`.
struct Known {
    from_ns: u64,
    until_ns: u64,
    /// Where the machine stood still at an end of the silence, the end may lie on either side of that.
    shortest_ns: u64,
    longest_ns: u64,
}

/// A tool, and what it reported of the silences.
#[derive(Serialize)]
struct Row {
    tool: String,
    /// Silences that it did not report.
    missed: usize,
    /// Silences whose length lies outside the bounds that it reported, or that its method implies.
    outside: usize,
    /// The difference of the reported length and the true one, without its sign.
    error_ns: Spread,
    worst_error_ns: u64,
    /// The width of the bounds that it reported, or that its method implies.
    width_ns: Option<Spread>,
}

/// Lets all tools ping a guest that falls silent `number` times in each of the two ways.
pub(crate) fn measure(migtrace: &Path, number: u32) -> Result<Report> {
    let machine = Machine::read()?;
    let lab = Lab::builder().without_guests().start().context("cannot make the lab")?;
    let responder = Responder::start(lab.source().netns())?;
    let tools = [
        PingingTool::Migtrace(migtrace.to_owned()),
        PingingTool::Ping(Duration::from_millis(200)),
        PingingTool::Ping(Duration::from_millis(10)),
        PingingTool::Fping(Duration::from_millis(10)),
    ];
    let mut parts = Vec::new();
    for (kind, silence) in [
        ("requests are lost", SilenceKind::LosesRequests),
        ("replies are delayed", SilenceKind::DelaysReplies),
    ] {
        eprintln!("{number} silences in which {kind}");
        parts.push(part(kind, &lab, &responder, &tools, &plan(number, silence))?);
    }
    drop(responder);
    drop(lab);
    Ok(Report { machine, parts, migrations: migrations::measure()? })
}

/// Lengths spread evenly over the range, in mixed order, at times unrelated to any tool's interval.
fn plan(number: u32, kind: SilenceKind) -> Vec<PlannedSilence> {
    (0..number)
        .map(|index| {
            let mixed = |factor: f64| (f64::from(index + 1) * factor).fract();
            PlannedSilence {
                // The fractions of multiples of an irrational number are spread evenly.
                after: BETWEEN + Duration::from_millis(200).mul_f64(mixed(std::f64::consts::SQRT_2)),
                length: SHORTEST + (LONGEST - SHORTEST).mul_f64(mixed(0.618_033_988_75)),
                kind,
            }
        })
        .collect()
}

fn part(
    kind: &'static str,
    lab: &Lab,
    responder: &Responder,
    tools: &[PingingTool],
    plan: &[PlannedSilence],
) -> Result<Part> {
    let directory = tempfile::tempdir().context("cannot make a directory for the output of the tools")?;
    let target = lab.source().ipv4().to_string();
    let start = |tool: &PingingTool| tool.start(lab.observer(), &target, directory.path());
    let running = tools.iter().map(start).collect::<Result<Vec<_>>>()?;
    thread::sleep(MARGIN);
    let witness = CpuStallWatch::start()?;
    let started = Instant::now();
    responder.play(plan.to_vec())?;
    let truths = responder.wait_for_plan()?.silences;
    thread::sleep(MARGIN);
    let played = started.elapsed() * u32::try_from(thread::available_parallelism()?.get())?;
    let standstills = witness.finish()?;
    let clock = migtrace::host::clock::sample().context("cannot read the clocks")?;
    let reported = running.into_iter().map(Running::finish);
    let reported = reported.collect::<Result<Vec<_>>>()?;
    let silences: Vec<_> = truths.iter().map(|truth| known(truth, &standstills)).collect();
    let row = |(tool, gaps): (&PingingTool, &Vec<ReportedGap>)| row(tool, gaps, &silences, clock.offset_ns);
    Ok(Part {
        kind,
        silences: silences.len(),
        stood_still: standstills.total().as_secs_f64() / played.as_secs_f64(),
        rows: tools.iter().zip(&reported).map(row).collect(),
    })
}

fn known(truth: &ActualSilence, standstills: &CpuStalls) -> Known {
    let from_ns = standstills.stretch(&truth.start_ns, NEAR_NS);
    let until_ns = standstills.stretch(&truth.end_ns, NEAR_NS);
    Known {
        from_ns: *truth.start_ns.end(),
        until_ns: *truth.end_ns.start(),
        shortest_ns: until_ns.start().saturating_sub(*from_ns.end()),
        longest_ns: until_ns.end() - from_ns.start(),
    }
}

fn row(tool: &PingingTool, reported: &[ReportedGap], silences: &[Known], offset_ns: i64) -> Row {
    let (mut errors, mut widths) = (Vec::new(), Vec::new());
    let (mut missed, mut outside) = (0, 0);
    for known in silences {
        let length_ns = known.until_ns - known.from_ns;
        let wall = |at_ns: u64| offset_ns.saturating_add_unsigned(at_ns);
        let meets =
            |gap: &&ReportedGap| gap.from_ns <= wall(known.until_ns) && wall(known.from_ns) <= gap.until_ns;
        let Some(gap) = reported.iter().filter(meets).max_by_key(|gap| gap.length_ns) else {
            missed += 1;
            errors.push(length_ns);
            continue;
        };
        outside += usize::from(known.longest_ns < gap.low_ns || gap.high_ns < known.shortest_ns);
        errors.push(gap.length_ns.abs_diff(length_ns));
        widths.push((gap.high_ns - gap.low_ns) as f64);
    }
    Row {
        tool: tool.name(),
        missed,
        outside,
        error_ns: Spread::of(errors.iter().map(|ns| *ns as f64)),
        worst_error_ns: errors.into_iter().max().unwrap_or_default(),
        width_ns: (!widths.is_empty()).then(|| Spread::of(widths)),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        for part in &self.parts {
            writeln!(
                f,
                "\n{} silences of {} to {} ms in which {}, each seen by all at the same time ({:.1} % of the time \
                 lies in stalls of a CPU):\n",
                part.silences,
                SHORTEST.as_millis(),
                LONGEST.as_millis(),
                part.kind,
                part.stood_still * 100.0
            )?;
            let mut table = table([
                "reported by",
                "median error",
                "worst error",
                "width of the bounds",
                "outside",
                "not seen",
            ]);
            for row in &part.rows {
                table.add_row([
                    row.tool.clone(),
                    milliseconds(row.error_ns.median),
                    milliseconds(row.worst_error_ns as f64),
                    row.width_ns.as_ref().map_or_else(String::new, |width| milliseconds(width.median)),
                    row.outside.to_string(),
                    row.missed.to_string(),
                ]);
            }
            writeln!(f, "{table}")?;
        }
        migrations::show(&self.migrations, f)
    }
}

fn milliseconds(ns: f64) -> String {
    format!("{:.2} ms", ns / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_reported_gap_is_compared_with_the_true_silence() {
        let known = |from_ms: u64, until_ms: u64| Known {
            from_ns: from_ms * MS,
            until_ns: until_ms * MS,
            shortest_ns: (until_ms - from_ms) * MS,
            longest_ns: (until_ms - from_ms) * MS,
        };
        let gap = ReportedGap {
            from_ns: 1_090_000_000,
            until_ns: 1_320_000_000,
            length_ns: 200 * MS,
            low_ns: 0,
            high_ns: 400 * MS,
        };
        let tool = PingingTool::Ping(Duration::from_millis(200));
        let row = row(&tool, &[gap], &[known(100, 310), known(800, 850)], 1_000_000_000);
        assert_eq!((row.missed, row.outside, row.worst_error_ns), (1, 0, 50 * MS));
        assert!((row.error_ns.median - 30.0 * MS as f64).abs() < 1.0, "{:?}", row.error_ns);
        assert_eq!(row.width_ns.unwrap().median, 400.0 * MS as f64);
    }

    #[test]
    fn the_lengths_are_all_within_their_range_and_differ() {
        let plan = plan(20, SilenceKind::LosesRequests);
        let mut lengths: Vec<_> = plan.iter().map(|planned| planned.length).collect();
        assert!(lengths.iter().all(|length| (SHORTEST..=LONGEST).contains(length)), "{lengths:?}");
        lengths.sort_unstable();
        lengths.dedup();
        assert_eq!(lengths.len(), 20);
    }
}
