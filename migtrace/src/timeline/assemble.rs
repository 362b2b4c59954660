//! Makes the record of one migration from its facts.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::Value;
use uuid::Uuid;

use super::downtime::Context;
use super::estimates::{self, offset};
use super::facts::{Facts, Process};
use super::migration::{Ending, MigrationFacts};
use super::probe_target::{ProbeTarget, Probing};
use super::{curve, downtime, gaps, not_measured, phases, purposes};
use crate::record::{
    self, FlowRecord, Gap, Outcome, Phase, QemuClaims, Record, Role, Sample, Start, Traffic, Vm,
};
use crate::units::{Counters, Directions, MonotonicNs};
use crate::vocabulary::Purpose;

/// The most samples that a record carries.
const MOST_SAMPLES: usize = 2_000;

/// The record of a migration; `other` is its other half, if that is on this host too.
pub(super) fn record<'a>(
    facts: &'a Facts,
    probed: &ProbeTarget<'a>,
    migration: &MigrationFacts<'a>,
    other: Option<&MigrationFacts<'a>>,
) -> Record {
    let (stretches, unknown_bytes) = phases::phases(migration);
    let orient = Orientation(migration.role);
    let clock = facts.clocks.at(migration.start);
    let outcome = migration.outcome(facts.end);
    let phases = stretches.into_iter().map(|s| Phase {
        name: s.name,
        pass: s.pass,
        start_ns: offset(s.start, migration.start),
        end_ns: offset(s.end, migration.start),
        traffic: s.traffic.map(|t| orient.of(t)),
    });
    let total_time = estimates::total_time(migration, &facts.clocks);
    let probing = probed.probing(migration);
    let probe = if let Probing::Probed(probe) = probing { Some(probe) } else { None };
    let gaps = probe.map_or_else(Vec::new, |_| gaps::of(facts, migration));
    let context = Context { other, gaps: &gaps, probe, total_time: total_time.as_ref() };
    let downtime = downtime::downtime(facts, migration, &context);
    let mut record = Record {
        schema: record::SCHEMA.to_owned(),
        migration: record::Migration {
            id: id(facts, migration),
            mode: migration.mode(),
            outcome,
            error: error(migration, outcome),
        },
        vm: vm(migration.process),
        observers: facts
            .observation
            .iter()
            .map(|o| record::Observer {
                host: o.host.clone(),
                role: migration.role,
                kernel: o.kernel.clone(),
                migtrace: o.migtrace.clone(),
                clock,
            })
            .collect(),
        start: Start {
            realtime_ns: clock.map(|c| c.realtime_ns(migration.start)),
            error_ns: clock.map(|c| c.error_ns),
            seen: migration.start_seen,
        },
        total_time,
        setup_time: estimates::setup_time(migration, &facts.clocks),
        phases: phases.collect(),
        traffic: traffic(facts, migration, orient),
        downtime,
        gaps: gaps.into_iter().map(|bounded| bounded.gap).filter(Gap::is_plausible).collect(),
        echo: probe.and_then(|probe| probe.echo).cloned(),
        qemu: claims(migration),
        not_measured: Vec::new(),
        lost: facts.losses.between(migration.start, under_way_until(migration)),
    };
    record.not_measured = not_measured::list(facts, migration, &record, probing, unknown_bytes);
    record
}

/// Until when it was under way: its last packets may come after the end that QEMU reported.
fn under_way_until(migration: &MigrationFacts<'_>) -> MonotonicNs {
    migration.end.at().max(migration.last_packet().unwrap_or_default())
}

/// Turns what this host sent and received into what went from the source to the destination and back.
#[derive(Clone, Copy)]
struct Orientation(Role);

impl Orientation {
    fn of<T>(self, pair: Directions<T>) -> Directions<T> {
        match self.0 {
            Role::Source => pair,
            Role::Destination => pair.swapped(),
        }
    }
}

fn vm(process: Option<&Process>) -> Vm {
    let Some(qemu) = process.and_then(|p| p.qemu.as_ref()) else { return Vm::default() };
    Vm {
        uuid: qemu.uuid.clone(),
        name: qemu.name.clone(),
        vcpus: qemu.vcpus,
        memory_bytes: qemu.memory_bytes,
    }
}

fn claims(migration: &MigrationFacts<'_>) -> QemuClaims {
    let qemu = migration.process.and_then(|p| p.qemu.as_ref());
    QemuClaims {
        version: qemu.and_then(|q| q.version.clone()),
        accelerator: qemu.and_then(|q| q.accelerator.clone()),
        stats: migration.reply().cloned(),
    }
}

/// Both hosts see the same VM and the same connection, so they derive the same id, whatever their parts. It never
/// changes while a migration is recorded: it is none until the connection that it is made from is known. It is made
/// from another connection, or from the time, only when that one can no longer come.
pub(super) fn id(facts: &Facts, migration: &MigrationFacts<'_>) -> Option<String> {
    let stream = migration.flows.iter().find(|f| matches!(f.purpose, Purpose::Ram | Purpose::Tls));
    let may_still_come = migration.outcome(facts.end) == Outcome::Interrupted && facts.end.is_none();
    if stream.is_none() && may_still_come {
        return None;
    }
    let uuid = migration.process.and_then(|p| p.qemu.as_ref()).and_then(|q| q.uuid.as_deref());
    let vm = uuid.and_then(|u| Uuid::parse_str(u).ok()).unwrap_or_else(Uuid::nil);
    let name = match stream.or_else(|| migration.flows.first()) {
        Some(flow) => {
            let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
            let (local, remote) = (canonical(flow.flow.local), canonical(flow.flow.remote));
            format!("{}-{}", local.min(remote), local.max(remote))
        }
        None => {
            let start = migration.start;
            facts.clocks.at(start).map_or_else(|| start.0.to_string(), |c| c.realtime_ns(start).to_string())
        }
    };
    Some(Uuid::new_v5(&vm, name.as_bytes()).to_string())
}

