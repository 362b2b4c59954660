//! What is not known because of the hosts: their clocks, or what they saw.

use super::list::List;
use crate::event::TcProgram;
use crate::timeline::alignment::NotAligned;
use crate::timeline::facts::Facts;
use crate::timeline::joined::{Apart, Joined, Observing};
use crate::timeline::removals;
use crate::vocabulary::NotMeasured;

/// A host was to record the migration, and has seen nothing of it.
pub(super) fn blind(host: &Facts, list: &mut List) {
    list.push(
        &format!("what {} saw of it", host.host()),
        "it recorded at the same time, and saw neither the migration's connections nor its QEMU",
    );
}

/// What is not known of the echo requests of an observer.
pub(super) fn observer(joined: &Joined<'_>, host: &Observing<'_>, list: &mut List) {
    if host.clock.is_rough() {
        list.push(
            "when exactly the guest did not answer",
            "nothing but the wall clocks of the hosts relates this host's clock to that of the record; `record --peer` \
             would have read it",
        );
    }
    let migration = joined.first.half.migration;
    let (start, end) = (host.clock.earliest(migration.start), host.clock.latest(migration.end.at()));
    let removed = host.facts.removals.between(start, end).find(|removed| removed.program == TcProgram::Echo);
    if let Some(removed) = removed {
        let NotMeasured { what, why } = removals::described(removed, start, "the migration");
        list.push(&what, why);
    }
}

/// Why packets that contradict each other say nothing of a clock.
const CONTRADICTION: &str = "packets that were stamped on both seem to have arrived before they were sent: somebody has made \
                             packets up, or a clock was slewed faster than NTP does";

/// What the hosts have read of each other's clocks stands in for packets.
pub(super) fn contradicted(host: &str, list: &mut List) {
    list.push(
        &format!("the clock of {host} by the migration's packets, which bound it best"),
        format!("{CONTRADICTION}. What the hosts have read of each other's clocks is used instead"),
    );
}

/// The other half of the migration was seen on a host whose clock is not known.
pub(super) fn apart(apart: &Apart<'_>, list: &mut List) {
    let why = match apart.why {
        NotAligned::NoPackets => {
            "no packet was stamped on both: the migration's connections were not seen there, or not from their \
             beginning, or something between the hosts ends them. The two belong together by the VM or its \
             addresses, and by their wall clocks"
        }
        NotAligned::Contradiction => CONTRADICTION,
    };
    list.push(&format!("what happens between the two hosts (the clock of {})", apart.view.half.host()), why);
}
