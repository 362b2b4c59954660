//! What a record lacks, and why.

mod downtime;
mod hosts;
mod list;
mod recording;
mod traffic;

use list::List;

use super::joined::{Joined, View};
use super::phases::BytesUnknown;
use super::probe_target::Probing;
use crate::record::Record;
use crate::vocabulary::{Lost, NotMeasured};

/// Everything that is missing from a record, each with its reason; what the recordings themselves lack comes first.
pub(super) fn list(
    joined: &Joined<'_>,
    record: &Record,
    probing: Probing<'_>,
    unknown_bytes: Option<BytesUnknown>,
) -> Vec<NotMeasured> {
    let mut list = List::default();
    match joined.elsewhere() {
        None => recording(&joined.first, &mut list),
        Some(elsewhere) => {
            for view in [joined.first, elsewhere] {
                let mut of_host = List::default();
                recording(&view, &mut of_host);
                for entry in of_host.entries {
                    list.push(&format!("{} ({})", entry.what, view.half.host()), entry.why);
                }
            }
        }
    }
    if record.lost != Lost::default() {
        recording::losses(record.lost, &mut list);
    }
    let (facts, migration) = (joined.first.half.facts, joined.first.half.migration);
    if let Some(apart) = &joined.apart {
        hosts::apart(apart, &mut list);
    }
    traffic::start(migration, &mut list);
    traffic::events(facts, migration, &mut list);
    traffic::flows(migration, record, &mut list);
    traffic::phase_bytes(record, unknown_bytes, &mut list);
    let arrived = joined.elsewhere().unwrap_or(joined.first).half;
    downtime::arrival(arrived.facts, arrived.migration, &mut list);
    downtime::downtime(joined, record, &mut list);
    downtime::reachability(record, probing, &mut list);
    list.entries
}

/// What the recording on one host lacks.
fn recording(view: &View<'_>, list: &mut List) {
    let (facts, migration) = (view.half.facts, view.half.migration);
    recording::instruments(facts, list);
    recording::while_recording(facts, list);
    recording::gone_interfaces(facts, migration, list);
    recording::removed_programs(facts, migration, view.probed.probing(migration), list);
    recording::not_understood(facts, list);
    recording::end(facts, list);
}
