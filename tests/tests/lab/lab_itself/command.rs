//! The command `migtrace-lab`.

use super::remains_of;
use crate::support::one_at_a_time;
use migtrace_lab::Qmp;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// A command of `migtrace-lab` for the lab of this name.
fn command(name: &str, subcommand: &str, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_migtrace-lab"));
    command.args([subcommand, "--name", name]).args(options);
    command
}

/// Runs a command of `migtrace-lab`, which must succeed.
pub(super) fn run(name: &str, subcommand: &str, options: &[&str]) {
    let output = command(name, subcommand, options).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_lab_stays_up_between_commands_until_it_is_removed() {
    let _lock = one_at_a_time();
    let name = format!("stays-{}", std::process::id());
    let directory = tempfile::tempdir().unwrap();
    let variables = directory.path().join("variables");
    let lab = |arguments: &[&str]| {
        let mut command = command(&name, arguments[0], &arguments[1..]);
        let output = command.env("STUDY_VARIABLES", &variables).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let (ok, text) = lab(&["up", "--dirty", "16"]);
    assert!(ok, "{text}");
    let written = fs::read_to_string(&variables).unwrap();
    let written: HashMap<_, _> = written.lines().map(|line| line.split_once('=').unwrap()).collect();
    assert_eq!(written["GUEST"], format!("guest-{name}"));
    assert_eq!(written["GUEST_ADDRESS"], "10.77.0.10");
    Qmp::connect(Path::new(written["QMP"])).unwrap();
    let hosts = format!("{} observer 'ip -brief address'", written["RSH"]);
    let output = Command::new("sh").args(["-c", &hosts]).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("10.77.0.3/24"));
    let (ok, text) = lab(&["converge", "--action", "suspend"]);
    assert!(!ok && text.contains("no migration runs"), "{text}");
    let (ok, text) = lab(&["migrate", "--leave-source"]);
    assert!(ok && text.contains("completed in"), "{text}");
    // The source's QEMU that was left does not keep the guest from coming back.
    for target in ["src", "dst"] {
        let (ok, text) = lab(&["migrate"]);
        assert!(ok && text.contains(&format!("now from {target}")), "{text}");
    }
    let (ok, text) = lab(&["exec", "dst", "--", "ip", "-brief", "address"]);
    assert!(ok && text.contains("10.77.0.2/24"), "{text}");
    let (ok, text) = lab(&["down"]);
    assert!(ok, "{text}");
    assert_eq!(remains_of(&name), [""; 0]);
    let (ok, text) = lab(&["migrate"]);
    assert!(!ok && text.contains("lab up"), "{text}");
    let (ok, text) = lab(&["down"]);
    assert!(!ok && text.contains("no lab"), "{text}");
    let (ok, text) = lab(&["down", "--if-exists"]);
    assert!(ok && text.is_empty(), "{text}");
}

#[test]
fn run_starts_a_command_on_the_source_before_the_migration() {
    let _lock = one_at_a_time();
    let script = "ip -brief address >&2; echo ready >&2; sleep 3; echo seen";
    let output = Command::new(env!("CARGO_BIN_EXE_migtrace-lab"))
        .args(["run", "--dirty", "16", "--ready-line", "ready", "--", "sh", "-c", script])
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stderr.contains("10.77.0.1/24") && stdout.contains("seen"), "{stdout}{stderr}");
    assert!(stderr.find("\nready").unwrap() < stderr.find("migrating").unwrap(), "{stderr}");
}
