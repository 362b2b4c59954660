//! What goes away in the middle: interfaces, and migtrace itself. What was seen is told, and nothing stays attached.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

use aya::programs::{SchedClassifier, tc::TcAttachType};
use migtrace_lab::migtrace_command::{self, Recording};
use migtrace_lab::record_checks::{assert_consistent, not_measured, phase_names};
use migtrace_lab::{BareQemu, Host, Lab};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(15);
const PORT: u16 = 49152;
const SLOW_MIB_PER_S: u64 = 8;

fn network() -> Lab {
    Lab::builder().without_guests().start().unwrap()
}

/// The programs at an interface: of the TCX chains, and the filters of clsact.
fn attached(host: &Host, interface: &str) -> Vec<String> {
    let chains = host.enter(|| {
        [TcAttachType::Ingress, TcAttachType::Egress]
            .into_iter()
            .flat_map(|direction| SchedClassifier::query_tcx(interface, direction).unwrap().1)
            .filter_map(|program| Some(program.name_as_str()?.to_owned()))
            .collect::<Vec<_>>()
    });
    let mut found = chains.unwrap();
    for direction in ["ingress", "egress"] {
        let filters = host.tool("tc", &["filter", "show", "dev", interface, direction]).unwrap();
        found.extend(filters.lines().filter(|line| line.contains("migtrace_")).map(str::to_owned));
    }
    found
}

#[test]
fn nothing_stays_attached_however_migtrace_ends() {
    let lab = network();
    let host = lab.source();
    for mode in ["tcx", "clsact"] {
        for signal in [Signal::SIGINT, Signal::SIGTERM] {
            let recording = Recording::start(host, &["--attach", mode]).unwrap();
            assert_eq!(attached(host, Host::BRIDGE).len(), 2, "{mode}");
            recording.signal(signal).unwrap();
            recording.finish(PATIENCE).unwrap();
            assert_eq!(attached(host, Host::BRIDGE), [""; 0], "{mode} {signal}");
        }
        let late = Recording::start(host, &["--attach", mode, "--timeout", "100ms"]).unwrap();
        late.finish(PATIENCE).unwrap();
        assert_eq!(attached(host, Host::BRIDGE), [""; 0], "{mode}");
        // The monitor cannot be opened: everything is attached by then.
        let arguments = ["record", "--attach", mode, "--qmp", "/no/socket"];
        assert_eq!(migtrace_command::run(host, &arguments).unwrap().code, Some(1));
        assert_eq!(attached(host, Host::BRIDGE), [""; 0], "{mode}");
    }

    // Killed, it cannot clean up: TCX links go by themselves, filters with the next start or by hand.
    let recording = Recording::start(host, &["--attach", "tcx"]).unwrap();
    recording.signal(Signal::SIGKILL).unwrap();
    recording.finish(PATIENCE).unwrap();
    assert_eq!(attached(host, Host::BRIDGE), [""; 0]);
    let recording = Recording::start(host, &["--attach", "clsact"]).unwrap();
    recording.signal(Signal::SIGKILL).unwrap();
    recording.finish(PATIENCE).unwrap();
    assert_eq!(attached(host, Host::BRIDGE).len(), 2);
    let next = Recording::start(host, &["--attach", "clsact", "--timeout", "100ms"]).unwrap();
    assert_eq!(attached(host, Host::BRIDGE).len(), 2, "those of the killed one are replaced");
    next.finish(PATIENCE).unwrap();
    assert_eq!(attached(host, Host::BRIDGE), [""; 0]);
}

