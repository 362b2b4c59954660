//! The trace of one migration.
//!
//! Each side that has observed it has a span `migration`: the source's is the root, the destination's a child of the source's.
//! All other spans are below those. A record of one side has the spans of that side alone; the other side's record adds its
//! own to the same trace.

mod events;
mod migration;
mod spans;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};

use super::attributes::Attributes;
use super::platform::PlatformAttributes;
use super::resource::Origin;
use crate::export::ids::{Ids, SpanId, SpanKind, side_of};
use crate::record::{Estimate, Observer, Record, Vantage};

/// The caller's trace flag `sampled`.
const SAMPLED: u32 = 1;
/// It is known whether a span's parent is of another process.
const KNOWS_REMOTE: u32 = 0x100;
/// It is.
const REMOTE: u32 = 0x200;

/// Why there is no trace of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NoTrace {
    /// Spans need wall times.
    #[error("the record does not say when the migration began by the wall clock")]
    NoWallClock,
    /// A span is of a side.
    #[error("the record names no host that took part in the migration")]
    NoSide,
}

/// The trace of a record's migration.
///
/// # Errors
/// When the record lacks what a trace needs.
pub fn trace_request(record: &Record, origin: &Origin) -> Result<ExportTraceServiceRequest, NoTrace> {
    trace_request_with(record, origin, &PlatformAttributes::default())
}

/// As [`trace_request`], with what the platform knows of the migration.
///
/// # Errors
/// As [`trace_request`].
pub fn trace_request_with(
    record: &Record,
    origin: &Origin,
    platform: &PlatformAttributes,
) -> Result<ExportTraceServiceRequest, NoTrace> {
    let start_ns = record.start.realtime_ns.ok_or(NoTrace::NoWallClock)?;
    let own = side_of(record);
    if own == Vantage::Observer {
        return Err(NoTrace::NoSide);
    }
    let trace = Trace { record, origin, platform, own, ids: Ids::of(record), start_ns };
    let mut spans = trace.migrations();
    spans.extend(trace.phases());
    spans.extend(trace.stop());
    spans.extend(trace.network_gap());
    spans.extend(trace.reachability_gaps());
    let resource_spans = record.observers.iter().filter_map(|observer| {
        let of_observer = spans.extract_if(.., |placed| std::ptr::eq(placed.observer, observer));
        trace.of_observer(observer, of_observer.map(|placed| placed.span).collect())
    });
    let resource_spans = resource_spans.collect();
    Ok(ExportTraceServiceRequest { resource_spans })
}

/// Who says so.
pub(super) fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "migtrace".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// What the spans of a record are made with.
struct Trace<'a> {
    record: &'a Record,
    origin: &'a Origin,
    platform: &'a PlatformAttributes,
    /// The side whose view the record is.
    own: Vantage,
    ids: Ids,
    start_ns: i64,
}

/// A span, and the host that says so.
struct Placed<'a> {
    observer: &'a Observer,
    span: Span,
}

/// What a span says.
struct Content {
    kind: SpanKind,
    /// Which of this kind and side.
    index: usize,
    name: String,
    from_ns: i64,
    to_ns: i64,
    parent: Option<Parent>,
    attributes: Attributes,
}

impl Content {
    /// The first span of its kind, with this length and what bounds it.
    fn lasting(kind: SpanKind, from_ns: i64, length: &Estimate, parent: Parent) -> Self {
        let mut attributes = Attributes::default();
        attributes.estimate("migtrace.length", length);
        Self {
            kind,
            index: 0,
            name: kind.as_str().to_owned(),
            from_ns,
            to_ns: from_ns.saturating_add(signed(length.value_ns)),
            parent: Some(parent),
            attributes,
        }
    }
}

/// The span above another.
#[derive(Clone, Copy)]
struct Parent {
    side: Vantage,
    id: SpanId,
}

impl<'a> Trace<'a> {
    /// The host of a side. Of several observers, the one with this name.
    fn observer(&self, side: Vantage, host: Option<&str>) -> Option<&'a Observer> {
        let mut hosts = self.record.observers.iter().filter(|observer| observer.role == side);
        match host {
            Some(host) => hosts.find(|observer| observer.host == host),
            None => hosts.next(),
        }
    }

    /// The wall time of an instant of the record.
    fn at(&self, ns: i64) -> u64 {
        u64::try_from(self.start_ns.saturating_add(ns)).unwrap_or_default()
    }

    /// The span of the whole migration, of a side.
    fn migration_of(&self, side: Vantage) -> Parent {
        Parent { side, id: self.ids.span(side, SpanKind::Migration, 0) }
    }

    fn place(&self, observer: &'a Observer, content: Content) -> Placed<'a> {
        let Content { kind, index, name, from_ns, to_ns, parent, mut attributes } = content;
        if let Some(alignment) = &observer.alignment {
            attributes
                .signed("migtrace.clock_offset.value_ns", alignment.offset_ns)
                .signed("migtrace.clock_offset.low_ns", alignment.low_ns)
                .signed("migtrace.clock_offset.high_ns", alignment.high_ns)
                .text("migtrace.clock_offset.method", alignment.method.as_str());
        }
        let is_remote = parent.is_some_and(|parent| parent.side != observer.role);
        let span = Span {
            trace_id: self.ids.trace.0.to_vec(),
            span_id: self.ids.span(observer.role, kind, index).0.to_vec(),
            parent_span_id: parent.map(|parent| parent.id.0.to_vec()).unwrap_or_default(),
            flags: SAMPLED | KNOWS_REMOTE | if is_remote { REMOTE } else { 0 },
            name,
            kind: span::SpanKind::Internal.into(),
            start_time_unix_nano: self.at(from_ns),
            end_time_unix_nano: self.at(to_ns.max(from_ns)),
            attributes: attributes.into_vec(),
            status: Some(Status::default()),
            ..Span::default()
        };
        Placed { observer, span }
    }

    fn of_observer(&self, observer: &Observer, spans: Vec<Span>) -> Option<ResourceSpans> {
        let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }];
        (!scope_spans[0].spans.is_empty()).then(|| ResourceSpans {
            resource: Some(self.origin.of_observer(observer)),
            scope_spans,
            schema_url: opentelemetry_semantic_conventions::SCHEMA_URL.to_owned(),
        })
    }
}

/// Nanoseconds as record times have them.
fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}
