//! However many migrations one recording sees, it keeps nothing in the kernel of those that are over.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

use migtrace_lab::migtrace_command::{Recorded, Recording};
use migtrace_lab::record_checks::assert_consistent;
use migtrace_lab::{BareQemu, Lab, map_entries, process_status};
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 49152;
const FAST: u64 = 0;
/// How often the guest goes there and back again.
const ROUND_TRIPS: usize = 50;
/// What the memory of the recording may grow by during the second half of them, in KiB. It keeps what it was told of each
/// migration, because a later fact can change what that means: some 4 KiB in its log, and no more in memory.
const GROWTH_KIB: u64 = 1024;

/// What a process holds.
#[derive(Debug, PartialEq)]
struct Held {
    /// Entries of its eBPF maps.
    entries: BTreeMap<String, usize>,
    descriptors: usize,
}

impl Held {
    fn by(pid: u32) -> Self {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self { entries: map_entries(pid).unwrap(), descriptors }
    }

    /// What the process holds once it looks like this, or in the end: a connection that was closed is remembered for 10 s.
    fn once_settled(&self, pid: u32) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let held = Self::by(pid);
            if held == *self || Instant::now() > deadline {
                return held;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Moves the guest of a QEMU to one that starts for it, and ends the first.
fn migrate(lab: &Lab, mut guest: BareQemu, to_source: bool) -> BareQemu {
    let to = if to_source { lab.source() } else { lab.destination() };
    let mut arrived = BareQemu::incoming_tiny(to, "restless", PORT).unwrap();
    guest.migrate(to.ipv4(), PORT, FAST).unwrap();
    for end in [&mut guest, &mut arrived] {
        end.wait_for_status("completed", PATIENCE).unwrap();
    }
    arrived
}

/// How many events of this kind a recording has told, and of how many of them this is the status.
fn count(recorded: &Recorded, kind: &str, status: Option<&str>) -> usize {
    let events = recorded.events().unwrap();
    events.iter().filter(|event| event["event"] == kind && event["data"]["status"].as_str() == status).count()
}

#[test]
fn a_hundred_migrations_of_another_guest_leave_nothing_in_a_recording() {
    let lab = Lab::builder().without_guests().start().unwrap();
    let mut awaited = BareQemu::start(lab.source(), "awaited").unwrap();
    let mut guest = BareQemu::tiny(lab.source(), "restless").unwrap();
    // So that echo requests are followed too.
    let observer = lab.observer().ipv4().to_string();
    let options = ["--vm", "awaited", "--probe", &observer, "--probe-interval", "100ms"];
    let recording = Recording::start(lab.source(), &options).unwrap();
    let pid = recording.pid();
    // The guest's QEMU is traced, and so are its tap and, in KVM, its vCPU.
    std::thread::sleep(Duration::from_secs(2));
    let before = Held::by(pid);
    assert_eq!((before.entries["TRACED"], before.entries["GUEST_PORTS"]), (2, 1), "{before:?}");
    assert_eq!((before.entries["FLOWS"], before.entries["FLOW_CLAIMS"]), (0, 0), "{before:?}");

    // Its memory that is no file's.
    let own_kib = || process_status(pid, "RssAnon").unwrap();
    let mut halfway_kib = 0;
    for number in 1..=ROUND_TRIPS {
        guest = migrate(&lab, guest, false);
        guest = migrate(&lab, guest, true);
        if number == ROUND_TRIPS / 2 {
            halfway_kib = own_kib();
        }
    }
    assert_ne!(Held::by(pid).entries["FLOWS"], 0, "the last connections are not over yet");
    assert_eq!(
        before.once_settled(pid),
        before,
        "left is what it holds after the last, right before the first"
    );
    let grown_kib = own_kib().saturating_sub(halfway_kib);
    assert!(grown_kib < GROWTH_KIB, "{grown_kib} KiB more than after {halfway_kib} KiB halfway");

    let _destination = BareQemu::incoming(lab.destination(), "awaited", PORT).unwrap();
    awaited.migrate(lab.destination().ipv4(), PORT, FAST).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    let record = recorded.record().unwrap();
    assert_consistent(&record);
    assert_eq!(record["vm"]["name"], "awaited");
    assert_eq!(record["migration"]["outcome"], "completed");
    assert_eq!(record["traffic"]["flows"].as_array().unwrap().len(), 1);
    // All of them were seen, and the one that was awaited.
    assert_eq!(count(&recorded, "flow_seen", None), 2 * ROUND_TRIPS + 1);
    assert_eq!(count(&recorded, "flow_gone", None), 2 * ROUND_TRIPS);
    assert_eq!(count(&recorded, "qmp", Some("completed")), 2 * ROUND_TRIPS + 1);
}
