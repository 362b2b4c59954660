//! What this machine's own kernel may not show, or what may not be done to it: kprobes, KVM guests, clsact without TCX, VLANs,
//! tunnels, loss, a clock that is set.
//!
//! `cargo xtask vm` boots Debian's kernels and runs these tests there. Elsewhere they pass without doing anything.

mod clock_steps;
mod encapsulation;
mod killed_recording;
mod kvm_guests;
mod packet_counts;
mod perf_events;
mod qmp_lines;

use std::fs;

use crate::support::GUEST_PATIENCE;
use crate::wire_bytes::sleeping::assert_exact_after_waking;
use migtrace_lab::migtrace_command::{self, Recording};
use migtrace_lab::{BEST_HOOKS, hooks_without_perf_events};
use nix::sys::signal::Signal;
use packet_counts::JsonEvents;
use serde_json::{Value, json};

/// Set inside the VMs of `cargo xtask vm`.
const VM_VARIABLE: &str = "MIGTRACE_VM";

/// Whether this is a test VM; if not, reports that the test is skipped.
fn in_vm() -> bool {
    let inside = std::env::var_os(VM_VARIABLE).is_some();
    if !inside {
        eprintln!("skipped: this test needs a kernel of its own; `cargo xtask vm` runs it");
    }
    inside
}

/// TCX links came with Linux 6.6 (commit e420bed02507).
fn has_tcx() -> bool {
    release() >= (6, 6)
}

fn release() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// What `migtrace doctor` reports about this kernel.
struct Doctor {
    findings: Value,
    code: Option<i32>,
}

impl Doctor {
    fn ask() -> Self {
        let output = migtrace_command::command(&["doctor", "--format", "json"]).unwrap().output().unwrap();
        Self { findings: serde_json::from_slice(&output.stdout).unwrap(), code: output.status.code() }
    }

    fn instrument(&self, name: &str) -> &Value {
        let instruments = self.findings["instruments"].as_array().unwrap();
        let found = instruments.iter().find(|instrument| instrument["name"] == name);
        found.unwrap_or_else(|| panic!("no {name}: {:#}", self.findings))
    }

    /// Whether this instrument loses nothing here. If it does, checks that the record says so in the words of `doctor`.
    fn measures_all_of(&self, name: &str, record: &Value) -> bool {
        let instrument = self.instrument(name);
        let Some(lost) = instrument["lost"].as_str() else { return true };
        let listed = record["not_measured"].as_array().unwrap();
        let says = |entry: &Value| {
            entry["what"] == instrument["observes"] && entry["why"].as_str().unwrap().starts_with(lost)
        };
        assert!(listed.iter().any(says), "{instrument:#} {listed:#?}");
        false
    }
}

/// Interrupts a recording. Without a QEMU it writes no record, but it writes events.
fn interrupt(recording: Recording) -> JsonEvents {
    recording.signal(Signal::SIGINT).unwrap();
    JsonEvents::of(&recording.finish(GUEST_PATIENCE).unwrap())
}

#[test]
fn doctor_finds_every_instrument_at_its_best_hook() {
    if !in_vm() {
        return;
    }
    let doctor = Doctor::ask();
    let wire = if has_tcx() { ("wire", "ok", "tcx") } else { ("wire", "fallback", "clsact") };
    for (name, status, hook) in BEST_HOOKS.map(|(name, hook)| (name, "ok", hook)).into_iter().chain([wire]) {
        let instrument = doctor.instrument(name);
        assert_eq!([&instrument["status"], &instrument["hook"]], [status, hook], "{instrument:#}");
        // A fallback that loses nothing says what its disadvantage is.
        assert!(status == "ok" || !instrument["why"].is_null(), "{instrument:#}");
    }
    assert_eq!(doctor.findings["lacking"], json!([]));
    assert_eq!(doctor.code, Some(if has_tcx() { 0 } else { 5 }));
}

#[test]
fn where_perf_events_are_refused_every_instrument_has_another_hook() {
    if in_vm() {
        perf_events::apart(assert_hooks_without_perf_events);
    }
}

fn assert_hooks_without_perf_events() {
    perf_events::refuse();
    let doctor = Doctor::ask();
    for (name, hook) in hooks_without_perf_events() {
        let instrument = doctor.instrument(name);
        assert_eq!(instrument["hook"], hook, "{instrument:#}");
        assert!(instrument["lost"].is_null(), "{instrument:#}");
        let is_best = BEST_HOOKS.contains(&(name, hook));
        assert_eq!(instrument["status"], if is_best { "ok" } else { "fallback" }, "{instrument:#}");
        assert_eq!(instrument["note"].is_null(), is_best, "{instrument:#}");
    }
}

#[test]
fn every_byte_of_a_connection_that_ends_a_sleep_is_counted() {
    if in_vm() {
        assert_exact_after_waking(false);
    }
}
