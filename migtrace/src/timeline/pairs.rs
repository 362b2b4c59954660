//! The two halves of a migration whose QEMUs are both on this host.

use std::collections::HashMap;

use super::facts::Process;
use super::migration::MigrationFacts;
use crate::record::Role;
use crate::units::MonotonicNs;
use crate::vm::VmKey;

/// The VM that migrates; none when its QEMU is not in this network namespace.
pub(super) fn vm<'a>(migration: &MigrationFacts<'a>) -> Option<VmKey<'a>> {
    migration.process.map(Process::vm)
}

/// The other half of each migration, as an index into `all`, which is in the order of the starts. It is the first
/// migration of another process of the same VM that has the other part and overlaps in time.
pub(super) fn pairs(all: &[MigrationFacts<'_>]) -> Vec<Option<usize>> {
    let mut parts: HashMap<(VmKey<'_>, Role), Vec<Candidate>> = HashMap::new();
    let keys: Vec<_> = all.iter().map(vm).collect();
    for (index, migration) in all.iter().enumerate() {
        if let (Some(key), Some(process)) = (keys[index], migration.process) {
            let same = parts.entry((key, migration.role)).or_default();
            same.push(Candidate::after(same.last(), index, (migration.end.at(), process.pid)));
        }
    }
    let other_half = |(index, migration): (usize, &MigrationFacts<'_>)| {
        let (key, process) = (keys[index]?, migration.process?);
        let others = parts.get(&(key, other_role(migration.role)))?;
        // The first that has not ended before, if it began before this one ended.
        let first =
            others.partition_point(|other| other.latest_end_but_of(process.pid) < Some(migration.start));
        let other = others.get(first)?.index;
        (all[other].start <= migration.end.at()).then_some(other)
    };
    all.iter().enumerate().map(other_half).collect()
}

const fn other_role(role: Role) -> Role {
    match role {
        Role::Source => Role::Destination,
        Role::Destination => Role::Source,
    }
}

/// A migration that may be the other half of another, with the ends of it and of those before it.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    index: usize,
    /// The latest end, and the process that it belongs to.
    latest: (MonotonicNs, u32),
    /// The latest end among the other processes.
    of_others: Option<MonotonicNs>,
}

impl Candidate {
    fn after(before: Option<&Self>, index: usize, (end, pid): (MonotonicNs, u32)) -> Self {
        let Some(&Self { latest, of_others, .. }) = before else {
            return Self { index, latest: (end, pid), of_others: None };
        };
        if pid == latest.1 {
            Self { index, latest: (end.max(latest.0), pid), of_others }
        } else if end > latest.0 {
            Self { index, latest: (end, pid), of_others: Some(latest.0) }
        } else {
            Self { index, latest, of_others: of_others.max(Some(end)) }
        }
    }

    /// The latest end among the processes other than `pid`; none: there is no other.
    fn latest_end_but_of(&self, pid: u32) -> Option<MonotonicNs> {
        if self.latest.1 == pid { self.of_others } else { Some(self.latest.0) }
    }
}
