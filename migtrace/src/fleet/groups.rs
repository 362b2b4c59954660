//! The logs that are to be folded together.

use std::collections::{BTreeMap, HashMap};

use super::{Key, Summary};
use crate::timeline::WALL_CLOCKS_APART_NS;

/// The logs that are to be folded together, as places in `logs`: those that share a connection, those whose recordings
/// have read each other's clocks, and, where no connection was seen to begin, those that resemble each other at one time.
/// An observer belongs to each migration of the guest that it has pinged. In the order of their times. Logs without a
/// migration, and that watched none, are in no group.
///
/// It takes as long as sorting the logs.
#[must_use]
pub fn groups(logs: &[Summary]) -> Vec<Vec<usize>> {
    let mut sets = Sets::of(logs.len());
    join_by_connections(logs, &mut sets);
    join_by_clock_readings(logs, &mut sets);
    join_by_time(logs, &mut sets);
    let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for log in 0..logs.len() {
        members.entry(sets.root(log)).or_default().push(log);
    }
    let has_migration = |group: &Vec<usize>| group.iter().any(|log| logs[*log].has_migration);
    let mut groups: Vec<_> = members.into_values().filter(has_migration).collect();
    add_observers(logs, &mut groups);
    groups.retain(|group| group.iter().any(|log| logs[*log].is_selected));
    let start = |group: &Vec<usize>| group.iter().filter_map(|log| logs[*log].time).min();
    groups.sort_by_cached_key(|group| (start(group), group[0]));
    groups
}

/// Disjoint sets of logs.
struct Sets(Vec<usize>);

impl Sets {
    fn of(number: usize) -> Self {
        Self((0..number).collect())
    }

    fn root(&mut self, mut log: usize) -> usize {
        while self.0[log] != log {
            self.0[log] = self.0[self.0[log]];
            log = self.0[log];
        }
        log
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        // The first log stands for its set, whichever came to it first.
        self.0[one.max(other)] = one.min(other);
    }
}

/// Both hosts know the sequence numbers of the SYNs. A second log of the same host has them too.
fn join_by_connections(logs: &[Summary], sets: &mut Sets) {
    let mut known: HashMap<(u32, u32), usize> = HashMap::new();
    for (index, log) in logs.iter().enumerate() {
        for (tx, rx) in &log.syns {
            let first = *known.entry((*tx.min(rx), *tx.max(rx))).or_insert(index);
            sets.join(first, index);
        }
    }
}

fn join_by_clock_readings(logs: &[Summary], sets: &mut Sets) {
    if logs.iter().all(|log| log.peers.is_empty()) {
        return;
    }
    let mut recordings: HashMap<Key, Vec<usize>> = HashMap::new();
    for (index, log) in logs.iter().enumerate() {
        recordings.entry(log.recording).or_default().push(index);
    }
    for (index, log) in logs.iter().enumerate() {
        for peer in log.peers.iter().filter_map(|peer| recordings.get(peer)).flatten() {
            sets.join(*peer, index);
        }
    }
}

/// Those with a migration whose connections were not seen to begin, or have no other end in any log.
fn join_by_time(logs: &[Summary], sets: &mut Sets) {
    let mut ends: HashMap<(u32, u32), usize> = HashMap::new();
    for syns in logs.iter().flat_map(|log| &log.syns) {
        *ends.entry(*syns).or_default() += 1;
    }
    let is_alone = |log: &Summary| log.syns.iter().any(|(tx, rx)| !ends.contains_key(&(*rx, *tx)));
    let mut alike = Vec::new();
    for (index, log) in logs.iter().enumerate() {
        if let Some(time) = log.time.filter(|_| log.has_migration && (log.may_lack_syns || is_alone(log))) {
            alike.extend(log.likenesses.iter().map(|likeness| (*likeness, time, index)));
        }
    }
    alike.sort_unstable();
    for same in alike.chunk_by(|(one, ..), (other, ..)| one == other) {
        let mut latest: Option<(i64, usize)> = None;
        for (_, (start, end), log) in same {
            match latest {
                Some((until, other)) if *start <= until.saturating_add(WALL_CLOCKS_APART_NS) => {
                    sets.join(other, *log);
                    latest = Some((until.max(*end), other));
                }
                _ => latest = Some((*end, *log)),
            }
        }
    }
}

/// A log of a host that only pinged, and when it did.
#[derive(Clone, Copy)]
struct Watch {
    since: i64,
    until: i64,
    /// When the last of those ended that began no later than this one.
    all_until: i64,
    log: usize,
}

/// An observer knows the guest by its MAC, or a person has named it.
fn add_observers(logs: &[Summary], groups: &mut [Vec<usize>]) {
    let mut watches: HashMap<Key, Vec<Watch>> = HashMap::new();
    for (index, log) in logs.iter().enumerate() {
        if let Some((since, until)) = log.time.filter(|_| !log.has_migration) {
            for name in &log.pinged {
                let watch = Watch { since, until, all_until: until, log: index };
                watches.entry(*name).or_default().push(watch);
            }
        }
    }
    for same in watches.values_mut() {
        same.sort_unstable_by_key(|watch| watch.since);
        let mut latest = i64::MIN;
        for watch in same {
            latest = latest.max(watch.until);
            watch.all_until = latest;
        }
    }
    for group in groups {
        let mut found = Vec::new();
        for log in group.iter().map(|log| &logs[*log]) {
            let (Some((start, end)), names) = (log.time, &log.guests) else { continue };
            for same in names.iter().filter_map(|name| watches.get(name)) {
                let end = end.saturating_add(WALL_CLOCKS_APART_NS);
                let start = start.saturating_sub(WALL_CLOCKS_APART_NS);
                let begun = same.partition_point(|watch| watch.since <= end);
                let not_all_over = same[..begun].iter().rev().take_while(|watch| start <= watch.all_until);
                found.extend(not_all_over.filter(|watch| start <= watch.until).map(|watch| watch.log));
            }
        }
        group.extend(found);
        group.sort_unstable();
        group.dedup();
    }
}
