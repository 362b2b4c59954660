//! What one migration adds to the metrics.

use std::collections::BTreeMap;

use super::{
    Attributes, Definition, Exemplar, MIGRATIONS, NETWORK_GAP, REACHABILITY_GAP, STOP, TOTAL, WIRE_BYTES,
};
use crate::export::ids::{Ids, SpanId, SpanKind, side_of};
use crate::record::{Estimate, Migration, Mode, Outcome, PhaseName, Record, Vantage};

/// One value of one metric.
pub(super) struct Contribution {
    pub(super) metric: &'static Definition,
    pub(super) attributes: Attributes,
    /// The value, and the span that explains it.
    pub(super) exemplar: Exemplar,
}

const NANOSECONDS: f64 = 1e9;

/// What a record contributes. What it does not know contributes nothing.
pub(super) fn of(record: &Record, at_ns: u64) -> Vec<Contribution> {
    let maker = Maker { record, ids: Ids::of(record), at_ns };
    let downtime = &record.downtime;
    let source = |kind| maker.ids.span(Vantage::Source, kind, 0);
    let migration = maker.ids.migration(record);
    // Only the source's view has spans of these; beside the other's, the migration itself is all there is.
    let of_source = |kind| if side_of(record) == Vantage::Source { source(kind) } else { migration };
    let mut all = vec![maker.value(&MIGRATIONS, 1.0, &[], migration)];
    let times = [
        (&TOTAL, &record.total_time, migration),
        (&STOP, &downtime.stop, of_source(SpanKind::Stop)),
        (&REACHABILITY_GAP, &downtime.reachability, migration),
        (&NETWORK_GAP, &downtime.network, of_source(SpanKind::NetworkGap)),
    ];
    for (metric, estimate, span) in times {
        all.extend(estimate.as_ref().map(|estimate| maker.time(metric, estimate, span)));
    }
    for (phase, wire_bytes) in wire_bytes(record) {
        let attributes = [("migtrace.phase", phase)];
        all.extend(wire_bytes.map(|bytes| maker.value(&WIRE_BYTES, bytes as f64, &attributes, migration)));
    }
    all
}

struct Maker<'a> {
    record: &'a Record,
    ids: Ids,
    at_ns: u64,
}

impl Maker<'_> {
    fn time(&self, metric: &'static Definition, estimate: &Estimate, span: SpanId) -> Contribution {
        let bound = if estimate.high_ns.is_some() { "both" } else { "lower" };
        self.value(metric, estimate.value_ns as f64 / NANOSECONDS, &[("migtrace.bound", bound)], span)
    }

    fn value(
        &self,
        metric: &'static Definition,
        value: f64,
        more: &[(&'static str, &str)],
        span: SpanId,
    ) -> Contribution {
        let Migration { mode, outcome, .. } = self.record.migration;
        let mut attributes = attributes(mode, outcome, side_of(self.record));
        attributes.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        attributes.sort();
        let exemplar = Exemplar { value, at_ns: self.at_ns, trace: self.ids.trace, span };
        Contribution { metric, attributes, exemplar }
    }
}

/// The attributes that all metrics have.
fn attributes(mode: Mode, outcome: Outcome, role: Vantage) -> Attributes {
    vec![
        ("migtrace.mode", mode.as_str().to_owned()),
        ("migtrace.outcome", outcome.as_str().to_owned()),
        ("migtrace.role", role.as_str().to_owned()),
    ]
}

/// The attributes of the migrations of every kind.
#[cfg(feature = "openmetrics")]
pub(in crate::export) fn of_every_kind() -> Vec<Attributes> {
    let mut all = Vec::new();
    for role in [Vantage::Source, Vantage::Destination] {
        for mode in Mode::ALL {
            all.extend(Outcome::ALL.map(|outcome| attributes(mode, outcome, role)));
        }
    }
    all
}

/// What was sent in the phases of each name; none where that is not known of one of them.
fn wire_bytes(record: &Record) -> BTreeMap<&str, Option<u64>> {
    let mut sent = BTreeMap::new();
    for phase in &record.phases {
        // A word that only one QEMU knows must not make a series of its own.
        let name = if matches!(phase.name, PhaseName::Other(_)) { "other" } else { phase.name.as_str() };
        let bytes = phase.traffic.map(|traffic| traffic.tx.wire_bytes);
        let sum = sent.entry(name).or_insert(Some(0_u64));
        *sum = sum.zip(bytes).map(|(sum, bytes)| sum.saturating_add(bytes));
    }
    sent
}
