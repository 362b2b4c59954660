//! The text formats: OpenMetrics 1.0, and the classic one of Prometheus (0.0.4), which has no exemplars and fewer types.

use std::fmt::Write as _;

use super::labels::Labels;
use crate::export::metrics::Exemplar;

/// A text format.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Dialect {
    /// OpenMetrics 1.0, for scrapes.
    OpenMetrics,
    /// Prometheus 0.0.4, for node_exporter and whoever does not know OpenMetrics.
    Classic,
}

impl Dialect {
    /// As HTTP names it.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
    Info,
    StateSet,
}

/// One metric with all of its samples.
#[derive(Clone, Debug)]
pub(super) struct Family {
    /// Without `_total` and `_info`.
    pub(super) name: String,
    /// What the name ends in; empty for a count or a state.
    pub(super) unit: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: Kind,
    pub(super) samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// What follows the name of the family: `_bucket`.
    pub(super) suffix: &'static str,
    pub(super) labels: Labels,
    pub(super) value: f64,
    /// In nanoseconds since the Unix epoch; none for now.
    pub(super) at_ns: Option<i64>,
    pub(super) exemplar: Option<Exemplar>,
}

impl Sample {
    pub(super) const fn new(labels: Labels, value: f64) -> Self {
        Self { suffix: "", labels, value, at_ns: None, exemplar: None }
    }
}

impl Family {
    pub(super) fn gauge(name: &str, unit: &'static str, help: &'static str, samples: Vec<Sample>) -> Self {
        Self { name: name.to_owned(), unit, help, kind: Kind::Gauge, samples }
    }

    pub(super) fn counter(name: &str, help: &'static str, samples: Vec<Sample>) -> Self {
        Self { name: name.to_owned(), unit: "", help, kind: Kind::Counter, samples }
    }

    pub(super) fn info(name: &str, help: &'static str, samples: Vec<Sample>) -> Self {
        Self { name: name.to_owned(), unit: "", help, kind: Kind::Info, samples }
    }

    /// What the names of all samples end in.
    const fn suffix(&self) -> &'static str {
        match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram | Kind::StateSet => "",
        }
    }
}

/// The text of some families; those without a sample are left out.
pub(super) fn written(families: &[Family], dialect: Dialect) -> String {
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        header(&mut text, family, dialect);
        for sample in &family.samples {
            line(&mut text, family, sample, dialect);
        }
    }
    if dialect == Dialect::OpenMetrics {
        text.push_str("# EOF\n");
    }
    text
}

fn header(text: &mut String, family: &Family, dialect: Dialect) {
    let (kind, suffix) = match (family.kind, dialect) {
        (Kind::Counter, Dialect::OpenMetrics) => ("counter", ""),
        (Kind::Counter, Dialect::Classic) => ("counter", "_total"),
        (Kind::Gauge, _) => ("gauge", ""),
        (Kind::Histogram, _) => ("histogram", ""),
        (Kind::Info, Dialect::OpenMetrics) => ("info", ""),
        (Kind::StateSet, Dialect::OpenMetrics) => ("stateset", ""),
        (Kind::Info, Dialect::Classic) => ("gauge", "_info"),
        (Kind::StateSet, Dialect::Classic) => ("gauge", ""),
    };
    let Family { name, unit, help, .. } = family;
    let _ = writeln!(text, "# HELP {name}{suffix} {help}");
    let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
    if dialect == Dialect::OpenMetrics && !unit.is_empty() {
        let _ = writeln!(text, "# UNIT {name} {unit}");
    }
}

fn line(text: &mut String, family: &Family, sample: &Sample, dialect: Dialect) {
    let suffix = if sample.suffix.is_empty() { family.suffix() } else { sample.suffix };
    let _ = write!(text, "{}{suffix}{} {}", family.name, sample.labels, number(sample.value));
    if let Some(at_ns) = sample.at_ns {
        match dialect {
            Dialect::OpenMetrics => {
                let _ = write!(text, " {}", seconds(at_ns));
            }
            Dialect::Classic => {
                let _ = write!(text, " {}", at_ns.div_euclid(1_000_000));
            }
        }
    }
    if let Some(exemplar) = &sample.exemplar
        && dialect == Dialect::OpenMetrics
    {
        let Exemplar { value, at_ns, trace, span } = exemplar;
        let (value, at) = (number(*value), seconds(i64::try_from(*at_ns).unwrap_or(i64::MAX)));
        let _ = write!(text, " # {{trace_id=\"{trace}\",span_id=\"{span}\"}} {value} {at}");
    }
    text.push('\n');
}

/// Whole numbers have no fraction.
pub(super) fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value:.0}") } else { format!("{value:?}") }
}

/// Seconds since the epoch as a value, to the millisecond: a double holds no nanosecond of it.
#[expect(clippy::cast_precision_loss, reason = "exact for 285,000 years")]
pub(super) fn timestamp(at_ns: i64) -> f64 {
    at_ns.div_euclid(1_000_000) as f64 / 1e3
}

/// Seconds since the epoch, to the millisecond: what Prometheus keeps.
fn seconds(at_ns: i64) -> String {
    let ms = at_ns.div_euclid(1_000_000);
    format!("{}.{:03}", ms.div_euclid(1_000), ms.rem_euclid(1_000))
}
