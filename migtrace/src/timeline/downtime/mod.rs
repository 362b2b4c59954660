//! How long the guest was gone, from every place where that can be seen: its vCPUs, its taps, the network.

mod brownout;
mod claims;
mod first_signs;
mod marks;
mod network;
mod parts;
mod reachability;
mod remarks;
mod sides;
mod stop;

use serde_json::Value;

use self::brownout::brownout;
use self::reachability::tail;
use self::sides::Sides;
use super::gaps::BoundedGap;
use super::half::Half;
use super::migration::MigrationFacts;
use super::probe_target::GuestProbe;
use super::prober::Prober;
use crate::record::{Downtime, Estimate, Role};

/// QEMU reports its times in milliseconds, rounded.
const NS_PER_MS: u64 = 1_000_000;

/// What else is known of a migration when its downtime is worked out.
pub(super) struct Context<'a> {
    /// The other half of the same migration, if it is known.
    pub(super) other: Option<Half<'a>>,
    /// The host that has sent the echo requests.
    pub(super) prober: Prober<'a>,
    /// The gaps of the echo requests to the guest, in their order.
    pub(super) gaps: &'a [BoundedGap<'a>],
    /// The echo requests to the guest.
    pub(super) probe: Option<GuestProbe<'a>>,
    pub(super) total_time: Option<&'a Estimate>,
}

/// How long the guest was gone.
pub(super) fn downtime(half: Half<'_>, context: &Context<'_>) -> Downtime {
    let Context { other, prober, gaps, probe, total_time } = context;
    let migration = half.migration;
    let (source, destination) = match migration.role {
        Role::Source => (Some(half), *other),
        Role::Destination => (*other, Some(half)),
    };
    let sides = Sides { source, destination, prober: *prober };
    let gap = sides.gap_around_stop(gaps);
    let reachability = sides.reachability(gap, gaps, probe.as_ref());
    // A possible gap bounds nothing unless it surely lies around the stop, and none does if nobody knows when it was.
    let framing = gap.filter(|gap| sides.is_framed_by(gap) && !prober.clock.is_rough());
    let stop = sides.stop(framing);
    let both = reachability.as_ref().zip(stop.as_ref());
    let tail = both.and_then(|(reachability, stop)| tail(reachability, stop));
    let echo = probe.as_ref().and_then(|probe| probe.echo);
    let brownout = reachability
        .as_ref()
        .and(gap)
        .zip(echo)
        .map(|(gap, echo)| brownout(&prober.facts.echo_gaps, gaps, gap, sides.next_migration(), echo));
    let mut downtime = Downtime {
        stopped: sides.stopped_at_all(),
        stop,
        parts: sides.parts(),
        first_signs: sides.first_signs(framing),
        network: sides.network(),
        reachability,
        tail,
        brownout,
        qemu_reported_ns: reported_ns(migration),
        budget_ns: budget_ns(migration),
        contradictions: Vec::new(),
        remarks: sides.remarks(migration),
        taps: sides.taps(),
        announcements: sides.announcements(),
        marks: sides.marks(framing),
    };
    let mut found = claims::between_figures(&downtime, *total_time, sides.held_back_ns().unwrap_or(0));
    found.extend(sides.answers_too_early(framing));
    found.extend(claims::against_qemu(half.facts, migration));
    downtime.contradictions = found;
    downtime
}

fn reported_ns(migration: &MigrationFacts<'_>) -> Option<u64> {
    migration.reply()?.get("downtime").and_then(Value::as_u64)?.checked_mul(NS_PER_MS)
}

/// QEMU's `downtime-limit`, as last reported: managers raise it while a migration does not converge.
fn budget_ns(migration: &MigrationFacts<'_>) -> Option<u64> {
    migration.parameters()?.get("downtime-limit").and_then(Value::as_u64)?.checked_mul(NS_PER_MS)
}
