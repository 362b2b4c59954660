//! What figures, checks and cells are called.

use crate::report::content::clean;
use crate::study::answer::{Answer, Cell, CheckName, Figure, Place, StepSummary, Titled, each_once};

/// What a figure is called in a heading.
pub(in crate::report) const fn title(figure: Figure) -> &'static str {
    match figure {
        Figure::TotalTime => "Migration time",
        Figure::SetupTime => "Setup",
        Figure::Stop => "Downtime (the stop: the guest did not run)",
        Figure::StopShare => "Share of the stop",
        Figure::Network => "Network gap",
        Figure::Reachability => "Reachability gap (the guest did not answer)",
        Figure::Tail => "Tail",
        Figure::WorstRoundTrip => "Worst round trip",
        Figure::WireBytes => "Data transferred (bytes on the wire)",
        Figure::MemoryBytes => "Memory",
        Figure::DiskBytes => "Disk",
        Figure::PayloadBytes => "Payload",
        Figure::RetransmittedSegments => "Resent segments",
        Figure::RetransmittedBytes => "Resent payload",
        Figure::Passes => "Passes",
        Figure::DriverTime => "The driver says",
        Figure::DriverLessTotal => "Off from the migration time",
        Figure::PingDowntime => "Lost pings say",
        Figure::PingLessReachability => "Off from reachability",
        Figure::PingLessStop => "Off from the stop",
        Figure::MeterBytes => "The meter says",
        Figure::MeterLessWire => "Off from the wire bytes",
    }
}

/// What a figure is called above a column, or before a sentence about it.
pub(super) const fn short_title(figure: Figure) -> &'static str {
    match figure {
        Figure::Stop => "Stop",
        Figure::Reachability => "Reachability gap",
        Figure::WireBytes => "Data transferred",
        _ => title(figure),
    }
}

/// What must hold.
pub(super) const fn must_hold(check: CheckName) -> &'static str {
    match check {
        CheckName::PhasesAddUp => "The bytes of the phases add up to those of the migration",
        CheckName::WithinLinkRate => "No migration was faster than the link (LINK_RATE)",
        CheckName::LinkIsUsed => "The copying used at least half of the link's rate (LINK_RATE)",
        CheckName::StopWithinReachability => "The stop is not longer than the reachability gap",
        CheckName::LoadGrowsPasses => "A loaded guest needs more passes than an unloaded one",
        CheckName::NoContradictions => "The records do not contradict themselves",
    }
}

/// The values of a place, in the order of the axes. Those of axes with a single value say nothing of it, unless there are no
/// others.
pub(in crate::report) fn label(answer: &Answer, at: &Place) -> String {
    let any_varies = answer.axes.iter().any(varies);
    let shown = answer.axes.iter().filter(|axis| varies(axis) || !any_varies);
    let values = shown.filter_map(|axis| at.get(&axis.name));
    values.map(String::as_str).collect::<Vec<_>>().join(", ")
}

const fn varies(axis: &Titled) -> bool {
    axis.values.len() > 1
}

/// `Storage: block`: the axes with a single value, which is that of all cells. Empty if there are none.
pub(in crate::report) fn constants(answer: &Answer) -> String {
    let said = answer.axes.iter().filter_map(|axis| match &axis.values[..] {
        [only] => Some(format!("{}: {}", axis.title, only.title)),
        _ => None,
    });
    clean(&said.collect::<Vec<_>>().join("; "))
}

/// `1 run`, `3 runs`.
pub(super) fn counted(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// The names of the phases, or of the parts of the stop, of all cells, in the order in which they are first found.
pub(in crate::report) fn step_names(answer: &Answer, steps: fn(&Cell) -> &Vec<StepSummary>) -> Vec<String> {
    each_once(answer.cells.iter().flat_map(steps).map(|step| step.name.clone()))
}
