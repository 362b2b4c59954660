//! What a migration's connections for memory, or for disks, have carried together.

use super::quantities::grouped;
use crate::record::{FlowRecord, Record};
use crate::vocabulary::Purpose;

/// What connections have carried from the source to the destination.
pub(super) struct Carried {
    /// With what was sent again.
    pub(super) payload_bytes: u64,
    /// How many segments were sent again; none where that was not counted.
    resent_segments: Option<u64>,
    is_encrypted: bool,
}

/// What those for memory have carried; none if no connection was seen.
pub(super) fn memory(record: &Record) -> Option<Carried> {
    record.traffic.total?;
    let flows: Vec<_> = record.traffic.flows.iter().filter(|flow| flow.purpose != Purpose::Nbd).collect();
    let is_encrypted = flows.iter().any(|flow| flow.purpose == Purpose::Tls);
    Some(Carried::by(&flows, is_encrypted))
}

/// What those for disks have carried; none if there were none.
pub(super) fn disk(record: &Record) -> Option<Carried> {
    let flows: Vec<_> = record.traffic.flows.iter().filter(|flow| flow.purpose == Purpose::Nbd).collect();
    // NBD begins in the clear, so its own connection does not show it.
    let is_encrypted = record.traffic.flows.iter().any(|flow| flow.purpose == Purpose::Tls);
    (!flows.is_empty()).then(|| Carried::by(&flows, is_encrypted))
}

impl Carried {
    fn by(flows: &[&FlowRecord], is_encrypted: bool) -> Self {
        let payload = flows.iter().map(|flow| flow.counters.tx.payload_bytes);
        let resent: Option<Vec<u64>> = flows.iter().map(|flow| flow.retransmitted_segments).collect();
        Self {
            payload_bytes: payload.fold(0, u64::saturating_add),
            resent_segments: resent.map(|resent| resent.into_iter().fold(0, u64::saturating_add)),
            is_encrypted,
        }
    }

    /// What else than content there is in the payload of this record: `, what TLS adds, and 236 segments that were sent again`.
    pub(super) fn beside_content(&self) -> String {
        let tls = if self.is_encrypted { ", what TLS adds" } else { "" };
        let resent = match self.resent_segments {
            Some(0) => String::new(),
            Some(1) => ", and a segment that was sent again".to_owned(),
            Some(resent) => format!(", and {} segments that were sent again", grouped(resent)),
            None => ", and what was sent again".to_owned(),
        };
        format!("{tls}{resent}")
    }
}
