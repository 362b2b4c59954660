//! What a probe found, as a person reads it.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::quantities::{duration, estimate, grouped, offset, percent};
use super::text::{clean, right, table, trimmed, wrap};
use crate::event::AttachMode;
use crate::probe::{End, Report, Stream};
use crate::record::{Echo, Gap};

/// The report of one probe.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut text = String::new();
    wrap(&mut text, "", &headline(report));
    text.push('\n');
    facts(report, &mut text);
    for stream in &report.streams {
        render_stream(report, stream, &mut text);
    }
    if !report.not_measured.is_empty() {
        text.push_str("\nNot measured:\n");
        for entry in &report.not_measured {
            wrap(&mut text, "  - ", &format!("{}: {}", clean(&entry.what), clean(&entry.why)));
        }
    }
    text
}

fn headline(report: &Report) -> String {
    let gaps: Vec<&Gap> = report.streams.iter().flat_map(|stream| &stream.gaps).collect();
    let reached = report.streams.iter().any(|stream| stream.echo.answered > 0);
    let longest = gaps.iter().max_by_key(|gap| gap.length.value_ns);
    let found = match (gaps.len(), longest) {
        (0, _) if !reached => "no reply seen".to_owned(),
        (_, None) => "no gap".to_owned(),
        (1, Some(gap)) => format!("one gap of {}", estimate(&gap.length)),
        (number, Some(gap)) => format!("{number} gaps, the longest of {}", estimate(&gap.length)),
    };
    format!("{}: {found} in {}", report.target, duration(report.duration_ns))
}

fn facts(report: &Report, text: &mut String) {
    let mut line = |name: &str, value: String| wrap(text, &format!("  {name:<11} "), &value);
    let attach = match report.attach {
        AttachMode::Tcx => "tcx",
        AttachMode::Clsact => "clsact",
    };
    line(
        "Observed on",
        format!(
            "{}, Linux {}, migtrace {}, at {} ({attach})",
            clean(&report.host),
            clean(&report.kernel),
            clean(&report.migtrace),
            clean(&report.interface)
        ),
    );
    let error = duration(report.start.error_ns);
    line("Started", format!("{} ± {error}", wall_time(report.start.realtime_ns)));
    line(
        "Ended",
        match report.end {
            End::Count => "all requests were sent",
            End::Duration => "the time was over",
            End::Gap => "the first gap was over",
            End::Interrupted => "interrupted",
        }
        .to_owned(),
    );
    match &report.sending {
        Some(sending) => line(
            "Sending",
            format!("every {}, {} data bytes", duration(sending.interval_ns), sending.data_bytes),
        ),
        None => line("Sending", "nothing: only somebody else's requests were followed".to_owned()),
    }
    if let Some(preflight) = report.preflight {
        line(
            "Pre-flight",
            format!("{} requests, {} answered", grouped(preflight.sent), grouped(preflight.answered)),
        );
    }
}

fn render_stream(report: &Report, stream: &Stream, text: &mut String) {
    let echo = &stream.echo;
    let _ = writeln!(text, "\nEcho requests from {} (identifier {})", echo.peer, echo.identifier);
    let mut line = |name: &str, value: String| wrap(text, &format!("  {name:<11} "), &value);
    line("Requests", counts(echo));
    if let Some(interval_ns) = echo.interval_ns {
        let longest = duration(echo.longest_interval_ns);
        line("Interval", format!("{} on average, {longest} at most", duration(interval_ns)));
    }
    if let Some(round_trip) = echo.round_trip {
        let (p50, p99, max) =
            (duration(round_trip.p50_ns), duration(round_trip.p99_ns), duration(round_trip.max_ns));
        line("Round trip", format!("p50 {p50}, p99 {p99}, longest {max}"));
    }
    render_gaps(report, stream, text);
}

fn counts(echo: &Echo) -> String {
    let share = percent(echo.lost, echo.sent).map_or(String::new(), |share| format!(" ({share})"));
    let (sent, answered) = (grouped(echo.sent), grouped(echo.answered));
    let (lost, late, duplicate) = (grouped(echo.lost), grouped(echo.late), grouped(echo.duplicate));
    format!("{sent} sent, {answered} answered ({late} late, {duplicate} duplicate), {lost} lost{share}")
}

fn render_gaps(report: &Report, stream: &Stream, text: &mut String) {
    if stream.gaps.is_empty() {
        return;
    }
    let mut table = table(["Silent from (UTC)", "After", "For", "Lost", "Late", "Duplicate", "Seen by"], 1);
    for gap in &stream.gaps {
        table.add_row(right(
            [
                wall_time(report.start.realtime_ns.saturating_add(gap.start.value_ns)),
                offset(gap.start.value_ns),
                estimate(&gap.length),
                grouped(gap.lost),
                grouped(gap.late),
                grouped(gap.duplicate),
                gap.length.method.replace('-', " "),
            ],
            1,
        ));
    }
    let title = "Gaps (no echo request was answered)";
    let _ = writeln!(text, "\n{title}\n{}", trimmed(&table));
}

fn wall_time(realtime_ns: i64) -> String {
    Timestamp::from_nanosecond(realtime_ns.into())
        .map_or_else(|_| "unknown".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string())
}
