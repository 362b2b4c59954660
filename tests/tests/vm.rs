//! What the development machine's kernel cannot show: kprobes, KVM guests, clsact without TCX, VLANs, tunnels, loss.
//!
//! `cargo xtask vm` boots Debian's kernels and runs these tests there; elsewhere they pass without doing anything.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set inside the VM.
const VM_VARIABLE: &str = "MIGTRACE_VM";
/// The command under test; without, it is the one that cargo has built.
const BINARY_VARIABLE: &str = "MIGTRACE_BIN";

/// Whether this is a test VM; says so when it is not.
fn in_vm() -> bool {
    let inside = std::env::var_os(VM_VARIABLE).is_some();
    if !inside {
        eprintln!("skipped: this test needs a kernel of its own; `cargo xtask vm` runs it");
    }
    inside
}

fn migtrace() -> Command {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/debug/migtrace");
    Command::new(std::env::var_os(BINARY_VARIABLE).map_or_else(built, PathBuf::from))
}

/// Major and minor version of the running kernel.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// TCX links came with Linux 6.6 (commit e420bed02507).
fn has_tcx() -> bool {
    kernel() >= (6, 6)
}

#[test]
fn doctor_finds_every_probe_at_its_best_hook() {
    if !in_vm() {
        return;
    }
    let output = migtrace().args(["doctor", "--format", "json"]).output().unwrap();
    let findings: Value = serde_json::from_slice(&output.stdout).unwrap();
    let probe = |name: &str| {
        let probes = findings["probes"].as_array().unwrap();
        probes.iter().find(|probe| probe["name"] == name).unwrap_or_else(|| panic!("no {name}: {findings:#}"))
    };
    for (name, hook) in [
        ("qmp", "kprobe:__sys_sendmsg"),
        ("socket", "kretprobe:__sys_accept4"),
        ("retransmit", "raw_tracepoint:tcp_retransmit_skb"),
        ("exec", "raw_tracepoint:sched_process_exec"),
        ("exit", "raw_tracepoint:sched_process_exit"),
    ] {
        assert_eq!(
            (&probe(name)["status"], &probe(name)["hook"]),
            (&"ok".into(), &hook.into()),
            "{findings:#}"
        );
    }
    let (hook, status, code) = if has_tcx() { ("tcx", "ok", 0) } else { ("clsact", "fallback", 1) };
    assert_eq!((&probe("wire")["hook"], &probe("wire")["status"]), (&hook.into(), &status.into()));
    assert_eq!(findings["lacking"], serde_json::json!([]));
    assert_eq!(output.status.code(), Some(code));
}
