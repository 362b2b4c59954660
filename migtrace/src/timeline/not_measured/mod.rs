//! What a record lacks, and why.

mod downtime;
mod hosts;
mod list;
mod recording;
mod traffic;
mod tunnels;

use list::List;

use super::joined::{Joined, View};
use super::phases::BytesUnknown;
use super::probe_target::Probing;
use super::prober::Prober;
use crate::record::Record;
use crate::vocabulary::{LIBVIRT_FIGURES, Lost, NotMeasured};

/// Everything that is missing from a record, each with its reason; what the recordings themselves lack comes first.
pub(super) fn list(
    joined: &Joined<'_>,
    record: &Record,
    (prober, probing): (&Prober<'_>, Probing<'_>),
    unknown_bytes: Option<BytesUnknown>,
) -> Vec<NotMeasured> {
    let mut list = List::default();
    let lists = recordings(joined);
    let several = lists.len() > 1;
    for (host, of_host) in lists {
        // If libvirt has said it on the other host, nothing is missing.
        let is_missing = |entry: &NotMeasured| entry.what != LIBVIRT_FIGURES || record.libvirt.is_none();
        for entry in of_host.entries.into_iter().filter(is_missing) {
            let what = if several { format!("{} ({host})", entry.what) } else { entry.what };
            list.push(&what, entry.why);
        }
    }
    if record.lost != Lost::default() {
        recording::losses(record.lost, &mut list);
    }
    let (facts, migration) = (joined.first.half.facts, joined.first.half.migration);
    if let Some(apart) = &joined.apart {
        hosts::apart(apart, &mut list);
    }
    if let Some(other) = joined.elsewhere().filter(|_| joined.contradicted) {
        hosts::contradicted(other.half.host(), &mut list);
    }
    for host in &joined.blind {
        hosts::blind(host, &mut list);
    }
    traffic::start(migration, &mut list);
    traffic::events(facts, migration, &mut list);
    traffic::purpose(joined, &mut list);
    traffic::flows(migration, record, &mut list);
    tunnels::outer_headers(facts, migration, &mut list);
    traffic::phase_bytes(record, unknown_bytes, &mut list);
    let arrived = joined.elsewhere().unwrap_or(joined.first).half;
    downtime::arrival(arrived.facts, arrived.migration, &mut list);
    downtime::downtime(joined, record, &mut list);
    downtime::reachability(record, prober.clock.is_rough(), probing, &mut list);
    list.entries
}

/// What the recordings lack, by their hosts. A host whose clock is not known lacks that, and nothing else matters.
fn recordings<'a>(joined: &Joined<'a>) -> Vec<(&'a str, List)> {
    let own = [Some(joined.first), joined.elsewhere()].into_iter().flatten().map(|view| {
        let mut list = List::default();
        recording(&view, &mut list);
        (view.half.facts.host(), list)
    });
    let observing = joined.observers.iter().map(|host| {
        let mut list = List::default();
        recording::while_recording(host.facts, &mut list);
        recording::end(host.facts, &mut list);
        hosts::observer(joined, host, &mut list);
        (host.facts.host(), list)
    });
    own.chain(observing).collect()
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
