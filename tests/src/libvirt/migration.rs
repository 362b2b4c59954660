//! What `virsh migrate` is asked for, and what it and libvirt's statistics say afterwards.

use crate::migration::{ObservedEvent, Side};
use crate::qmp::QmpEvent;
use serde_json::Value;
use std::collections::BTreeMap;

/// A migration by `virsh migrate --live --persistent`.
#[derive(Debug, Clone, Copy, Default)]
pub struct LibvirtMigration {
    /// The source's libvirtd talks to the destination's (`--p2p`). Otherwise virsh talks to both.
    pub peer_to_peer: bool,
    /// The number of multifd channels; none for `--parallel` not given.
    pub parallel: Option<u32>,
    /// Switch to postcopy after the first pass (`--postcopy --postcopy-after-precopy`), unless the guest can be stopped at
    /// once: see `bandwidth_mib_per_s`.
    pub postcopy: bool,
    /// QEMU's bandwidth limits for the disk and the memory (`--bandwidth`); none for no limit.
    pub bandwidth_mib_per_s: Option<u32>,
    /// Encrypt everything but libvirt's own connection (`--tls`).
    pub tls: bool,
}

/// How far a migration is to come before it is aborted.
#[derive(Debug, Clone, Copy, Eq, PartialEq)]
pub enum AbortPoint {
    /// This much of the disk is copied, and nothing of the memory.
    Disk {
        /// At least so many bytes.
        bytes: u64,
    },
    /// The memory is being copied.
    Memory,
}

impl LibvirtMigration {
    /// The options of `virsh migrate`. `disk` copies the disk, too.
    pub(super) fn options(&self, disk: bool, destination: &str) -> Vec<String> {
        let mut options: Vec<String> = vec!["--live".into(), "--persistent".into()];
        let mut add = |wanted: bool, words: &[&str]| {
            options.extend(words.iter().filter(|_| wanted).map(|&word| word.into()));
        };
        add(self.peer_to_peer, &["--p2p"]);
        add(disk, &["--copy-storage-all"]);
        add(self.postcopy, &["--postcopy", "--postcopy-after-precopy"]);
        add(self.tls, &["--tls"]);
        // With multifd QEMU itself connects, and libvirt 9.0 does not tell it whose certificate to expect for the disk.
        add(self.tls && self.parallel.is_some(), &["--tls-destination", destination]);
        if let Some(limit) = self.bandwidth_mib_per_s {
            options.extend(["--bandwidth".into(), limit.to_string()]);
        }
        if let Some(channels) = self.parallel {
            options.extend(["--parallel".into(), "--parallel-connections".into(), channels.to_string()]);
        }
        options
    }
}

/// `virsh domjobinfo --completed`: libvirt's own statistics of a migration.
#[derive(Debug, Clone, Default)]
pub struct JobInfo {
    fields: BTreeMap<String, String>,
}

impl JobInfo {
    pub(super) fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self { fields: fields.map(|(name, value)| (name.trim().into(), value.trim().into())).collect() }
    }

    /// A field's text, such as `Completed` for `Job type`.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    /// A time in milliseconds, such as `Total downtime`.
    #[must_use]
    pub fn ms(&self, name: &str) -> Option<u64> {
        self.text(name)?.strip_suffix("ms")?.trim().parse().ok()
    }

    /// An amount in bytes, such as `Memory processed`, which virsh rounds to a thousandth of its unit.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<f64> {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let (number, unit) = self.text(name)?.split_once(' ')?;
        let power = UNITS.iter().position(|known| *known == unit.trim())?;
        Some(number.parse::<f64>().ok()? * 1024_f64.powi(power as i32))
    }
}

/// What libvirt and QEMU said of a migration, independently of migtrace.
#[derive(Debug, Clone)]
pub struct MigratedByLibvirt {
    /// Just before virsh was started: CLOCK_MONOTONIC, in nanoseconds.
    pub started_ns: u64,
    /// After virsh had ended.
    pub ended_ns: u64,
    /// The events of both QEMUs as libvirtd received them, first those of the source.
    pub events: Vec<ObservedEvent>,
    /// The statistics of the source's QEMU at the end, as libvirtd received them; none if it has not asked.
    pub qemu: Option<Value>,
    /// libvirt's statistics on the source.
    pub source: JobInfo,
    /// libvirt's statistics on the destination, which has none after postcopy.
    pub destination: JobInfo,
}

impl MigratedByLibvirt {
    /// The first event of this name from this side.
    #[must_use]
    pub fn event(&self, side: Side, name: &str) -> Option<&QmpEvent> {
        self.of(side).find(|event| event.name == name)
    }

    /// The first `MIGRATION` event of this side with this status.
    #[must_use]
    pub fn status(&self, side: Side, status: &str) -> Option<&QmpEvent> {
        self.of(side).find(|event| event.name == "MIGRATION" && event.data["status"] == status)
    }

    /// QEMU's own downtime, in milliseconds.
    #[must_use]
    pub fn qemu_downtime_ms(&self) -> Option<u64> {
        self.qemu.as_ref()?["downtime"].as_u64()
    }

    fn of(&self, side: Side) -> impl Iterator<Item = &QmpEvent> {
        self.events.iter().filter(move |observed| observed.side == side).map(|observed| &observed.event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_with_their_units() {
        let info = JobInfo::parse(
            "Job type:         Completed   \nTime elapsed:     6473         ms\nMemory processed: 223.314 MiB\n\
             Data remaining:   0.000 B\nIteration:        8           \n",
        );
        assert_eq!(info.text("Job type"), Some("Completed"));
        assert_eq!(info.ms("Time elapsed"), Some(6473));
        assert_eq!(info.bytes("Memory processed"), Some(223.314 * 1_048_576.0));
        assert_eq!(info.bytes("Data remaining"), Some(0.0));
        assert_eq!((info.ms("Iteration"), info.bytes("no such field")), (None, None));
    }

    #[test]
    fn multifd_with_tls_names_the_destination() {
        let migration = LibvirtMigration { parallel: Some(2), tls: true, ..LibvirtMigration::default() };
        let options = migration.options(true, "dst").join(" ");
        assert!(options.contains("--copy-storage-all --tls --tls-destination dst --parallel"), "{options}");
    }
}
