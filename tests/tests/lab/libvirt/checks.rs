//! What holds for every migration by libvirt, checked against what libvirt, QEMU and the wire showed.

use super::Moved;
use crate::support::{clock_offset_ns, monotonic_ns_of, number, signed_number};
use migtrace_lab::record_checks::{clock_bounds, phase_names};
use migtrace_lab::{Capture, LibvirtLab, QmpEvent, Side};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

const MS: i64 = 1_000_000;

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The purposes of a record's flows, sorted.
pub(super) fn purposes(record: &Value) -> Vec<&str> {
    let flows = list(&record["traffic"]["flows"]).iter();
    let mut purposes: Vec<_> = flows.map(|flow| flow["purpose"].as_str().unwrap()).collect();
    purposes.sort_unstable();
    purposes
}

/// Checks the VM's name and UUID against virsh, and each host's role against where the guest was: `hosts` are the roles in
/// the lab of the source and the destination, which are also their names.
pub(super) fn assert_identity(lab: &LibvirtLab, moved: &Moved, hosts: [&str; 2]) {
    let record = &moved.record;
    // The guest is on the destination now.
    let uuid = lab.virsh(&["domuuid", &lab.guest().name]).unwrap();
    assert_eq!(record["vm"]["uuid"], uuid);
    assert_eq!(record["vm"]["name"], lab.virsh(&["domname", &uuid]).unwrap());
    let name = lab.guest_host().run(Command::new("uname").arg("-n")).unwrap();
    assert_eq!(String::from_utf8_lossy(&name.stdout).trim(), hosts[1]);
    let observers: Vec<_> = list(&record["observers"]).iter().map(|o| (&o["host"], &o["role"])).collect();
    assert_eq!(observers.len(), 2, "{observers:?}");
    for ((host, role), (wanted_host, wanted_role)) in
        observers.into_iter().zip(hosts.into_iter().zip(["source", "destination"]))
    {
        assert_eq!((host.as_str(), role.as_str()), (Some(wanted_host), Some(wanted_role)));
    }
    for (recorded, role) in [(&moved.source, "source"), (&moved.destination, "destination")] {
        let own = recorded.record().unwrap();
        assert_eq!(own["observers"][0]["role"], role);
        assert_eq!(own["migration"]["id"], record["migration"]["id"]);
    }
    assert_eq!(record["migration"]["outcome"], "completed");
    assert_eq!(record["start"]["seen"], true);
}

/// Checks that the phases are the states of the source's QEMU, after the disk copy.
pub(super) fn assert_phases(moved: &Moved) {
    let mut expected = vec!["disk-sync".to_owned()];
    let events = moved.migrated.events.iter().filter(|observed| observed.side == Side::Source);
    let mut copies = false;
    for event in events.map(|observed| &observed.event) {
        match event.name.as_str() {
            "MIGRATION" if event.data["status"] == "active" => {
                expected.push("active 1".into());
                copies = true;
            }
            "MIGRATION" => expected.push(event.data["status"].as_str().unwrap().into()),
            // QEMU 7.2 makes the first pass while it sets up, and the last one after the stop.
            "MIGRATION_PASS" if copies => expected.push(format!("active {}", event.data["pass"])),
            "STOP" => {
                expected.push("stop".into());
                copies = false;
            }
            _ => {}
        }
    }
    assert_eq!(phase_names(&moved.record), expected);
}

/// Checks what packets told about the clocks of the hosts, which are the same.
pub(super) fn assert_clocks(moved: &Moved) {
    let (low_ns, high_ns) = clock_bounds(&moved.record);
    assert!(high_ns - low_ns < 2 * MS, "{low_ns} to {high_ns}");
}

/// When QEMU made an event, and when libvirtd had received it, on the monotonic clock.
fn bounds(record: &Value, event: &QmpEvent) -> (i64, i64) {
    (event.built_ns(clock_offset_ns(record)), event.received_ns.cast_signed())
}

