//! What a connection had carried before it was counted, in bytes on the wire, within bounds.

use super::readings::{Excess, Headers, Readings, Way};
use crate::event::CarriedBefore;
use crate::host::sockets::SocketCounts;
use crate::kernel::Opened;
use crate::units::{Counters, Directions};

/// The headers of a segment without options, and with all that are possible: Ethernet with two VLAN tags, IPv6, TCP.
const FEWEST_HEADERS: u64 = 14 + 20 + 20;
const MOST_HEADERS: u64 = 14 + 8 + 40 + 60;
/// How many bytes of options a TCP header has room for.
const MOST_OPTIONS: u64 = 40;
/// Those of a segment with timestamps.
const TIMESTAMPS: u64 = 12;
/// By how many bytes a SYN with the usual options (maximum segment size, selective acknowledgements, timestamps, window
/// scale) is longer than a segment with timestamps. Otherwise at least the first of these makes it longer.
const USUAL_SYN: u64 = 8;
const LEAST_SYN: u64 = 4;
/// Nothing answers a SYN for this long before it is sent again.
const SYN_WAITS_NS: u64 = 900_000_000;

/// What is known of that; `None` before any reading.
pub(super) fn carried(opened: &Opened, readings: &Readings) -> Option<CarriedBefore> {
    let first = readings.first?;
    let opening_ns = opened.opened_ns.0.saturating_sub(opened.at_ns.0);
    let syn_again = !(opened.by_this_host && opening_ns < SYN_WAITS_NS);
    let (tx, rx) = (one_way(readings, &first, true, syn_again)?, one_way(readings, &first, false, false)?);
    let at_most = Directions { tx: tx.1, rx: rx.1 };
    let counters = Directions { tx: tx.0, rx: rx.0 };
    let part = |of: fn(&Excess) -> i64| Some(of(&readings.retransmitted?).max(0).cast_unsigned());
    Some(CarriedBefore {
        flow: opened.flow,
        began_ns: opened.at_ns,
        counters,
        at_most: (at_most != counters).then_some(at_most),
        retransmitted_segments: part(|excess| excess.segments),
        retransmitted_payload_bytes: part(|excess| excess.payload_bytes),
    })
}

/// The least and the most that crossed in one direction. `syn_again`: the SYN may be among what was sent again.
fn one_way(
    readings: &Readings,
    first: &SocketCounts,
    is_sent: bool,
    syn_again: bool,
) -> Option<(Counters, Counters)> {
    let (way, other) = if is_sent { (&readings.tx, &readings.rx) } else { (&readings.rx, &readings.tx) };
    let (low, high) = way.excess()?;
    let of = |directions: Directions<bool>| if is_sent { directions.tx } else { directions.rx };
    let is_plain = !of(first.is_troubled.swapped());
    let headers = headers(way, other, first, is_plain);
    let syn = syn(first);
    let count = |excess: Excess, is_most: bool| {
        // A socket that was connected to counts the SYN, but not its own.
        let uncounted = u64::from(is_sent && !readings.by_this_host);
        let segments = excess.segments.saturating_add_unsigned(uncounted).max(0).cast_unsigned();
        let mut payload_bytes = excess.payload_bytes.max(0).cast_unsigned();
        let (fewest, most) = headers;
        let syns = u64::from(!of(readings.opening_counted)).min(segments);
        let mut wire_bytes = payload_bytes;
        if is_most {
            let again = if syn_again { first.retransmitted.segments } else { 0 };
            wire_bytes += segments * most + (syns + again.min(segments)) * syn.1;
            // Acknowledgements of what came in another order have options.
            if !is_plain {
                wire_bytes += segments * further_options(first);
            }
            // What came twice has one place in the stream, but crossed twice.
            if !is_sent && first.is_troubled.rx {
                let twice = (segments * first.receive_mss).saturating_sub(payload_bytes);
                (wire_bytes, payload_bytes) = (wire_bytes + twice, payload_bytes + twice);
            }
        } else {
            wire_bytes += segments * fewest + syns * syn.0;
        }
        // No program has seen any of it.
        Counters { wire_bytes, payload_bytes, segments, skbs: 0 }
    };
    Some((count(low, false), count(high, true)))
}

/// The fewest and the most bytes of headers of a segment: as in the segments that were counted later, or those of the other
/// direction. `is_plain`: none of them had options that others lack.
fn headers(way: &Way, other: &Way, first: &SocketCounts, is_plain: bool) -> (u64, u64) {
    let known = |way: &Way| Some((way.headers.least?, way.headers));
    match known(way).or_else(|| known(other)) {
        Some((least, Headers { vary, .. })) if is_plain || !vary => (least, least),
        // Some had more options than others.
        Some((least, _)) => (least, least + further_options(first)),
        None => (FEWEST_HEADERS, MOST_HEADERS),
    }
}

/// How many bytes of options a segment may have beside those that each has.
const fn further_options(first: &SocketCounts) -> u64 {
    MOST_OPTIONS - if first.has_usual_options { TIMESTAMPS } else { 0 }
}

/// By how many bytes, at least and at most, a SYN is longer than other segments.
const fn syn(first: &SocketCounts) -> (u64, u64) {
    if first.has_usual_options { (USUAL_SYN, USUAL_SYN) } else { (LEAST_SYN, MOST_OPTIONS) }
}
