//! What a killed recording leaves on a kernel without TCX, and how it goes.

use super::packet_counts::{payload_without_retransmissions, send};
use super::{in_vm, interrupt};
use crate::support::{GUEST_PATIENCE, network};
use migtrace_lab::Host;
use migtrace_lab::migtrace_command::{self, Recording};
use nix::sys::signal::Signal;

/// Kills a recording, so that it cannot clean up.
fn kill(recording: Recording) {
    recording.signal(Signal::SIGKILL).unwrap();
    assert_eq!(recording.finish(GUEST_PATIENCE).unwrap().code, None);
}

#[test]
fn the_filters_of_a_killed_recording_are_removed_and_no_others() {
    if !in_vm() {
        return;
    }
    const PORT: u16 = 49164;
    const BYTES: usize = 1 << 20;
    let lab = network();
    let host = lab.source();
    host.tool("tc", &["qdisc", "add", "dev", Host::BRIDGE, "clsact"]).unwrap();
    for side in ["ingress", "egress"] {
        let foreign = ["filter", "add", "dev", Host::BRIDGE, side, "prio", "7", "matchall", "action", "pass"];
        host.tool("tc", &foreign).unwrap();
    }
    let filters = |side: &str| host.tool("tc", &["filter", "show", "dev", Host::BRIDGE, side]).unwrap();
    let ours = |side: &str| filters(side).lines().filter(|line| line.contains("migtrace_")).count();
    let arguments = ["--interface", Host::BRIDGE, "--attach", "clsact"];
    let count_a_transfer = |recording: Recording| {
        send(host, lab.destination(), lab.destination().ipv4().into(), PORT, BYTES);
        let events = interrupt(recording);
        assert_eq!(payload_without_retransmissions(events.flow_counters(PORT)), BYTES as u64);
    };

    kill(Recording::start(host, &arguments).unwrap());
    assert_eq!((ours("ingress"), ours("egress")), (1, 1), "{}{}", filters("ingress"), filters("egress"));
    let output = migtrace_command::run(host, &["cleanup"]).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    for filter in ["migtrace_ingress", "migtrace_egress"] {
        assert!(output.stdout.contains(&format!("removed the filter {filter}@")), "{output:?}");
    }
    assert_eq!((ours("ingress"), ours("egress")), (0, 0));
    for side in ["ingress", "egress"] {
        assert!(filters(side).contains("matchall"), "{}", filters(side));
    }
    count_a_transfer(Recording::start(host, &arguments).unwrap());

    // Without a clean-up, the next recording replaces the filters of the killed one: no packet is counted twice.
    kill(Recording::start(host, &arguments).unwrap());
    count_a_transfer(Recording::start(host, &arguments).unwrap());
    assert_eq!((ours("ingress"), ours("egress")), (0, 0), "{}{}", filters("ingress"), filters("egress"));

    // The filters of a running recording stay, and come back when somebody removes them.
    let living = Recording::start(host, &arguments).unwrap();
    kill(Recording::start(host, &arguments).unwrap());
    assert_eq!((ours("ingress"), ours("egress")), (2, 2));
    assert_eq!(migtrace_command::run(host, &["cleanup"]).unwrap().code, Some(0));
    assert_eq!((ours("ingress"), ours("egress")), (1, 1));
    host.tool("tc", &["qdisc", "del", "dev", Host::BRIDGE, "clsact"]).unwrap();
    living.wait_for_event("tc_removed", GUEST_PATIENCE).unwrap();
    assert_eq!((ours("ingress"), ours("egress")), (1, 1));
    count_a_transfer(living);
    assert_eq!((ours("ingress"), ours("egress")), (0, 0));
}
