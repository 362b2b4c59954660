//! The two halves of a migration whose QEMUs are both on this host.

use std::collections::HashMap;

use super::facts::Process;
use super::migration::Migration;
use crate::units::MonotonicNs;
use crate::vm::VmKey;

/// The VM that migrates; none when its QEMU is not in this network namespace.
pub(super) fn vm<'a>(migration: &Migration<'a>) -> Option<VmKey<'a>> {
    migration.process.map(Process::vm)
}

/// Of each migration the other half, as an index into `all`, which is in the order of the starts.
pub(super) fn pairs(all: &[Migration<'_>]) -> Vec<Option<usize>> {
    let mut of_vm: HashMap<VmKey<'_>, Vec<(usize, MonotonicNs)>> = HashMap::new();
    for (index, migration) in all.iter().enumerate() {
        let Some(key) = vm(migration) else { continue };
        let same_vm = of_vm.entry(key).or_default();
        // With the latest end so far, those that have ended before an instant can be passed over.
        let latest = same_vm.last().map_or(MonotonicNs(0), |(_, end)| *end);
        same_vm.push((index, latest.max(migration.end.at())));
    }
    let other_half = |migration: &Migration<'_>| {
        let same_vm = of_vm.get(&vm(migration)?)?;
        let first = same_vm.partition_point(|(_, end)| *end < migration.start);
        let begun = same_vm[first..].iter().take_while(|(i, _)| all[*i].start <= migration.end.at());
        let mut others = begun.map(|(i, _)| *i).filter(|&i| {
            let other = &all[i];
            other.role != migration.role
                && other.process.map(|p| p.pid) != migration.process.map(|p| p.pid)
                && migration.start <= other.end.at()
        });
        others.next()
    };
    all.iter().map(other_half).collect()
}
