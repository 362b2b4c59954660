//! The command `migtrace-lab`.

use super::remains_of;
use crate::support::one_at_a_time;
use std::process::Command;

#[test]
fn a_lab_stays_up_between_commands_until_it_is_removed() {
    let _lock = one_at_a_time();
    let name = format!("stays-{}", std::process::id());
    let lab = |arguments: &[&str]| {
        let mut all = vec![arguments[0], "--name", &name];
        all.extend(&arguments[1..]);
        let output = Command::new(env!("CARGO_BIN_EXE_migtrace-lab")).args(all).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let (ok, text) = lab(&["up", "--dirty", "16"]);
    assert!(ok, "{text}");
    for target in ["dst", "src"] {
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
