//! The migrations that are under way, as gauges.

use super::exporter::Running;
use super::labels::Labels;
use super::text::{Family, Kind, Sample};
use crate::record::{Role, Vantage};
use crate::units::Directions;

/// What QEMU may be doing. Whatever else it says is `other`.
const PHASES: [&str; 21] = [
    "listening",
    "disk-sync",
    "unseen",
    "transfer",
    "setup",
    "wait-unplug",
    "active",
    "paused",
    "stop",
    "pre-switchover",
    "device",
    "postcopy-device",
    "postcopy-active",
    "postcopy-paused",
    "postcopy-recover-setup",
    "postcopy-recover",
    "colo",
    "cancelling",
    "cancelled",
    "failed",
    "completed",
];
const OTHER: &str = "other";

/// A running migration, and how fast it has sent and received lately, in bytes per second.
pub(super) struct Followed {
    pub(super) running: Running,
    pub(super) rate: Option<Directions<f64>>,
}

impl Followed {
    /// The rate is that since `before`, if it is the same migration.
    pub(super) fn new(running: Running, before: &[Self]) -> Self {
        let same = before.iter().find(|each| each.running.is_same(&running));
        let rate = same.and_then(|before| before.rate_until(&running));
        Self { running, rate }
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    fn rate_until(&self, later: &Running) -> Option<Directions<f64>> {
        let (from, to) = (self.running.live.wire_bytes?, later.live.wire_bytes?);
        let ns = later.live.elapsed_ns.checked_sub(self.running.live.elapsed_ns).filter(|ns| *ns > 0);
        // Asked twice without a time between: as it was.
        let Some(ns) = ns else { return self.rate };
        let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 * 1e9 / ns as f64;
        Some(Directions { tx: rate(from.tx, to.tx), rx: rate(from.rx, to.rx) })
    }
}

/// Their families. How many there are is known even if there is none.
#[expect(clippy::cast_precision_loss, reason = "gauges are doubles")]
pub(super) fn families(all: &[Followed]) -> Vec<Family> {
    let roles = [Role::Source, Role::Destination].map(|role| {
        let count = all.iter().filter(|each| each.running.live.role == role).count();
        Sample::new(Labels::default().with("role", Vantage::from(role).as_str()), count as f64)
    });
    let each = |value: &dyn Fn(&Followed) -> Option<f64>| -> Vec<Sample> {
        all.iter().filter_map(|each| Some(Sample::new(labels(&each.running), value(each)?))).collect()
    };
    let directions = |value: &dyn Fn(&Followed) -> Option<Directions<f64>>| -> Vec<Sample> {
        let both = all.iter().filter_map(|each| Some((labels(&each.running), value(each)?)));
        both.flat_map(|(labels, Directions { tx, rx })| {
            [("sent", tx), ("received", rx)]
                .map(|(direction, value)| Sample::new(labels.clone().with("direction", direction), value))
        })
        .collect()
    };
    vec![
        Family::gauge(
            "migtrace_running_migrations",
            "",
            "Migrations that are under way on this host",
            roles.into(),
        ),
        Family::gauge(
            "migtrace_live_elapsed_seconds",
            "seconds",
            "Time since the migration's start",
            each(&|each| Some(each.running.live.elapsed_ns as f64 / 1e9)),
        ),
        Family::gauge(
            "migtrace_live_pass",
            "",
            "The round of copying dirty pages",
            each(&|each| each.running.live.pass.map(|pass| pass as f64)),
        ),
        Family::gauge(
            "migtrace_live_wire_bytes",
            "bytes",
            "What has crossed the wire so far; sent is from the source to the destination",
            directions(&|each| each.running.live.wire_bytes.map(|bytes| bytes.map(|bytes| bytes as f64))),
        ),
        Family::gauge(
            "migtrace_live_rate_bytes_per_second",
            "bytes_per_second",
            "How fast it crosses the wire, since the look before",
            directions(&|each| each.rate),
        ),
        Family::gauge(
            "migtrace_live_remaining_bytes",
            "bytes",
            "What QEMU says is left of the guest's memory, where it was asked",
            each(&|each| each.running.remaining_bytes.map(|bytes| bytes as f64)),
        ),
        Family {
            name: "migtrace_live_phase".to_owned(),
            unit: "",
            help: "What QEMU is doing",
            kind: Kind::StateSet,
            samples: all.iter().flat_map(phases).collect(),
        },
    ]
}

fn labels(running: &Running) -> Labels {
    let role = Vantage::from(running.live.role).as_str();
    Labels::of_guest(running.live.vm.as_deref(), running.uuid.as_deref()).with("role", role)
}

fn phases(each: &Followed) -> Vec<Sample> {
    let phase = each.running.live.phase.as_str();
    let phase = if PHASES.contains(&phase) { phase } else { OTHER };
    let labels = labels(&each.running);
    let sample = |state: &&str| {
        let labels = labels.clone().with("migtrace_live_phase", state);
        Sample::new(labels, if *state == phase { 1.0 } else { 0.0 })
    };
    PHASES.iter().chain([&OTHER]).map(sample).collect()
}
