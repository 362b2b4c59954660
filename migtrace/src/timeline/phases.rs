//! What QEMU was doing, in order and without gaps, and what crossed the wire in each stretch.

use super::facts::{FlowFacts, MarkKind};
use super::migration::{End, Migration, Opening, terminal};
use crate::event::Purpose;
use crate::record::Role;
use crate::units::{Counters, Directions, MonotonicNs};

type Snapshot = Directions<Counters>;

/// A phase, in this host's time and from this host's side.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Stretch {
    pub(super) name: String,
    pub(super) pass: Option<u64>,
    pub(super) start: MonotonicNs,
    pub(super) end: MonotonicNs,
    pub(super) traffic: Option<Snapshot>,
}

/// Why the bytes of a phase are not known.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Unknown {
    /// The kernel program did not read the counters with the event.
    NoSnapshot,
    /// The flows are not tied to this QEMU, so the counters read with its events are not theirs.
    NotOwned,
    /// A flow was tied to QEMU only after bytes had crossed that an earlier snapshot lacks, and nothing tells how many.
    OwnedLate,
    /// The snapshots contradict the flows' counters.
    Contradiction,
    /// The log ends before the flows were counted for the last time.
    CutOff,
}

/// The point where one phase ends and the next begins.
struct Border {
    at: MonotonicNs,
    name: String,
    pass: Option<u64>,
    counters: Option<Snapshot>,
}

impl Border {
    fn new(at: MonotonicNs, name: &str, pass: Option<u64>, counters: Option<Snapshot>) -> Self {
        Self { at, name: name.to_owned(), pass, counters }
    }
}

/// The sum of the counters of the migration's flows; none when no flow was counted.
///
/// In a log that is cut off, and while the migration runs, the last snapshot is younger than the last counters.
pub(super) fn total(migration: &Migration<'_>) -> Option<Snapshot> {
    let sum = migration.flows.iter().filter_map(|f| f.last.as_ref()).fold(None, |sum, counters| {
        let mut sum = sum.unwrap_or_default();
        sum += counters.counters;
        Some(sum)
    })?;
    let last = migration.marks.iter().rev().find(|m| m.counters.is_some());
    let younger = last.filter(|m| !counted_after(migration, m.at)).and_then(|m| {
        let count = snapshot(migration, m.at, m.counters).ok()?;
        at_least(&count, &sum).then_some(count)
    });
    Some(younger.unwrap_or(sum))
}

/// The phases, and why the bytes of some are unknown.
pub(super) fn phases(migration: &Migration<'_>) -> (Vec<Stretch>, Option<Unknown>) {
    let mut borders = borders(migration);
    let end = borders.last().map_or(migration.start, |b| b.at).max(migration.end.at());
    let end = match migration.end {
        End::Superseded(_) => end,
        _ => end.max(migration.last_packet().unwrap_or(end)),
    };
    let (counts, unknown) = counts_at(migration, &borders);
    let mut stretches = Vec::with_capacity(borders.len());
    for (i, border) in borders.drain(..).enumerate() {
        stretches.push(Stretch {
            name: border.name,
            pass: border.pass,
            start: border.at,
            end,
            traffic: counts[i].zip(counts[i + 1]).map(|(from, to)| to.since(&from)),
        });
    }
    for i in 1..stretches.len() {
        stretches[i - 1].end = stretches[i].start;
    }
    (stretches, unknown)
}

/// Where the phases begin.
fn borders(migration: &Migration<'_>) -> Vec<Border> {
    let mut borders: Vec<Border> = Vec::new();
    let disks = || migration.flows.iter().filter(|f| f.purpose == Purpose::Nbd);
    let opening = match migration.opening {
        Opening::Mark => None,
        Opening::DiskSync => Some("disk-sync"),
        Opening::Transfer if disks().count() == migration.flows.len() => Some("disk-sync"),
        Opening::Transfer => Some("transfer"),
        Opening::Unseen => Some("unseen"),
    };
    borders.extend(opening.map(|name| Border::new(migration.start, name, None, None)));
    // A libvirt destination says `setup` when it begins to listen, before the source copies the disks.
    let arriving = migration.role == Role::Destination && migration.opening == Opening::Mark;
    let mut arrival = disks().map(|f| f.first()).min().filter(|&at| arriving && at > migration.start);

    let mut latest_pass = None;
    let mut before_stop = None;
    for mark in &migration.marks {
        let name = |borders: &[Border]| borders.last().map_or(String::new(), |b| b.name.clone());
        if name(&borders) == "setup"
            && !mark.is_status("setup")
            && let Some(at) = arrival.take_if(|at| *at <= mark.at)
        {
            borders.push(Border::new(at, "disk-sync", None, None));
        }
        let name = name(&borders);
        match &mark.kind {
            MarkKind::Status(status) if *status == name => {}
            MarkKind::Status(status) => {
                let pass = latest_pass.filter(|_| status == "active");
                borders.push(Border::new(mark.at, status, pass, mark.counters));
                if terminal(status).is_some() {
                    break;
                }
            }
            MarkKind::Pass(pass) => {
                latest_pass = Some(*pass);
                match borders.last_mut() {
                    None => borders.push(Border::new(mark.at, "active", latest_pass, mark.counters)),
                    // The first pass begins with `active`, whichever of the two is told first.
                    Some(b) if b.name == "active" && b.pass.is_none() && *pass == 1 => b.pass = latest_pass,
                    Some(b) if (b.name == "active" && b.pass != latest_pass) || b.name == "unseen" => {
                        borders.push(Border::new(mark.at, "active", latest_pass, mark.counters));
                    }
                    // The first is part of `setup`, and the last of `stop` or `device`.
                    Some(_) => {}
                }
            }
            MarkKind::DirtyLog if name == "transfer" => {
                latest_pass = Some(latest_pass.map_or(1, |pass| pass + 1));
                borders.push(Border::new(mark.at, "transfer", latest_pass, mark.counters));
            }
            // In post-copy the source never runs again and in COLO the guest stops at every checkpoint:
            // there QEMU's states tell more than the stop.
            MarkKind::Stop if matches!(name.as_str(), "active" | "transfer" | "unseen") => {
                before_stop = Some(name);
                borders.push(Border::new(mark.at, "stop", None, mark.counters));
            }
            // A person paused the guest for a while.
            MarkKind::Resume if name == "stop" => {
                let name = before_stop.take().unwrap_or_default();
                let pass = latest_pass.filter(|_| name == "active");
                borders.push(Border::new(mark.at, &name, pass, mark.counters));
            }
            MarkKind::Stop | MarkKind::Resume | MarkKind::DirtyLog => {}
        }
    }
    if let End::Died(at) = migration.end
        && migration.opening != Opening::Transfer
    {
        let at = borders.last().map_or(at, |b| b.at.max(at));
        borders.push(Border::new(at, "failed", None, None));
    }
    borders
}