fn error(migration: &MigrationFacts<'_>, outcome: Outcome) -> Option<String> {
    let replied =
        migration.reply().and_then(|r| r.get("error-desc")).and_then(Value::as_str).map(str::to_owned);
    match (migration.end, outcome) {
        (Ending::Died(_), Outcome::Failed) => replied.or_else(|| {
            let pid = migration.process.map_or(0, |p| p.pid);
            Some(format!("QEMU (pid {pid}) ended during the migration"))
        }),
        _ => replied,
    }
}

fn traffic(facts: &Facts, migration: &MigrationFacts<'_>, orient: Orientation) -> Traffic {
    let flows: Vec<FlowRecord> = migration
        .flows
        .iter()
        .zip(purposes::purposes(migration))
        .filter_map(|(flow, purpose)| {
            let counters = flow.last.as_ref()?;
            Some(FlowRecord {
                flow: flow.flow,
                purpose,
                interface: flow.interface.clone(),
                first_ns: offset(counters.first_ns, migration.start),
                last_ns: offset(counters.last_ns, migration.start),
                from_start: flow.from_start,
                counters: orient.of(counters.counters),
                retransmitted_segments: counters.retransmitted_segments,
            })
        })
        .collect();
    let counted = || migration.flows.iter().filter_map(|f| f.last.as_ref());
    Traffic {
        total: phases::total(migration).map(|t| orient.of(t)),
        retransmitted_segments: sum_of(counted().map(|c| c.retransmitted_segments)),
        retransmitted_payload_bytes: sum_of(counted().map(|c| c.retransmitted_payload_bytes)),
        flows,
        fragments: fragments(facts, migration).map(|f| orient.of(f)),
        samples: samples(migration, orient),
    }
}

/// The sum of counts; none when one was not measured, or there are no counts.
fn sum_of(mut counts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let first = counts.next()??;
    counts.try_fold(first, |sum, count| Some(sum.saturating_add(count?)))
}

/// Fragments between the ends of the migration's flows, since its start.
fn fragments(facts: &Facts, migration: &MigrationFacts<'_>) -> Option<Directions<Counters>> {
    let mut sum = None::<Directions<Counters>>;
    let ends: BTreeSet<_> = migration.flows.iter().map(|f| (f.flow.local.ip(), f.flow.remote.ip())).collect();
    for counts in ends.iter().filter_map(|ends| facts.fragments.get(ends)).flatten() {
        let until_start = MonotonicNs(migration.start.0.saturating_sub(1));
        let before = counts.between(MonotonicNs(0), until_start).next_back();
        let before = before.map(|(_, count)| *count).unwrap_or_default();
        if let Some(last) = counts.iter().next_back() {
            *sum.get_or_insert_default() += last.since(&before);
        }
    }
    sum.filter(|s| s.tx.skbs > 0 || s.rx.skbs > 0)
}

/// The cumulative sum over the flows, each time that one of them was counted. If there are too many, those are kept
/// that preserve the curve's shape.
fn samples(migration: &MigrationFacts<'_>, orient: Orientation) -> Vec<Sample> {
    let counts = migration.flows.iter().enumerate();
    let mut counts: Vec<(MonotonicNs, usize, Directions<u64>)> = counts
        .flat_map(|(index, flow)| flow.samples.iter().map(move |(at, wire_bytes)| (*at, index, *wire_bytes)))
        .collect();
    counts.sort_by_key(|(at, ..)| *at);
    let mut latest = vec![Directions::<u64>::default(); migration.flows.len()];
    let mut sum = Directions::<u64>::default();
    let mut all: Vec<Sample> = Vec::new();
    for (at, index, wire_bytes) in counts {
        let before = latest[index];
        // A counter only grows.
        let wire_bytes = Directions { tx: wire_bytes.tx.max(before.tx), rx: wire_bytes.rx.max(before.rx) };
        latest[index] = wire_bytes;
        let moved = |sum: u64, before: u64, now: u64| sum.saturating_sub(before).saturating_add(now);
        sum.tx = moved(sum.tx, before.tx, wire_bytes.tx);
        sum.rx = moved(sum.rx, before.rx, wire_bytes.rx);
        let sample = Sample { at_ns: offset(at, migration.start), wire_bytes: orient.of(sum) };
        match all.last_mut().filter(|last| last.at_ns == sample.at_ns) {
            Some(last) => *last = sample,
            None => all.push(sample),
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "the shape of a curve")]
    let points: Vec<_> = all
        .iter()
        .map(|s| (s.at_ns as f64, s.wire_bytes.tx.saturating_add(s.wire_bytes.rx) as f64))
        .collect();
    curve::thinned(&points, MOST_SAMPLES).into_iter().map(|index| all[index]).collect()
}
