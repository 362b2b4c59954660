//! Hosts that lack a part of what migtrace uses: it names that part, and measures what it can.

use crate::support::{FAST, MIGRATION_PORT, PATIENCE, network, sent_payload_bytes};
use migtrace_lab::migtrace_command::{self, CommandOutput};
use migtrace_lab::record_checks::{assert_consistent, not_measured};
use migtrace_lab::{BareQemu, Lab};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug"];
const BTF: [&str; 1] = ["/sys/kernel/btf"];

/// A command that runs migtrace where these folders are empty.
fn without(folders: &[&str], arguments: &[&str]) -> Command {
    let hide = "while [ \"$1\" != -- ]; do [ ! -d \"$1\" ] || mount -t tmpfs none \"$1\" || exit 99; shift; done; shift; exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", hide, "sh"]).args(folders).arg("--");
    command.arg(migtrace_command::binary().unwrap()).args(arguments);
    command
}

fn doctor(lab: &Lab, folders: &[&str]) -> (CommandOutput, Value) {
    let text = migtrace_command::run_command(lab.source(), without(folders, &["doctor"])).unwrap();
    let json = migtrace_command::run_command(lab.source(), without(folders, &["doctor", "--format", "json"]))
        .unwrap();
    assert_eq!(text.code, json.code, "{text:?} {json:?}");
    (text, serde_json::from_str(&json.stdout).unwrap())
}

fn status<'a>(findings: &'a Value, instrument: &str) -> &'a str {
    let instruments = findings["instruments"].as_array().unwrap();
    instruments.iter().find(|found| found["name"] == instrument).unwrap()["status"].as_str().unwrap()
}

/// Records a whole migration on a host where these folders are empty.
fn record(lab: &Lab, folders: &[&str]) -> (CommandOutput, Value) {
    let (mut source, _destination) = BareQemu::pair(lab, "degraded", MIGRATION_PORT).unwrap();
    let mut command = without(folders, &["record", "--format", "json", "--timeout", "10s"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut recording = lab.source().spawn(&mut command).unwrap();
    let mut stderr = BufReader::new(recording.child().stderr.take().unwrap());
    let mut until_ready = String::new();
    while !until_ready.ends_with("ready\n") {
        assert!(stderr.read_line(&mut until_ready).unwrap() > 0, "{until_ready}");
    }
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
    source.wait_for_status("completed", PATIENCE).unwrap();
    // With QEMU, its flows end too.
    drop(source);
    let mut output: CommandOutput = recording.output(PATIENCE).unwrap().into();
    output.stderr = until_ready;
    let record = serde_json::from_str(&output.stdout).unwrap();
    assert_consistent(&record);
    (output, record)
}

#[test]
fn doctor_reports_every_instrument_on_this_machine() {
    let lab = network();
    let (output, findings) = doctor(&lab, &[]);
    assert!(matches!(output.code, Some(0 | 5)), "{output:?}");
    for instrument in ["wire", "qmp", "socket", "retransmit", "exec", "exit"] {
        assert_ne!(status(&findings, instrument), "missing", "{output:?}");
        assert!(output.stdout.contains(instrument), "{output:?}");
    }
    assert!(
        output.stdout.lines().all(|line| line.trim_end() == line),
        "blanks at the end of a line: {output:?}"
    );
}

#[test]
fn without_tracefs_bytes_are_counted_and_phases_are_reported_as_missing() {
    let lab = network();
    let (output, findings) = doctor(&lab, &TRACEFS);
    assert_eq!(output.code, Some(5), "{output:?}");
    assert_eq!(status(&findings, "wire"), "ok");
    assert_eq!(status(&findings, "retransmit"), "ok");
    // A kernel with kprobes reads QEMU's events without tracefs.
    if status(&findings, "qmp") != "missing" {
        return;
    }
    assert!(output.stdout.contains("tracefs is not mounted"), "{output:?}");
    assert!(output.stdout.contains("mount -t tracefs nodev /sys/kernel/tracing"), "{output:?}");

    let (output, record) = record(&lab, &TRACEFS);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stderr.contains("not measured here: phases"), "{output:?}");
    let sent = sent_payload_bytes(&record);
    assert!((16 << 20..20 << 20).contains(&sent), "{sent}");
    assert_eq!(record["vm"]["name"], "degraded");
    let why = not_measured(&record);
    assert!(why.contains("phases: QEMU's events cannot be read on this host"), "{why}");
}

#[test]
fn without_btf_the_owners_of_flows_come_from_the_kernels_socket_tables() {
    let lab = network();
    let (output, findings) = doctor(&lab, &BTF);
    assert_eq!(output.code, Some(5), "{output:?}");
    assert_eq!(status(&findings, "wire"), "ok");
    assert_ne!(status(&findings, "qmp"), "missing");
    for instrument in ["socket", "retransmit"] {
        assert_eq!(status(&findings, instrument), "missing", "{output:?}");
    }
    assert!(output.stdout.contains("BTF"), "{output:?}");

    let (output, record) = record(&lab, &BTF);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert_eq!(record["migration"]["outcome"], "completed");
    assert_eq!(record["vm"]["name"], "degraded");
    assert_eq!(record["traffic"]["retransmitted_segments"], Value::Null);
    assert!(not_measured(&record).contains("again"), "{}", not_measured(&record));
}
