//! What a probe found, as a person reads it.

use super::content::{Piece, Section, clean, said};
use super::layout::print;
use super::quantities::{duration, estimate, grouped};
use super::{echo, losses};
use crate::probe::{EchoStream, ProbeEndReason, ProbeReport, Sending};
use crate::record::Gap;
use crate::vocabulary::AttachMode;

/// The report of one probe.
#[must_use]
pub fn render(report: &ProbeReport) -> String {
    let mut sections = vec![Section::untitled(vec![said("", headline(report)), Piece::Space])];
    sections.push(summary(report));
    sections.extend(report.streams.iter().flat_map(|stream| of_stream(report, stream)));
    sections.extend(losses::not_measured(&report.not_measured));
    let mut text = String::new();
    sections.iter().for_each(|section| print(section, &mut text));
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

fn summary(report: &ProbeReport) -> Section {
    let error = duration(report.start.error_ns);
    let end = match report.end {
        ProbeEndReason::Count => "all requests were sent",
        ProbeEndReason::Duration => "duration elapsed",
        ProbeEndReason::Gap => "the first gap ended",
        ProbeEndReason::Interrupted => "interrupted",
    };
    let mut pieces = vec![
        Piece::Named("Observed on", observed_on(report)),
        Piece::Named("Started", format!("{} ± {error}", echo::wall_time(report.start.realtime_ns))),
        Piece::Named("Ended", end.to_owned()),
        Piece::Named("Sending", sending(report.sending.as_ref())),
    ];
    pieces.extend(report.preflight.map(|preflight| {
        let (sent, answered) = (grouped(preflight.sent), grouped(preflight.answered));
        Piece::Named("Pre-flight", format!("{sent} requests, {answered} answered"))
    }));
    Section::untitled(pieces)
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

fn of_stream(report: &ProbeReport, stream: &EchoStream) -> Vec<Section> {
    let (peer, identifier) = (stream.echo.peer, stream.echo.identifier);
    let whose = format!("Echo requests from {peer} (identifier {identifier})");
    let mut sections = vec![Section::titled(whose, Vec::new()), echo::figures(&stream.echo)];
    sections.extend(echo::gaps(&stream.gaps, Some(report.start.realtime_ns)));
    sections
}
