//! Every shape of migration, recorded on both hosts and merged, against what migtrace has not produced: the driver's stamps
//! of both QEMUs' events, a packet socket's counts of the connections, and the clock that both hosts of a lab have in common.
//!
//! A migration over a VLAN needs another kernel: it is in `other_kernels/encapsulation.rs`.
//!
//! [`crate::support::keep`] says how the logs become pairs that replay (`migtrace/tests/merged/`).

mod endings;
pub(crate) mod networks;
mod postcopy;
mod precopy;
mod qemu_10;
mod several;
mod storage;

use crate::support::merged::{BothRecordings, Merged};
use crate::support::{network, number};
use migtrace_lab::record_checks::assert_consistent;
use migtrace_lab::{BareGuest, BarePair, Capture, Host, Lab, Migrated, Migration, QemuProgram, Wiretap};
use serde_json::Value;
use std::net::SocketAddr;

/// Libvirt's ports for migrations, which are those that migtrace watches.
const PORTS: std::ops::RangeInclusive<u16> = 49152..=49215;

const VCPUS: &str = "when the vCPUs stop and run";
const NETWORK: &str = "network (how long the guest's tap was silent)";
const REACHABILITY: &str = "reachability (how long the guest did not answer)";
/// What a record cannot say of a guest that does not run in KVM, has no tap, and is not pinged.
const BARE: [&str; 3] = [VCPUS, NETWORK, REACHABILITY];
/// What it cannot say of parts that begin or end with no event of the source.
const BYTES_OF_PARTS: &str = "the bytes of some parts of the stop";

/// A migration of which both hosts' logs are merged, and what crossed the wire.
struct Shape {
    merged: Merged,
    capture: Capture,
}

/// Records on both hosts while `migrate` migrates, and merges the logs. The connections are watched where they arrive.
fn shape(name: &str, from: &Host, to: &Host, migrate: impl FnOnce() -> Migrated) -> Shape {
    shape_watched((to, Host::UPLINK), name, from, to, migrate)
}

/// As [`shape`], with the connections watched at another interface.
fn shape_watched(
    watched: (&Host, &str),
    name: &str,
    from: &Host,
    to: &Host,
    migrate: impl FnOnce() -> Migrated,
) -> Shape {
    shape_with(&[], watched, name, from, to, migrate)
}

/// As [`shape_watched`], with these options of the recordings.
fn shape_with(
    options: &[&str],
    (watched, interface): (&Host, &str),
    name: &str,
    from: &Host,
    to: &Host,
    migrate: impl FnOnce() -> Migrated,
) -> Shape {
    let recordings = BothRecordings::start(from, to, options);
    let wiretap = Wiretap::start(watched, interface).unwrap();
    let migrated = migrate();
    let merged = recordings.finish(migrated);
    let shape = Shape { capture: wiretap.stop().unwrap(), merged };
    shape.merged.keep(name);
    shape
}

/// The guest of the lab, which dirties memory, in this migration.
fn move_guest(name: &str, lab: &mut Lab, migration: &Migration) -> Shape {
    let (from, to) = (lab.guest_host().clone(), lab.other_host().clone());
    shape(name, &from, &to, || {
        // So that its tap sees a frame of it before it stops. Afterwards it announces itself.
        lab.ping_guest().unwrap();
        lab.migrate(migration).unwrap()
    })
}

/// A guest without an operating system, of which a migration has to send this much.
fn bare(name: &str, filled_mib: usize) -> BareGuest<'_> {
    BareGuest { name, filled_mib, program: QemuProgram::installed().unwrap(), disk: None }
}

/// Such a guest, in this migration.
fn move_bare(name: &str, filled_mib: usize, migration: &Migration) -> Shape {
    let lab = network();
    let (from, to) = (lab.source(), lab.destination());
    let mut pair = BarePair::start(from, to, &bare(name, filled_mib), migration).unwrap();
    shape(name, from, to, || pair.migrate(migration).unwrap())
}

impl Shape {
    /// Checks what holds for each shape.
    fn assert_well(&self, outcome: &str, purposes: &[&str]) {
        let record = &self.merged.record;
        assert_consistent(record);
        assert_eq!(record["migration"]["outcome"], outcome);
        let roles: Vec<_> = list(&record["observers"]).iter().map(|observer| &observer["role"]).collect();
        assert_eq!(roles, ["source", "destination"]);
        self.assert_flows(purposes);
    }

    /// Checks what holds for each shape by which the guest has come to the other host.
    fn assert_moved(&self, purposes: &[&str]) {
        self.assert_well("completed", purposes);
        self.merged.assert_stop();
        self.assert_clock(1_000_000);
    }

    /// Checks that the record has every connection that crossed the wire and no other, with its purpose and its payload.
    fn assert_flows(&self, purposes: &[&str]) {
        let flows = list(&self.merged.record["traffic"]["flows"]);
        let mut found: Vec<_> =
            flows.iter().map(|flow| flow["purpose"].as_str().unwrap_or("unknown")).collect();
        found.sort_unstable();
        assert_eq!(found, purposes, "{flows:#?}");
        for flow in flows {
            let (from, to) = (address(&flow["local"]), address(&flow["remote"]));
            for (direction, from, to) in [("tx", from, to), ("rx", to, from)] {
                let counted = number(&flow["counters"][direction]["payload_bytes"]);
                assert_eq!(counted, self.capture.stream(from, to).payload_bytes, "{direction} of {flow:#}");
            }
        }
        let is_watched = |(from, to): &&(SocketAddr, SocketAddr)| {
            PORTS.contains(&from.port()) || PORTS.contains(&to.port())
        };
        let crossed = self.capture.streams.keys().filter(is_watched).count();
        assert_eq!(crossed, 2 * flows.len(), "{:#?}", self.capture.streams);
    }

    /// Checks that the record lists these as not measured, and nothing else.
    fn assert_not_measured(&self, expected: &[&str]) {
        assert_eq!(not_measured(&self.merged.record), expected);
    }

    /// Checks how well the other host's clock is known, and that the truth is within the bounds.
    fn assert_clock(&self, within_ns: i64) {
        let half_width_ns = self.merged.half_width_ns();
        assert!(half_width_ns < within_ns, "{half_width_ns}");
    }
}

/// What a record lists as not measured.
fn not_measured(record: &Value) -> Vec<&str> {
    list(&record["not_measured"]).iter().map(|entry| entry["what"].as_str().unwrap()).collect()
}

fn address(value: &Value) -> SocketAddr {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no address: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
