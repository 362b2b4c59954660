//! Which hosts have read each other's clocks, since they were to record a migration together.

use std::collections::{BTreeSet, HashMap};

use super::Host;

/// The hosts that have read another's clock, and those whose clock another has read.
#[derive(Default)]
pub(super) struct Peers {
    reading: BTreeSet<usize>,
    read: BTreeSet<usize>,
}

impl Peers {
    pub(super) fn of(hosts: &[Host<'_>]) -> Self {
        let mut recordings: HashMap<_, Vec<usize>> = HashMap::new();
        for (index, host) in hosts.iter().enumerate() {
            if let Some(recording) = host.facts.recording() {
                recordings.entry(recording).or_default().push(index);
            }
        }
        let mut peers = Self::default();
        for (index, host) in hosts.iter().enumerate() {
            for read in host.facts.recordings_read().filter_map(|recording| recordings.get(recording)) {
                peers.reading.insert(index);
                peers.read.extend(read);
            }
        }
        peers
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = usize> {
        self.reading.union(&self.read).copied()
    }

    /// Whether a host is one of them.
    pub(super) fn has(&self, host: usize) -> bool {
        self.reading.contains(&host) || self.read.contains(&host)
    }

    /// Those whose clock another has read.
    pub(super) fn read(&self) -> impl Iterator<Item = usize> {
        self.read.iter().copied()
    }
}