/// Checks start and end against the events, and the time between them against virsh's and libvirt's.
pub(super) fn assert_times(moved: &Moved) {
    let Moved { migrated, record, .. } = moved;
    let start_ns = monotonic_ns_of(record, 0);
    // The record begins with the first packet of the disk copy: after the destination listens, before the job is made.
    let (listens_ns, _) = bounds(record, migrated.status(Side::Destination, "setup").unwrap());
    let (_, job_ns) = bounds(record, migrated.event(Side::Source, "JOB_STATUS_CHANGE").unwrap());
    assert!((listens_ns..=job_ns).contains(&start_ns), "{listens_ns} {start_ns} {job_ns}");
    let total = &record["total_time"];
    let total_ns = number(&total["value_ns"]);
    let end_ns = start_ns + total_ns.cast_signed();
    let (built_ns, received_ns) = bounds(record, migrated.status(Side::Source, "completed").unwrap());
    assert!((built_ns - 2_000..=received_ns).contains(&end_ns), "{built_ns} {end_ns} {received_ns}");
    // libvirt's own time begins before QEMU's on the destination is started, and ends after QEMU's end; in whole ms.
    let elapsed_ns = migrated.source.ms("Time elapsed").unwrap() * MS.unsigned_abs();
    let virsh_ns = migrated.ended_ns - migrated.started_ns;
    assert!(
        total_ns <= elapsed_ns + MS.unsigned_abs() && elapsed_ns <= virsh_ns,
        "{total_ns} {elapsed_ns} {virsh_ns}"
    );
}

/// Checks that what QEMU says of the end lies between its own stamp and its receipt by libvirtd, whichever host it is of.
pub(super) fn assert_marks(moved: &Moved) {
    let Moved { migrated, record, .. } = moved;
    let mut checked = 0;
    for mark in list(&record["downtime"]["marks"]) {
        let side = if mark["role"] == "source" { Side::Source } else { Side::Destination };
        let event = match mark["name"].as_str().unwrap() {
            "stop" => migrated.event(side, "STOP"),
            "resume" => migrated.event(side, "RESUME"),
            status => migrated.status(side, status),
        };
        // Others are packets, and frames of the guest.
        let Some(event) = event else { continue };
        let (built_ns, received_ns) = bounds(record, event);
        let at_ns = monotonic_ns_of(record, signed_number(&mark["at_ns"]));
        // The clock of the second host is known with an error. QEMU's stamps have whole microseconds.
        let error_ns = mark["error_ns"].as_i64().unwrap_or_default();
        assert!(built_ns <= at_ns + error_ns + 2_000, "{mark} is at {at_ns}, before {built_ns}");
        assert!(at_ns - error_ns <= received_ns, "{mark} is at {at_ns}, after {received_ns}");
        checked += 1;
    }
    // At least stop, pre-switchover, the last state before the end and the end on the source; the end and resume.
    assert!(checked >= 6, "{:#}", record["downtime"]["marks"]);
}

/// Checks the stop against the stamps of STOP and RESUME, and against libvirt's downtime.
pub(super) fn assert_stop(moved: &Moved) {
    let Moved { migrated, record, .. } = moved;
    let stop = bounds(record, migrated.event(Side::Source, "STOP").unwrap());
    let resume = bounds(record, migrated.event(Side::Destination, "RESUME").unwrap());
    let length = &record["downtime"]["stop"];
    assert_eq!(length["method"], "qmp-events", "{length}");
    let [low_ns, value_ns] = ["low_ns", "value_ns"].map(|bound| signed_number(&length[bound]));
    let (shortest_ns, longest_ns) = (resume.0 - stop.1, resume.1 - stop.0);
    assert!((shortest_ns..=longest_ns).contains(&value_ns), "{length}: {shortest_ns} to {longest_ns}");
    assert!(low_ns <= longest_ns && value_ns - low_ns < MS, "{length}: at most {longest_ns}");

    let [libvirt_ms, qemu_ms] =
        [migrated.source.ms("Total downtime"), migrated.qemu_downtime_ms()].map(Option::unwrap);
    // QEMU's clock runs on the source alone, in whole milliseconds.
    assert!(qemu_ms.cast_signed() * MS <= longest_ns + MS, "{qemu_ms} ms of at most {longest_ns} ns");
    // libvirt's clock begins between STOP and the next event, and ends between RESUME and the end of virsh. Not so for
    // postcopy, where libvirt takes QEMU's figure, which ends before the guest runs.
    if record["migration"]["mode"] == "postcopy" {
        assert_eq!(libvirt_ms, qemu_ms);
    } else {
        let (_, next_ns) = bounds(record, migrated.status(Side::Source, "pre-switchover").unwrap());
        let downtime_ns = libvirt_ms.cast_signed() * MS;
        let (before_ns, after_ns) = (next_ns - stop.0, migrated.ended_ns.cast_signed() - resume.0);
        assert!(value_ns - before_ns - MS <= downtime_ns, "{value_ns} {before_ns} {downtime_ns}");
        assert!(downtime_ns <= value_ns + after_ns + MS, "{value_ns} {after_ns} {downtime_ns}");
    }
}

