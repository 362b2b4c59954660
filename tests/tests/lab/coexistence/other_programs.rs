//! Programs of others at the same interface.

use super::{
    DIRECTIONS, Hook, OtherPrograms, add_filter, assert_transfer_is_counted, assert_transfer_is_counted_by,
    filters, qdiscs,
};
use crate::support::event_log::FlowRecording;
use crate::support::transfer::{connect, network_of_real_frames};
use migtrace::units::Directions;
use migtrace_lab::{Host, PacketCounter, PacketDirection, TcVerdict};
use std::time::Duration;

/// How many packets crossed the bridge, by its own statistics.
fn bridge_packets(host: &Host) -> Directions<u64> {
    let text = host.tool("ip", &["-j", "-s", "link", "show", "dev", Host::BRIDGE]).unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    let packets = |direction: &str| links[0]["stats64"][direction]["packets"].as_u64().unwrap();
    Directions { tx: packets("tx"), rx: packets("rx") }
}

/// How many packets the bridge and the other programs have seen, at an instant at which none crossed.
fn packets_seen(host: &Host, others: &OtherPrograms) -> (Directions<u64>, Directions<u64>) {
    for _ in 0..100 {
        let before = bridge_packets(host);
        let seen = others.packets();
        if bridge_packets(host) == before {
            return (before, seen);
        }
    }
    panic!("packets never stop crossing the bridge");
}

fn difference(now: Directions<u64>, before: Directions<u64>) -> Directions<u64> {
    Directions { tx: now.tx - before.tx, rx: now.rx - before.rx }
}

/// Checks that other programs see as many packets as the bridge, before, while and after migtrace counts.
fn assert_others_see_every_packet(hook: Hook, verdict: TcVerdict, attach: &str) {
    let lab = network_of_real_frames();
    let source = lab.source();
    let others = OtherPrograms::attach(source, hook, verdict);
    let (bridge_before, seen_before) = packets_seen(source, &others);
    assert_transfer_is_counted(&lab, attach);
    let (bridge, seen) = packets_seen(source, &others);
    let crossed = difference(bridge, bridge_before);
    assert!(crossed.tx > 100 && crossed.rx > 20, "{crossed:?}");
    assert_eq!(
        difference(seen, seen_before),
        crossed,
        "left: seen by the other programs, right: by the bridge"
    );

    connect(&lab).close().unwrap();
    let (bridge_after, seen_after) = packets_seen(source, &others);
    let crossed = difference(bridge_after, bridge);
    assert!(crossed.tx >= 3, "{crossed:?}");
    assert_eq!(difference(seen_after, seen), crossed, "the other programs are still attached afterwards");
    for (_, direction) in DIRECTIONS {
        let filters = filters(source, direction);
        assert!(!filters.contains("migtrace"), "{filters}");
        assert_eq!(filters.contains("other"), hook == Hook::Clsact, "{filters}");
    }
    assert_eq!(qdiscs(source).contains("clsact"), hook == Hook::Clsact || attach == "clsact");
}

#[test]
fn a_tcx_program_that_ends_the_chain_still_sees_every_packet_beside_our_tcx_program() {
    assert_others_see_every_packet(Hook::Tcx, TcVerdict::Pass, "tcx");
}

#[test]
fn a_tcx_program_still_sees_every_packet_beside_our_filter() {
    assert_others_see_every_packet(Hook::Tcx, TcVerdict::Next, "clsact");
}

#[test]
fn a_filter_that_ends_the_chain_still_sees_every_packet_beside_our_tcx_program() {
    assert_others_see_every_packet(Hook::Clsact, TcVerdict::Pass, "tcx");
}

#[test]
fn a_filter_that_ends_the_chain_still_sees_every_packet_beside_our_filter() {
    assert_others_see_every_packet(Hook::Clsact, TcVerdict::Pass, "clsact");
}

#[test]
fn filters_of_another_kind_with_the_first_preference_stay_first_and_are_reported() {
    let lab = network_of_real_frames();
    let source = lab.source();
    source.tool("tc", &["qdisc", "add", "dev", Host::BRIDGE, "clsact"]).unwrap();
    for (_, direction) in DIRECTIONS {
        // It takes UDP only, so that we still see TCP.
        let place = ["filter", "add", "dev", Host::BRIDGE, direction, "pref", "1", "protocol", "ip"];
        let rule = ["u32", "match", "ip", "protocol", "17", "0xff", "flowid", "1:1"];
        source.tool("tc", &[&place[..], &rule[..]].concat()).unwrap();
    }
    let before = DIRECTIONS.map(|(_, direction)| filters(source, direction));
    let recording = FlowRecording::start(source, &["--attach", "clsact"]);
    assert!(filters(source, "egress").contains("pref 2 bpf"), "{}", filters(source, "egress"));
    let reports = assert_transfer_is_counted_by(&lab, recording);
    let expected = "packets that other filters at br0 drop";
    assert!(reports.iter().any(|report| report.starts_with(expected)), "{reports:?}");
    assert_eq!(DIRECTIONS.map(|(_, direction)| filters(source, direction)), before);
}

/// Checks that a program that is attached before ours is reported, and only once.
fn assert_program_in_front_is_reported(
    attach: &str,
    what: &str,
    attach_in_front: impl FnOnce(&Host) -> OtherPrograms,
) {
    let lab = network_of_real_frames();
    let source = lab.source();
    let recording = FlowRecording::start(source, &["--attach", attach]);
    let _others = attach_in_front(source);
    recording.wait_for(what);
    std::thread::sleep(Duration::from_millis(2500));
    let log = recording.stop();
    let reports = log.not_measured();
    assert_eq!(reports.iter().filter(|report| report.starts_with(what)).count(), 1, "{reports:?}");
    assert_eq!(log.removed(), []);
}

#[test]
fn a_tcx_program_that_is_attached_in_front_of_ours_is_reported() {
    assert_program_in_front_is_reported(
        "tcx",
        "packets that other TCX programs at br0 drop or accept",
        |host| {
            let [ingress, egress] = [(); 2].map(|()| PacketCounter::load(TcVerdict::Next).unwrap());
            let links = [(&ingress, PacketDirection::Ingress), (&egress, PacketDirection::Egress)];
            let links = links
                .map(|(counter, direction)| counter.attach_tcx_first(host, Host::BRIDGE, direction).unwrap());
            OtherPrograms { ingress, egress, _links: links.into() }
        },
    );
}

#[test]
fn a_filter_that_is_added_in_front_of_ours_is_reported() {
    assert_program_in_front_is_reported(
        "clsact",
        "packets that other filters at br0 drop or accept",
        |host| {
            let [ingress, egress] = [(); 2].map(|()| PacketCounter::load(TcVerdict::Next).unwrap());
            for (counter, (_, direction)) in [&ingress, &egress].into_iter().zip(DIRECTIONS) {
                add_filter(host, direction, counter);
            }
            OtherPrograms { ingress, egress, _links: Vec::new() }
        },
    );
}
