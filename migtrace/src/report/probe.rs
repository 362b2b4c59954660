//! What a probe found, as a person reads it.

use std::fmt::Write as _;

use super::echo::{self, wall_time};
use super::quantities::{duration, estimate, grouped};
use super::text::{clean, wrap};
use crate::probe::{End, Report, Stream};
use crate::record::Gap;
use crate::vocabulary::AttachMode;

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
    let all = report.streams.iter().flat_map(|stream| &stream.gaps);
    let (sure, doubtful): (Vec<&Gap>, Vec<&Gap>) = all.partition(|gap| gap.is_sure());
    let reached = report.streams.iter().any(|stream| stream.echo.answered > 0);
    let longest = sure.iter().max_by_key(|gap| gap.length.value_ns);
    let found = match (sure.len(), longest) {
        (0, _) if !reached => "no reply seen".to_owned(),
        (_, None) => "no gap".to_owned(),
        (1, Some(gap)) => format!("one gap of {}", estimate(&gap.length)),
        (number, Some(gap)) => format!("{number} gaps, the longest of {}", estimate(&gap.length)),
    };
    let perhaps = match doubtful.len() {
        0 => String::new(),
        1 => ", and one silence that may have been".to_owned(),
        number => format!(", and {} silences that may have been", grouped(number as u64)),
    };
    format!("{}: {found}{perhaps} in {}", report.target, duration(report.duration_ns))
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
    let _ =
        writeln!(text, "\nEcho requests from {} (identifier {})", stream.echo.peer, stream.echo.identifier);
    echo::figures(&stream.echo, text);
    echo::gaps(&stream.gaps, Some(report.start.realtime_ns), text);
}
