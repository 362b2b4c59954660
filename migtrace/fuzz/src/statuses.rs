//! The statuses that QEMU reports of a migration.

/// Those of `MigrationStatus` in qapi/migration.json, and one that no version knows.
pub(crate) const STATUSES: [&str; 16] = [
    "setup",
    "active",
    "pre-switchover",
    "device",
    "completed",
    "failed",
    "cancelling",
    "cancelled",
    "postcopy-active",
    "postcopy-paused",
    "postcopy-recover-setup",
    "postcopy-recover",
    "wait-unplug",
    "colo",
    "none",
    "a status of tomorrow",
];
