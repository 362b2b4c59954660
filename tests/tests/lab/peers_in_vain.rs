//! `record --peer` of a migration whose source fails before its memory stream has reached the destination, which listens on.

use crate::support::{FAST, MIGRATION_PORT, PATIENCE, network};
use migtrace_lab::migtrace_command::{Recording, remote_shell};
use migtrace_lab::record_checks::phase_names;
use migtrace_lab::{BareQemu, Host, Lab};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Nobody listens there.
const WRONG_PORT: u16 = MIGRATION_PORT + 9;
const DISK_PORT: u16 = MIGRATION_PORT + 1;
const DISK: &str = "disk";

/// Records on `host`, and on the other one as its peer.
fn record(lab: &Lab, host: &Host, logs: &Path) -> Recording {
    let peer = if host.role() == lab.source().role() { lab.destination() } else { lab.source() };
    let remote_shell = remote_shell(lab).unwrap();
    let logs = logs.to_str().unwrap();
    Recording::start(host, &["--rsh", &remote_shell, "--peer", peer.role(), "--events", logs]).unwrap()
}

/// The record of a migration that has failed. The recording ends although the destination still listens.
fn failed(recording: Recording) -> Value {
    let recorded = recording.finish(PATIENCE).unwrap();
    assert_eq!(recorded.code, Some(3), "{}", recorded.stderr);
    let record = recorded.record().unwrap();
    assert_eq!(record["migration"]["outcome"], "failed", "{record:#}");
    record
}

#[test]
fn a_destination_that_listens_in_vain_does_not_keep_the_recording_waiting() {
    let lab = network();
    let folder = tempfile::tempdir().unwrap();
    for host in [lab.source(), lab.destination()] {
        let recording = record(&lab, host, folder.path());
        let (mut source, _destination) = BareQemu::pair(&lab, "refused", MIGRATION_PORT).unwrap();
        source.migrate(lab.destination().ipv4(), WRONG_PORT, FAST).unwrap();
        source.wait_for_status("failed", PATIENCE).unwrap();
        assert_eq!(phase_names(&failed(recording)), ["setup", "failed"]);
    }
}

/// Gives a QEMU a disk with random bytes.
fn add_disk(qemu: &mut BareQemu, file: &Path) {
    fs::write(file, vec![7; 8 << 20]).unwrap();
    let node = json!({
        "driver": "raw", "node-name": DISK, "file": { "driver": "file", "filename": file }
    });
    qemu.qmp().execute("blockdev-add", node).unwrap();
}

#[test]
fn a_disk_that_was_copied_does_not_keep_the_recording_waiting_either() {
    let lab = network();
    let folder = tempfile::tempdir().unwrap();
    for (host, drops) in [(lab.source(), true), (lab.destination(), true), (lab.destination(), false)] {
        let logs = folder.path().join("logs");
        let recording = record(&lab, host, &logs);
        let (mut source, mut destination) = BareQemu::pair(&lab, "copied", MIGRATION_PORT).unwrap();
        add_disk(&mut source, &folder.path().join("source"));
        add_disk(&mut destination, &folder.path().join("destination"));
        let to = lab.destination().ipv4().to_string();
        let server = json!({ "type": "inet", "data": { "host": "0.0.0.0", "port": DISK_PORT.to_string() } });
        destination.qmp().execute("nbd-server-start", json!({ "addr": server })).unwrap();
        let export = json!({ "id": DISK, "type": "nbd", "node-name": DISK, "writable": true });
        destination.qmp().execute("block-export-add", export).unwrap();
        let target = json!({
            "driver": "nbd", "node-name": "mirror", "export": DISK,
            "server": { "type": "inet", "host": to, "port": DISK_PORT.to_string() }
        });
        source.qmp().execute("blockdev-add", target).unwrap();
        let mirror = json!({ "job-id": "mirror", "device": DISK, "target": "mirror", "sync": "full" });
        source.qmp().execute("blockdev-mirror", mirror).unwrap();
        source.wait_for_status("ready", PATIENCE).unwrap();
        source.migrate(lab.destination().ipv4(), WRONG_PORT, FAST).unwrap();
        source.wait_for_status("failed", PATIENCE).unwrap();
        if drops {
            source.qmp().execute("block-job-cancel", json!({ "device": "mirror", "force": true })).unwrap();
            source.wait_for_status("null", PATIENCE).unwrap();
            source.qmp().execute("blockdev-del", json!({ "node-name": "mirror" })).unwrap();
        }
        let record = failed(recording);
        assert_eq!(record["observers"].as_array().unwrap().len(), 2, "{record:#}");
    }
}