/// The counters at every border and at the end, less what the process's earlier migrations sent. `None` where
/// they are not known; the first reason for that.
///
/// A snapshot holds the flows that are tied to the process at that instant. The kernel ties a flow when QEMU first sends on
/// it, which can be phases after the handshake; what had crossed until then, the flow's own counters tell.
fn counts_at(migration: &Migration<'_>, borders: &[Border]) -> (Vec<Option<Snapshot>>, Option<Unknown>) {
    let (Some(total), Some(first_packet)) = (total(migration), migration.first_packet()) else {
        return (vec![None; borders.len() + 1], None);
    };
    let mut unknown = None;
    let mut reached = Snapshot::default();
    let mut counts: Vec<Option<Snapshot>> = Vec::with_capacity(borders.len() + 1);
    for (i, border) in borders.iter().enumerate() {
        let count = if i == 0 || border.at <= first_packet {
            Ok(Snapshot::default())
        } else if silent_after(migration, border.at) {
            Ok(total)
        } else {
            let monotonic = |c: &Snapshot| at_least(c, &reached) && at_least(&total, c);
            snapshot(migration, border.at, border.counters)
                .and_then(|count| monotonic(&count).then_some(count).ok_or(Unknown::Contradiction))
        };
        match count {
            Ok(count) => reached = count,
            Err(why) => unknown = unknown.or(Some(why)),
        }
        counts.push(count.ok());
    }
    let last_counted = borders.last().is_none_or(|b| counted_after(migration, b.at));
    if !last_counted {
        unknown = unknown.or(Some(Unknown::CutOff));
    }
    counts.push(last_counted.then_some(total));
    (counts, unknown)
}

/// What the process's earlier migrations sent: contained in its snapshots for as long as the kernel keeps their
/// flows, so no more than the first snapshot shows.
fn baseline(migration: &Migration<'_>) -> Snapshot {
    let mut earlier = Snapshot::default();
    for counters in migration.earlier_flows.iter().filter_map(|f| f.last.as_ref()) {
        earlier += counters.counters;
    }
    let first = migration.marks.iter().find_map(|m| m.counters).unwrap_or(earlier);
    Directions { tx: least(&earlier.tx, &first.tx), rx: least(&earlier.rx, &first.rx) }
}

/// What this migration's flows had carried when the counters were read with an event.
fn snapshot(
    migration: &Migration<'_>,
    at: MonotonicNs,
    counters: Option<Snapshot>,
) -> Result<Snapshot, Unknown> {
    if !migration.flows_owned {
        return Err(Unknown::NotOwned);
    }
    let mut untied = Snapshot::default();
    let is_late = |flow: &FlowFacts| flow.first() < at && flow.owner.is_some_and(|owner| at < owner.at);
    for flow in migration.flows.iter().filter(|flow| is_late(flow)) {
        untied += flow.untied.at(at).ok_or(Unknown::OwnedLate)?;
    }
    let mut count = counters.ok_or(Unknown::NoSnapshot)?.since(&baseline(migration));
    count += untied;
    Ok(count)
}

/// Whether every flow was counted at or after `at`, or was closed when it was counted last.
fn counted_after(migration: &Migration<'_>, at: MonotonicNs) -> bool {
    let counted = |f: &&FlowFacts| f.closed() || f.samples.last().is_some_and(|(taken, _)| *taken >= at);
    migration.flows.iter().all(counted)
}

/// Whether it is known that nothing crossed after `at`.
fn silent_after(migration: &Migration<'_>, at: MonotonicNs) -> bool {
    counted_after(migration, at) && migration.flows.iter().all(|f| f.last() <= at)
}

const fn least(a: &Counters, b: &Counters) -> Counters {
    const fn min(a: u64, b: u64) -> u64 {
        if a < b { a } else { b }
    }
    Counters {
        wire_bytes: min(a.wire_bytes, b.wire_bytes),
        payload_bytes: min(a.payload_bytes, b.payload_bytes),
        segments: min(a.segments, b.segments),
        skbs: min(a.skbs, b.skbs),
    }
}

fn at_least(a: &Snapshot, b: &Snapshot) -> bool {
    let not_less = |a: &Counters, b: &Counters| least(a, b) == *b;
    not_less(&a.tx, &b.tx) && not_less(&a.rx, &b.rx)
}
