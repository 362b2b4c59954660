//! What crossed the wire in all.

use super::content::{Column, NONE, Piece, Section, ends, left, right, said, table};
use super::quantities::{bytes, grouped, percent};
use crate::record::{Record, Traffic};
use crate::units::Counters;

type Row = (&'static str, Counters);

/// The table's columns, from left to right.
const COLUMNS: [Column<Row>; 6] = [
    left("", |(name, _)| (*name).to_owned()),
    right("Wire", |(_, count)| bytes(count.wire_bytes)),
    right("Wire bytes", |(_, count)| grouped(count.wire_bytes)),
    right("Payload bytes", |(_, count)| grouped(count.payload_bytes)),
    right("Headers", |(_, count)| {
        let headers = count.wire_bytes.saturating_sub(count.payload_bytes);
        percent(headers, count.wire_bytes).unwrap_or_else(|| NONE.to_owned())
    }),
    right("Segments", |(_, count)| grouped(count.segments)),
];

/// None when no flow was seen.
pub(super) fn section(record: &Record) -> Option<Section> {
    let total = record.traffic.total?;
    let mut rows: Vec<Row> = vec![("Sent", total.tx), ("Received", total.rx)];
    if let Some(fragments) = record.traffic.fragments {
        rows.extend([("Fragments sent", fragments.tx), ("Fragments received", fragments.rx)]);
    }
    let title = "Totals (sent: from the source to the destination; headers: share of the wire bytes)";
    let [host, _] = ends(record);
    let retransmitted = said(&format!("  Retransmitted by {host}: "), retransmitted(&record.traffic));
    Some(Section::titled(title, vec![Piece::Table(table(&COLUMNS, &rows)), retransmitted]))
}

fn retransmitted(traffic: &Traffic) -> String {
    match (traffic.retransmitted_segments, traffic.retransmitted_payload_bytes) {
        (None, _) => "not measured".to_owned(),
        (Some(segments), None) => format!("{} segments", grouped(segments)),
        (Some(segments), Some(payload)) => {
            format!("{} segments, {} payload", grouped(segments), bytes(payload))
        }
    }
}
