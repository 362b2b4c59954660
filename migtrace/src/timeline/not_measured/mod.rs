//! What a record lacks, and why.

mod downtime;
mod list;
mod recording;
mod traffic;

use list::List;

use super::facts::Facts;
use super::migration::MigrationFacts;
use super::phases::BytesUnknown;
use super::probe_target::Probing;
use crate::record::Record;
use crate::vocabulary::NotMeasured;

/// Everything that is missing from a record, each with its reason; what this host's instruments lack comes first.
pub(super) fn list(
    facts: &Facts,
    migration: &MigrationFacts<'_>,
    record: &Record,
    probing: Probing<'_>,
    unknown_bytes: Option<BytesUnknown>,
) -> Vec<NotMeasured> {
    let mut list = List::default();
    recording::instruments(facts, &mut list);
    recording::while_recording(facts, &mut list);
    recording::gone_interfaces(facts, migration, &mut list);
    recording::removed_programs(facts, migration, probing, &mut list);
    recording::not_understood(facts, &mut list);
    recording::recording(facts, record.lost, &mut list);
    traffic::start(migration, &mut list);
    traffic::events(facts, migration, &mut list);
    traffic::flows(migration, record, &mut list);
    traffic::phase_bytes(record, unknown_bytes, &mut list);
    downtime::arrival(facts, migration, &mut list);
    downtime::downtime(migration, record, &mut list);
    downtime::reachability(record, probing, &mut list);
    list.entries
}
