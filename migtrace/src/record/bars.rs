//! The figures of the downtime, with the instants at which they begin.

use super::{Downtime, Estimate, MarkName};

/// A figure of the downtime, and when it begins.
pub(crate) struct Bar<'a> {
    pub(crate) name: &'static str,
    pub(crate) figure: &'a Estimate,
    pub(crate) from_ns: i64,
}

/// The figures that are known, with the mark at which each begins.
pub(crate) fn bars<'a>(downtime: &'a Downtime) -> Vec<Bar<'a>> {
    let figures: [(_, &'a Option<Estimate>, &[MarkName]); 3] = [
        ("stop", &downtime.stop, &[MarkName::AllVcpusStopped, MarkName::Stop]),
        ("network", &downtime.network, &[MarkName::LastGuestFrame]),
        ("reachability", &downtime.reachability, &[MarkName::LastAnsweredRequest]),
    ];
    let bar = |(name, figure, begins): (_, &'a Option<Estimate>, &[MarkName])| {
        let from_ns = begins.iter().find_map(|mark| at(downtime, mark))?;
        Some(Bar { name, figure: figure.as_ref()?, from_ns })
    };
    figures.into_iter().filter_map(bar).collect()
}

fn at(downtime: &Downtime, name: &MarkName) -> Option<i64> {
    downtime.marks.iter().rfind(|mark| mark.name == *name).map(|mark| mark.at_ns)
}