#[test]
fn nothing_stays_attached_after_a_migration() {
    let lab = network();
    let (mut source, destination) = BareQemu::pair(&lab, "passing", PORT).unwrap();
    let recordings = [lab.source(), lab.destination()].map(|host| Recording::start(host, &[]).unwrap());
    source.migrate(lab.destination().ipv4(), PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    drop(destination);
    for recording in recordings {
        assert_eq!(recording.finish(PATIENCE).unwrap().code, Some(3));
    }
    for host in [lab.source(), lab.destination()] {
        assert_eq!(attached(host, Host::BRIDGE), [""; 0]);
    }
}

#[test]
fn a_bridge_that_vanishes_takes_the_migration_with_it_and_not_the_record() {
    let lab = network();
    let (mut source, destination) = BareQemu::pair(&lab, "cut-off", PORT).unwrap();
    let recording = Recording::start(lab.source(), &[]).unwrap();
    source.migrate(lab.destination().ipv4(), PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    lab.source().tool("ip", &["link", "delete", Host::BRIDGE]).unwrap();
    recording.wait_for_event("interface_gone", PATIENCE).unwrap();
    // TCP would try for minutes.
    source.qmp().execute("migrate_cancel", serde_json::json!({})).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    assert_eq!(recorded.code, Some(3), "{}", recorded.stderr);
    let record = recorded.record().unwrap();
    assert_consistent(&record);
    assert_eq!(record["migration"]["outcome"], "cancelled");
    assert!(
        not_measured(&record).contains("packets on br0: the interface vanished"),
        "{}",
        not_measured(&record)
    );
    let sent = record["traffic"]["total"]["tx"]["payload_bytes"].as_u64().unwrap();
    assert!((1 << 20..12 << 20).contains(&sent), "{sent}");
    drop(destination);
}

#[test]
fn an_interface_that_comes_back_is_counted_at_again() {
    let lab = network();
    let recording = Recording::start(lab.source(), &[]).unwrap();
    let host = lab.source();
    let tool = |arguments: &str| host.tool("ip", &arguments.split(' ').collect::<Vec<_>>()).unwrap();
    tool("link delete br0");
    recording.wait_for_event("interface_gone", PATIENCE).unwrap();
    tool("link add name br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
    tool("link set dev uplink master br0 up");
    tool("link set dev br0 up");
    tool(&format!("address add {}/24 dev br0", host.ipv4()));
    recording.wait_for_event("interface_added", PATIENCE).unwrap();
    let (mut source, _destination) = BareQemu::pair(&lab, "again", PORT).unwrap();
    source.migrate(lab.destination().ipv4(), PORT, 0).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    let record = recorded.record().unwrap();
    assert_consistent(&record);
    assert!(record["traffic"]["total"]["tx"]["payload_bytes"].as_u64().unwrap() > 16 << 20);
}

#[test]
fn a_tap_that_vanishes_changes_nothing() {
    let lab = network();
    let host = lab.source();
    host.tool("ip", &["tuntap", "add", "dev", Host::TAP, "mode", "tap"]).unwrap();
    host.tool("ip", &["link", "set", "dev", Host::TAP, "master", Host::BRIDGE, "up"]).unwrap();
    let (mut source, _destination) = BareQemu::pair(&lab, "tapless", PORT).unwrap();
    let recording = Recording::start(host, &[]).unwrap();
    source.migrate(lab.destination().ipv4(), PORT, SLOW_MIB_PER_S).unwrap();
    source.wait_for_status("active", PATIENCE).unwrap();
    host.tool("ip", &["link", "delete", Host::TAP]).unwrap();
    let recorded = recording.finish(PATIENCE).unwrap();
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    let record = recorded.record().unwrap();
    assert_consistent(&record);
    assert_eq!(phase_names(&record).last().unwrap(), "completed");
    assert!(!not_measured(&record).contains("vanished"), "{}", not_measured(&record));
}

#[test]
fn a_namespace_without_its_last_interface_is_said_at_once() {
    let lab = network();
    lab.source().tool("ip", &["link", "delete", Host::BRIDGE]).unwrap();
    let started = Instant::now();
    let said = migtrace_command::run(lab.source(), &["record"]).unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("no interface to count at") && said.stderr.contains("uplink"), "{said:?}");
}
