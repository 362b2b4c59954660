//! The migration's TCP connections.

use super::content::{Column, Piece, Section, UNKNOWN, clean, ends, left, right, table};
use super::quantities::{bytes, grouped, offset};
use crate::record::{FlowRecord, Record};

/// The table's columns, from left to right.
const COLUMNS: [Column<FlowRecord>; 8] = [
    left("Flow", |flow| format!("{}\n- {}", flow.flow.local, flow.flow.remote)),
    left("Carries", carries),
    left("At", |flow| clean(&flow.interface)),
    right("First", |flow| offset(flow.first_ns)),
    right("Last", |flow| offset(flow.last_ns)),
    right("Sent", |flow| bytes(flow.counters.tx.wire_bytes)),
    right("Received", |flow| bytes(flow.counters.rx.wire_bytes)),
    right("Resent", |flow| flow.retransmitted_segments.map_or(UNKNOWN.to_owned(), grouped)),
];

/// None when no flow was seen.
pub(super) fn section(record: &Record) -> Option<Section> {
    let flows = &record.traffic.flows;
    let [host, other] = ends(record);
    let title = format!("Flows ({host} - {other}; resent: segments that {host} retransmitted)");
    (!flows.is_empty()).then(|| Section::titled(title, vec![Piece::Table(table(&COLUMNS, flows))]))
}

fn carries(flow: &FlowRecord) -> String {
    let carries = flow.purpose.name();
    if flow.from_start { carries.to_owned() } else { format!("{carries}, beginning not seen") }
}
