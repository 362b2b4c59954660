//! What the driver of a migration saw.

use crate::qmp::QmpEvent;
use serde::Serialize;
use serde_json::Value;

/// The two ends of a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// Where the guest comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// An event, and which QEMU sent it.
#[derive(Debug, Clone, Serialize)]
pub struct ObservedEvent {
    /// Which QEMU sent it.
    pub side: Side,
    /// The event.
    #[serde(flatten)]
    pub event: QmpEvent,
}

/// How a migration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The guest runs on the destination.
    Completed,
    /// It failed; the guest runs on the source.
    Failed,
    /// The driver cancelled it; the guest runs on the source.
    Cancelled,
}

/// Everything that the driver of a migration saw, independently of migtrace.
#[derive(Debug, Clone, Serialize)]
pub struct Migrated {
    /// How it ended.
    pub outcome: Outcome,
    /// Just before the first command that sends bytes: CLOCK_MONOTONIC, in nanoseconds.
    pub started_ns: u64,
    /// Just before the `migrate` command. The same, unless a disk was copied first.
    pub migrate_ns: u64,
    /// When the driver noticed the end.
    pub ended_ns: u64,
    /// The events of both sides, in the order in which the driver received them.
    pub events: Vec<ObservedEvent>,
    /// `query-migrate` of the source at the end.
    pub source: Value,
    /// `query-migrate` of the destination at the end; null unless completed.
    pub destination: Value,
}

impl Migrated {
    /// The first event of this name from this side.
    #[must_use]
    pub fn event(&self, side: Side, name: &str) -> Option<&QmpEvent> {
        self.of(side).find(|event| event.name == name)
    }

    /// The states in one side's `MIGRATION` events, in order.
    #[must_use]
    pub fn states(&self, side: Side) -> Vec<&str> {
        self.of(side)
            .filter(|event| event.name == "MIGRATION")
            .filter_map(|event| event.data["status"].as_str())
            .collect()
    }

    /// The number of the last pass that the source reported; 0 without events.
    #[must_use]
    pub fn passes(&self) -> u64 {
        self.of(Side::Source)
            .filter(|event| event.name == "MIGRATION_PASS")
            .filter_map(|event| event.data["pass"].as_u64())
            .max()
            .unwrap_or(0)
    }

    /// QEMU's own downtime, in milliseconds.
    #[must_use]
    pub fn qemu_downtime_ms(&self) -> Option<u64> {
        self.source["downtime"].as_u64()
    }

    /// From the source's STOP to the destination's RESUME, as the driver received them, in nanoseconds.
    #[must_use]
    pub fn stop_to_resume_ns(&self) -> Option<u64> {
        let stop = self.event(Side::Source, "STOP")?.received_ns;
        self.event(Side::Destination, "RESUME")?.received_ns.checked_sub(stop)
    }

    fn of(&self, side: Side) -> impl Iterator<Item = &QmpEvent> {
        self.events.iter().filter(move |observed| observed.side == side).map(|observed| &observed.event)
    }
}
