//! Makes the record of one migration from the facts about it.

use std::collections::BTreeMap;

use serde_json::Value;
use uuid::Uuid;

use super::estimates::{self, offset};
use super::facts::{Facts, FlowFacts, Process};
use super::migration::{End, Migration};
use super::{downtime, gaps, phases, purposes, unmeasured};
use crate::event::Purpose;
use crate::record::{self, FlowRecord, Outcome, Phase, QemuClaims, Record, Role, Sample, Start, Traffic, Vm};
use crate::units::{Counters, Directions, Flow, MonotonicNs};

/// The record of `migration`, one of `all`.
pub(super) fn record(facts: &Facts, all: &[Migration<'_>], migration: &Migration<'_>) -> Record {
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
    let gaps = gaps::of(facts, migration);
    let echo = facts.echo_end.as_ref().and_then(|end| end.echo.clone());
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
        total_time: total_time.clone(),
        setup_time: estimates::setup_time(migration, &facts.clocks),
        phases: phases.collect(),
        traffic: traffic(facts, migration, orient),
        downtime: downtime::downtime(facts, all, migration, &gaps, echo.as_ref(), total_time.as_ref()),
        gaps,
        echo,
        qemu: claims(migration),
        not_measured: Vec::new(),
        lost: facts.lost,
    };
    record.not_measured = unmeasured::list(facts, migration, &record, unknown_bytes);
    record
}

/// Turns this host's sent and received into source to destination and back.
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

fn claims(migration: &Migration<'_>) -> QemuClaims {
    let qemu = migration.process.and_then(|p| p.qemu.as_ref());
    QemuClaims {
        version: qemu.and_then(|q| q.version.clone()),
        accelerator: qemu.and_then(|q| q.accelerator.clone()),
        stats: migration.reply().cloned(),
    }
}

/// Both hosts see the same VM and the same connection, and so derive the same id.
fn id(facts: &Facts, migration: &Migration<'_>) -> String {
    let uuid = migration.process.and_then(|p| p.qemu.as_ref()).and_then(|q| q.uuid.as_deref());
    let vm = uuid.and_then(|u| Uuid::parse_str(u).ok()).unwrap_or_else(Uuid::nil);
    let name = main_flow(&migration.flows).map_or_else(
        || {
            let start = migration.start;
            facts.clocks.at(start).map_or_else(|| start.0.to_string(), |c| c.realtime_ns(start).to_string())
        },
        |flow| {
            let canonical =
                |end: std::net::SocketAddr| std::net::SocketAddr::new(end.ip().to_canonical(), end.port());
            let Flow { local, remote } = flow.flow;
            let (source, destination) = match migration.role {
                Role::Source => (local, remote),
                Role::Destination => (remote, local),
            };
            format!("{}-{}", canonical(source), canonical(destination))
        },
    );
    Uuid::new_v5(&vm, name.as_bytes()).to_string()
}

/// The first flow that carries the migration stream, as far as that can be told.
fn main_flow<'a>(flows: &[&'a FlowFacts]) -> Option<&'a FlowFacts> {
    let kinds = [Purpose::Ram, Purpose::Tls, Purpose::Unknown, Purpose::Multifd, Purpose::Nbd];
    kinds.iter().find_map(|kind| flows.iter().find(|f| f.purpose == *kind)).copied()
}

fn error(migration: &Migration<'_>, outcome: Outcome) -> Option<String> {
    let told = migration.reply().and_then(|r| r.get("error-desc")).and_then(Value::as_str).map(str::to_owned);
    match (migration.end, outcome) {
        (End::Died(_), Outcome::Failed) => told.or_else(|| {
            let pid = migration.process.map_or(0, |p| p.pid);
            Some(format!("QEMU (pid {pid}) ended during the migration"))
        }),
        _ => told,
    }
}

fn traffic(facts: &Facts, migration: &Migration<'_>, orient: Orientation) -> Traffic {
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

/// The sum of counts; none when one of them was not measured, or there is none.
fn sum_of(mut counts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let first = counts.next()??;
    counts.try_fold(first, |sum, count| Some(sum.saturating_add(count?)))
}

/// Fragments between the ends of the migration's flows, since its start.
fn fragments(facts: &Facts, migration: &Migration<'_>) -> Option<Directions<Counters>> {
    let mut sum = None::<Directions<Counters>>;
    for ((local, remote), counts) in &facts.fragments {
        let ours = |f: &&FlowFacts| f.flow.local.ip() == *local && f.flow.remote.ip() == *remote;
        if !migration.flows.iter().any(ours) {
            continue;
        }
        let before = counts.iter().rfind(|(at, _)| *at < migration.start).map(|c| c.1).unwrap_or_default();
        if let Some((_, last)) = counts.last() {
            *sum.get_or_insert_default() += last.since(&before);
        }
    }
    sum.filter(|s| s.tx.skbs > 0 || s.rx.skbs > 0)
}

/// The cumulative sum over the flows at each instant at which one of them was counted.
fn samples(migration: &Migration<'_>, orient: Orientation) -> Vec<Sample> {
    let mut counts: BTreeMap<MonotonicNs, Vec<(usize, Directions<u64>)>> = BTreeMap::new();
    for (index, flow) in migration.flows.iter().enumerate() {
        for (at, wire_bytes) in &flow.samples {
            counts.entry(*at).or_default().push((index, *wire_bytes));
        }
    }
    let mut latest = vec![Directions::<u64>::default(); migration.flows.len()];
    counts
        .into_iter()
        .map(|(at, counted)| {
            for (index, wire_bytes) in counted {
                latest[index] = wire_bytes;
            }
            let sum =
                |side: fn(&Directions<u64>) -> u64| latest.iter().map(side).fold(0, u64::saturating_add);
            let wire_bytes = orient.of(Directions { tx: sum(|c| c.tx), rx: sum(|c| c.rx) });
            Sample { at_ns: offset(at, migration.start), wire_bytes }
        })
        .collect()
}
