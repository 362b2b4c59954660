//! What a probe found, as a person reads it.

use std::fmt::Write as _;

use super::layout::{clean, named, wrap};
use super::quantities::{duration, estimate, grouped};
use super::{echo, losses};
use crate::probe::{EchoStream, ProbeEndReason, ProbeReport, Sending};
use crate::record::Gap;
use crate::vocabulary::AttachMode;

/// The report of one probe.
#[must_use]
pub fn render(report: &ProbeReport) -> String {
    let mut text = String::new();
    wrap(&mut text, "", &headline(report));
    text.push('\n');
    summary(report, &mut text);
    for stream in &report.streams {
        stream_section(report, stream, &mut text);
    }
    losses::not_measured(&report.not_measured, &mut text);
    text
}

fn headline(report: &ProbeReport) -> String {
    let all = report.streams.iter().flat_map(|stream| &stream.gaps);
    let (certain, possible): (Vec<&Gap>, Vec<&Gap>) = all.partition(|gap| gap.is_sure());
    let reached = report.streams.iter().any(|stream| stream.echo.answered > 0);
    let longest = certain.iter().max_by_key(|gap| gap.length.value_ns);
    let found = match (certain.len(), longest) {
        (0, _) if !reached => "no reply seen".to_owned(),
        (_, None) => "no gap".to_owned(),
        (1, Some(gap)) => format!("one gap of {}", estimate(&gap.length)),
        (number, Some(gap)) => format!("{number} gaps, the longest of {}", estimate(&gap.length)),
    };
    let possibly = match possible.len() {
        0 => String::new(),
        1 => ", and one possible gap".to_owned(),
        number => format!(", and {} possible gaps", grouped(number as u64)),
    };
    format!("{}: {found}{possibly} in {}", report.target, duration(report.duration_ns))
}

fn summary(report: &ProbeReport, text: &mut String) {
    named(text, "Observed on", &observed_on(report));
    let error = duration(report.start.error_ns);
    named(text, "Started", &format!("{} ± {error}", echo::wall_time(report.start.realtime_ns)));
    named(
        text,
        "Ended",
        match report.end {
            ProbeEndReason::Count => "all requests were sent",
            ProbeEndReason::Duration => "duration elapsed",
            ProbeEndReason::Gap => "the first gap ended",
            ProbeEndReason::Interrupted => "interrupted",
        },
    );
    named(text, "Sending", &sending(report.sending.as_ref()));
    if let Some(preflight) = report.preflight {
        let (sent, answered) = (grouped(preflight.sent), grouped(preflight.answered));
        named(text, "Pre-flight", &format!("{sent} requests, {answered} answered"));
    }
}

fn observed_on(report: &ProbeReport) -> String {
    let attach = match report.attach {
        AttachMode::Tcx => "tcx",
        AttachMode::Clsact => "clsact",
    };
    let (host, kernel) = (clean(&report.host), clean(&report.kernel));
    let (migtrace, interface) = (clean(&report.migtrace), clean(&report.interface));
    format!("{host}, Linux {kernel}, migtrace {migtrace}, at {interface} ({attach})")
}

fn sending(sending: Option<&Sending>) -> String {
    sending.map_or("nothing: only requests of others were followed".to_owned(), |sending| {
        format!("every {}, {} data bytes", duration(sending.interval_ns), sending.data_bytes)
    })
}

fn stream_section(report: &ProbeReport, stream: &EchoStream, text: &mut String) {
    let (peer, identifier) = (stream.echo.peer, stream.echo.identifier);
    let _ = writeln!(text, "\nEcho requests from {peer} (identifier {identifier})");
    echo::figures(&stream.echo, text);
    echo::gaps(&stream.gaps, Some(report.start.realtime_ns), text);
}