/// Checks a flow against the packets on the wire. Returns its ends.
pub(super) fn assert_counted(flow: &Value, capture: &Capture) -> [SocketAddr; 2] {
    let [local, remote] =
        ["local", "remote"].map(|end| flow[end].as_str().unwrap().parse::<SocketAddr>().unwrap());
    for (way, tally) in [("tx", capture.stream(local, remote)), ("rx", capture.stream(remote, local))] {
        assert!(tally.longest_bytes <= 1514, "a buffer of several frames: {tally:?}");
        let counters =
            ["wire_bytes", "payload_bytes", "segments"].map(|name| number(&flow["counters"][way][name]));
        assert_eq!(counters, [tally.bytes, tally.payload_bytes, tally.frames], "{way} {flow:#}");
    }
    assert_eq!(flow["from_start"], true, "{flow:#}");
    [local, remote]
}

/// Checks each flow against the packets on the wire, and the sums of disk and memory against libvirt's.
pub(super) fn assert_traffic(lab: &LibvirtLab, moved: &Moved) {
    let Moved { migrated, record, capture, .. } = moved;
    let mut counted = BTreeSet::new();
    let (mut carried, mut resent_segments) = ([0; 2], [0; 2]);
    for flow in list(&record["traffic"]["flows"]) {
        let [local, remote] = assert_counted(flow, capture);
        counted.extend([(local, remote), (remote, local)]);
        let kind = usize::from(flow["purpose"] != "nbd");
        carried[kind] += number(&flow["counters"]["tx"]["payload_bytes"]);
        resent_segments[kind] += number(&flow["retransmitted_segments"]);
    }
    // Nothing else crossed but libvirt's own connection, which is no part of the migration.
    let others = capture.streams.keys().filter(|stream| !counted.contains(*stream));
    let ports: Vec<_> = others.map(|(from, to)| from.port().min(to.port())).collect();
    assert!(ports.iter().all(|port| *port == 16509), "{ports:?}");

    let disk_bytes = lab.guest().disk_mib << 20;
    assert_eq!(migrated.source.bytes("File processed"), Some(disk_bytes as f64));
    let memory_bytes = migrated.source.bytes("Memory processed").unwrap() as u64;
    for ((carried, resent), claimed) in
        carried.into_iter().zip(resent_segments).zip([disk_bytes, memory_bytes])
    {
        // virsh rounds to a thousandth of a MiB. Encryption and protocols add less than a fiftieth, and what was sent again has
        // at most 1448 bytes a segment.
        let most = claimed + claimed / 50 + resent * 1448;
        assert!(
            (claimed - 1024..most).contains(&carried),
            "{carried} carried, {claimed} claimed, {resent} resent"
        );
    }
    let copy = &record["phases"][0];
    assert_eq!(copy["name"], "disk-sync");
    assert!(number(&copy["traffic"]["tx"]["payload_bytes"]) >= disk_bytes, "{copy:#}");
}
