//! Makes the record of one migration from its facts.

use std::net::SocketAddr;

use serde_json::Value;
use uuid::Uuid;

use super::downtime::Context;
use super::estimates::{self, offset};
use super::facts::Facts;
use super::half::Half;
use super::joined::{Joined, View};
use super::losses;
use super::migration::{Ending, MigrationFacts};
use super::observers::observers;
use super::probe_target::Probing;
use super::traffic::{Orientation, traffic};
use super::{downtime, gaps, not_measured, phases};
use crate::record::{self, Gap, LibvirtClaims, Outcome, Phase, QemuClaims, Record, Role, Start, Vm};
use crate::units::MonotonicNs;
use crate::vocabulary::{Lost, Purpose};

/// The record of a migration.
pub(super) fn record(joined: &Joined<'_>) -> Record {
    let (facts, migration) = (joined.first.half.facts, joined.first.half.migration);
    let (stretches, unknown_bytes) = phases::phases(migration);
    let orient = Orientation(migration.role);
    let clock = facts.clocks.at(migration.start);
    let outcome = outcome(joined);
    let phases = stretches.into_iter().map(|s| Phase {
        name: s.name,
        pass: s.pass,
        start_ns: offset(s.start, migration.start),
        end_ns: offset(s.end, migration.start),
        traffic: s.traffic.map(|t| orient.of(t)),
    });
    let total_time = estimates::total_time(migration, &facts.clocks);
    let (prober, probing) = joined.prober();
    let probe = if let Probing::Probed(probe) = probing { Some(probe) } else { None };
    let gaps = probe.map_or_else(Vec::new, |_| gaps::of(&prober));
    let other = joined.other.map(|other| other.half);
    let context = Context { other, prober, gaps: &gaps, probe, total_time: total_time.as_ref() };
    let downtime = downtime::downtime(joined.first.half, &context);
    let mut record = Record {
        schema: record::SCHEMA.to_owned(),
        migration: record::Migration {
            id: id(facts, migration),
            mode: migration.mode(),
            outcome,
            error: error(migration, outcome),
        },
        vm: vm(migration),
        observers: observers(joined),
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
        libvirt: libvirt(joined),
        not_measured: Vec::new(),
        lost: lost(joined),
    };
    record.not_measured = not_measured::list(joined, &record, (&prober, probing), unknown_bytes);
    record
}

/// How it ended, as the first half shows it; where that does not show it, as the other does.
fn outcome(joined: &Joined<'_>) -> Outcome {
    let of = |view: View<'_>| view.half.migration.outcome(view.half.facts.end);
    let is_known = |outcome: &Outcome| !matches!(outcome, Outcome::Unknown | Outcome::Interrupted);
    let first = of(joined.first);
    if is_known(&first) {
        return first;
    }
    joined.elsewhere().map(of).filter(is_known).unwrap_or(first)
}

/// What its hosts have lost while it was under way.
fn lost(joined: &Joined<'_>) -> Lost {
    let views = [Some(joined.first), joined.elsewhere()].into_iter().flatten();
    let lost = views.map(|view| {
        let Half { facts, migration, .. } = view.half;
        facts.losses.between(migration.start, under_way_until(migration))
    });
    lost.reduce(losses::plus).unwrap_or_default()
}

/// Until when it was under way: its last packets may come after the end that QEMU reported.
fn under_way_until(migration: &MigrationFacts<'_>) -> MonotonicNs {
    migration.end.at().max(migration.last_packet().unwrap_or_default())
}

fn vm(migration: &MigrationFacts<'_>) -> Vm {
    let Some(qemu) = migration.qemu() else { return Vm::default() };
    Vm {
        uuid: qemu.uuid.clone(),
        name: qemu.name.clone(),
        vcpus: qemu.vcpus,
        memory_bytes: qemu.memory_bytes,
    }
}

fn claims(migration: &MigrationFacts<'_>) -> QemuClaims {
    let qemu = migration.qemu();
    QemuClaims {
        version: qemu.and_then(|q| q.version.clone()),
        accelerator: qemu.and_then(|q| q.accelerator.clone()),
        stats: migration.reply().cloned(),
    }
}

/// What libvirt has said of it, on the source if it was asked there: it says more there than on the destination.
fn libvirt(joined: &Joined<'_>) -> Option<LibvirtClaims> {
    let claims = joined.own_hosts().filter_map(|view| {
        let half = view.half;
        let stats = half.libvirt_figures()?.clone();
        Some(LibvirtClaims { host: half.host().to_owned(), role: half.role, stats })
    });
    claims.min_by_key(|claims| claims.role != Role::Source)
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
    let uuid = migration.qemu().and_then(|q| q.uuid.as_deref());
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
    if let Some(why) = migration.given_up_copy().and_then(|copy| copy.error.clone()) {
        return Some(format!("a disk could not be copied: {why}"));
    }
    match (migration.end, outcome) {
        (Ending::Died(_), Outcome::Failed) => replied.or_else(|| {
            let pid = migration.process.map_or(0, |p| p.pid);
            Some(format!("QEMU (pid {pid}) ended during the migration"))
        }),
        _ => replied,
    }
}
