//! However many migrations one recording sees, it keeps nothing in the kernel about those that are over.

use crate::support::{FAST, MIGRATION_PORT, PATIENCE, network};
use migtrace_lab::migtrace_command::{Recorded, Recording};
use migtrace_lab::record_checks::assert_consistent;
use migtrace_lab::{BareQemu, Lab, map_entries, process_status};
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// How often the guest moves to the destination and back.
const ROUND_TRIPS: usize = 50;
/// How much the memory of the recording may grow during the second half of the moves. It keeps the events of every
/// migration, because a later event can change what they mean: some 4 KiB in its log, and no more in memory.
const GROWTH_KIB: u64 = 1024;

/// The kernel's resources that a process holds.
#[derive(Debug, PartialEq)]
struct HeldResources {
    /// How many entries its eBPF maps have, by name.
    map_entries: BTreeMap<String, usize>,
    descriptors: usize,
}

impl HeldResources {
    fn of(pid: u32) -> Self {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Self { map_entries: map_entries(pid).unwrap(), descriptors }
    }

    /// Waits until the process holds the same again, and returns what it holds then or after [`PATIENCE`]: it remembers a
    /// closed connection for 10 s.
    fn once_settled(&self, pid: u32) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let held = Self::of(pid);
            if held == *self || Instant::now() > deadline {
                return held;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Moves a guest into a new QEMU on the other host, and ends the old one.
fn migrate(lab: &Lab, mut guest: BareQemu, to_source: bool) -> BareQemu {
    let to = if to_source { lab.source() } else { lab.destination() };
    let mut arrived = BareQemu::incoming_tiny(to, "restless", MIGRATION_PORT).unwrap();
    guest.migrate(to.ipv4(), MIGRATION_PORT, FAST).unwrap();
    for end in [&mut guest, &mut arrived] {
        end.wait_for_status("completed", PATIENCE).unwrap();
    }
    arrived
}

/// How many events of this kind, with this status, a recording wrote.
fn count(recorded: &Recorded, kind: &str, status: Option<&str>) -> usize {
    let events = recorded.events().unwrap();
    events.iter().filter(|event| event["event"] == kind && event["data"]["status"].as_str() == status).count()
}

#[test]
fn a_hundred_migrations_of_another_guest_leave_nothing_in_the_kernel() {
    let lab = network();
    let mut awaited = BareQemu::start(lab.source(), "awaited").unwrap();
    let mut guest = BareQemu::tiny(lab.source(), "restless").unwrap();
    // With a probe, the maps of echo requests are in use too.
    let observer = lab.observer().ipv4().to_string();
    let options = ["--vm", "awaited", "--probe", &observer, "--probe-interval", "100ms"];
    let recording = Recording::start(lab.source(), &options).unwrap();
    let pid = recording.pid();
    // By then the guest's QEMU is traced, and so are its tap and, in KVM, its vCPU.
    std::thread::sleep(Duration::from_secs(2));
    let before = HeldResources::of(pid);
    assert_eq!((before.map_entries["TRACED"], before.map_entries["GUEST_PORTS"]), (2, 1), "{before:?}");
    assert_eq!((before.map_entries["FLOWS"], before.map_entries["FLOW_CLAIMS"]), (0, 0), "{before:?}");

    // Memory that is not backed by a file.
    let own_kib = || process_status(pid, "RssAnon").unwrap();
    let mut halfway_kib = 0;
    for number in 1..=ROUND_TRIPS {
        guest = migrate(&lab, guest, false);
        guest = migrate(&lab, guest, true);
        if number == ROUND_TRIPS / 2 {
            halfway_kib = own_kib();
        }
    }
    assert_ne!(HeldResources::of(pid).map_entries["FLOWS"], 0, "the last connections are not over yet");
    assert_eq!(
        before.once_settled(pid),
        before,
        "left: held after the last migration, right: before the first"
    );
    let grown_kib = own_kib().saturating_sub(halfway_kib);
    assert!(grown_kib < GROWTH_KIB, "{grown_kib} KiB more than after {halfway_kib} KiB halfway");

    let _destination = BareQemu::incoming(lab.destination(), "awaited", MIGRATION_PORT).unwrap();
    awaited.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    let record = recorded.record().unwrap();
    assert_consistent(&record);
    assert_eq!(record["vm"]["name"], "awaited");
    assert_eq!(record["migration"]["outcome"], "completed");
    assert_eq!(record["traffic"]["flows"].as_array().unwrap().len(), 1);
    // It saw all of them, and the one that it waited for.
    assert_eq!(count(&recorded, "flow_seen", None), 2 * ROUND_TRIPS + 1);
    assert_eq!(count(&recorded, "flow_gone", None), 2 * ROUND_TRIPS);
    assert_eq!(count(&recorded, "qmp", Some("completed")), 2 * ROUND_TRIPS + 1);
}
