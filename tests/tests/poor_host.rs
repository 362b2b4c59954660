//! Hosts that lack something: what is lacking is named, and what can be measured is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

use lab::consistency::{assert_consistent, not_measured};
use lab::tracing::{self, Said};
use lab::{Bare, Lab};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(15);
const PORT: u16 = 49152;

const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug"];
const BTF: [&str; 1] = ["/sys/kernel/btf"];

/// The command on a host where these folders are empty.
fn without(folders: &[&str], arguments: &[&str]) -> Command {
    let hide = "while [ \"$1\" != -- ]; do [ ! -d \"$1\" ] || mount -t tmpfs none \"$1\" || exit 99; shift; done; shift; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", hide, "sh"]).args(folders).arg("--");
    command.arg(tracing::binary().unwrap()).args(arguments);
    command
}

fn doctor(lab: &Lab, folders: &[&str]) -> (Said, Value) {
    let text = tracing::run_command(lab.source(), without(folders, &["doctor"])).unwrap();
    let json = tracing::run_command(lab.source(), without(folders, &["doctor", "--format", "json"])).unwrap();
    assert_eq!(text.code, json.code, "{text:?} {json:?}");
    (text, serde_json::from_str(&json.stdout).unwrap())
}

fn status<'a>(findings: &'a Value, instrument: &str) -> &'a str {
    let instruments = findings["instruments"].as_array().unwrap();
    instruments.iter().find(|found| found["name"] == instrument).unwrap()["status"].as_str().unwrap()
}

/// Records a migration on such a host, to its end.
fn record(lab: &Lab, folders: &[&str]) -> (Said, Value) {
    let mut source = Bare::start(lab.source(), "poor").unwrap();
    let _destination = Bare::incoming(lab.destination(), "poor", PORT).unwrap();
    let mut command = without(folders, &["record", "--format", "json", "--timeout", "10s"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut recording = lab.source().spawn(&mut command).unwrap();
    let mut stderr = BufReader::new(recording.child().stderr.take().unwrap());
    let mut said = String::new();
    while !said.ends_with("ready\n") {
        assert!(stderr.read_line(&mut said).unwrap() > 0, "{said}");
    }
    source.migrate(lab.destination().ipv4(), PORT, 0).unwrap();
    source.wait_for_status("completed", PATIENCE).unwrap();
    // It ends, and so do its flows.
    drop(source);
    let mut output: Said = recording.output(PATIENCE).unwrap().into();
    output.stderr = said;
    let record = serde_json::from_str(&output.stdout).unwrap();
    assert_consistent(&record);
    (output, record)
}

#[test]
fn doctor_tells_what_works_here() {
    let lab = Lab::builder().without_guests().start().unwrap();
    let (said, findings) = doctor(&lab, &[]);
    assert!(matches!(said.code, Some(0 | 5)), "{said:?}");
    for probe in ["wire", "qmp", "socket", "retransmit", "exec", "exit"] {
        assert_ne!(status(&findings, probe), "missing", "{said:?}");
        assert!(said.stdout.contains(probe), "{said:?}");
    }
    assert!(said.stdout.lines().all(|line| line.trim_end() == line), "blanks at the end of a line: {said:?}");
}

#[test]
fn without_tracefs_bytes_are_counted_and_phases_are_said_to_be_missing() {
    let lab = Lab::builder().without_guests().start().unwrap();
    let (said, findings) = doctor(&lab, &TRACEFS);
    assert_eq!(said.code, Some(5), "{said:?}");
    assert_eq!(status(&findings, "wire"), "ok");
    assert_eq!(status(&findings, "retransmit"), "ok");
    // A kernel with kprobes does not need tracefs for them.
    if status(&findings, "qmp") != "missing" {
        return;
    }
    assert!(said.stdout.contains("tracefs is not mounted"), "{said:?}");
    assert!(said.stdout.contains("mount -t tracefs nodev /sys/kernel/tracing"), "{said:?}");

    let (said, record) = record(&lab, &TRACEFS);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stderr.contains("not measured here: phases"), "{said:?}");
    let sent = record["traffic"]["total"]["tx"]["payload_bytes"].as_u64().unwrap();
    assert!((16 << 20..20 << 20).contains(&sent), "{sent}");
    assert_eq!(record["vm"]["name"], "poor");
    let why = not_measured(&record);
    assert!(why.contains("phases: QEMU's events cannot be read on this host"), "{why}");
}

#[test]
fn without_type_information_owners_come_from_the_kernels_socket_tables() {
    let lab = Lab::builder().without_guests().start().unwrap();
    let (said, findings) = doctor(&lab, &BTF);
    assert_eq!(said.code, Some(5), "{said:?}");
    assert_eq!(status(&findings, "wire"), "ok");
    assert_ne!(status(&findings, "qmp"), "missing");
    for probe in ["socket", "retransmit"] {
        assert_eq!(status(&findings, probe), "missing", "{said:?}");
    }
    assert!(said.stdout.contains("BTF"), "{said:?}");

    let (said, record) = record(&lab, &BTF);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(record["migration"]["outcome"], "completed");
    assert_eq!(record["vm"]["name"], "poor");
    assert_eq!(record["traffic"]["retransmitted_segments"], Value::Null);
    assert!(not_measured(&record).contains("again"), "{}", not_measured(&record));
}
