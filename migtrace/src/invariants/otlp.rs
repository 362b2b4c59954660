//! The trace of a record for OpenTelemetry.

use std::collections::HashSet;

use super::rendering::steers;
use super::violations::Violations;
use crate::export::otlp::{NoTrace, Origin, json_line, trace_request};
use crate::record::{Record, Vantage};

/// A record with a wall time gives a trace: each span has an identifier of its own, ends after it begins, and has a parent that
/// is there, but for the other half's root.
pub(super) fn traced(record: &Record, found: &mut Violations) {
    let request = match trace_request(record, &Origin::default()) {
        Ok(request) => request,
        Err(NoTrace::NoWallClock) => {
            return found.unless(record.start.realtime_ns.is_none(), || {
                "OTLP: no trace in spite of a wall time".to_owned()
            });
        }
        Err(NoTrace::NoSide) => {
            let takes_part = record.observers.iter().any(|observer| observer.role != Vantage::Observer);
            return found.unless(!takes_part, || "OTLP: no trace in spite of a side".to_owned());
        }
    };
    let of_hosts = || request.resource_spans.iter().flat_map(|host| &host.scope_spans);
    let spans: Vec<_> = of_hosts().flat_map(|scope| &scope.spans).collect();
    let ids: HashSet<_> = spans.iter().map(|span| &span.span_id).collect();
    found.unless(ids.len() == spans.len(), || "OTLP: two spans have the same identifier".to_owned());
    for span in &spans {
        found.unless(span.start_time_unix_nano <= span.end_time_unix_nano, || {
            format!("OTLP: {} ends before it begins", span.name)
        });
    }
    let missing =
        spans.iter().map(|span| &span.parent_span_id).filter(|id| !id.is_empty() && !ids.contains(id));
    let missing: HashSet<_> = missing.collect();
    found.unless(missing.len() <= 1, || format!("OTLP: {} parents are missing", missing.len()));
    match json_line(&request) {
        Ok(line) => found.unless(!line.chars().any(steers), || "OTLP: it would steer the reader".to_owned()),
        Err(error) => found.0.push(format!("OTLP: it is not JSON: {error}")),
    }
}
