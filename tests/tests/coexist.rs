//! migtrace is a guest at an interface: who was there before still sees every packet, and is still there afterwards.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod recording;

use lab::{Connection, Host, Lab, PacketCounter, Verdict, Way, Wiretap};
use migtrace::units::Directions;
use nix::mount::{MsFlags, mount, umount};
use recording::{Recording, migtrace};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::Duration;

const MIB: u64 = 1 << 20;
const PORT: u16 = 49152;
const WAYS: [(Way, &str); 2] = [(Way::Ingress, "ingress"), (Way::Egress, "egress")];

/// How somebody else is attached.
#[derive(Clone, Copy, PartialEq)]
enum Hook {
    Tcx,
    Clsact,
}

/// Somebody else's programs at the source's bridge.
struct Others {
    ingress: PacketCounter,
    egress: PacketCounter,
    _links: Vec<OwnedFd>,
}

impl Others {
    fn attach(host: &Host, hook: Hook, verdict: Verdict) -> Self {
        let [ingress, egress] = [(); 2].map(|()| PacketCounter::load(verdict).unwrap());
        let mut links = Vec::new();
        if hook == Hook::Clsact {
            host.tool("tc", &["qdisc", "add", "dev", Host::BRIDGE, "clsact"]).unwrap();
        }
        for (counter, (way, name)) in [&ingress, &egress].into_iter().zip(WAYS) {
            match hook {
                Hook::Tcx => links.push(counter.attach_tcx(host, Host::BRIDGE, way).unwrap()),
                Hook::Clsact => add_filter(host, name, counter),
            }
        }
        Self { ingress, egress, _links: links }
    }

    fn packets(&self) -> Directions<u64> {
        Directions { tx: self.egress.packets().unwrap(), rx: self.ingress.packets().unwrap() }
    }
}

/// A filter of the first priority, as many networks of containers have it.
fn add_filter(host: &Host, way: &str, counter: &PacketCounter) {
    let directory = tempfile::tempdir().unwrap();
    mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
    let pin = directory.path().join("other");
    let added = counter.pin(&pin).and_then(|()| {
        let pin = pin.display().to_string();
        let place = ["filter", "add", "dev", Host::BRIDGE, way, "pref", "1", "protocol", "all"];
        host.tool("tc", &[&place[..], &["bpf", "direct-action", "object-pinned", &pin]].concat())
    });
    umount(directory.path()).unwrap();
    added.unwrap();
}

fn filters(host: &Host, way: &str) -> String {
    host.tool("tc", &["filter", "show", "dev", Host::BRIDGE, way]).unwrap()
}

fn qdiscs(host: &Host) -> String {
    host.tool("tc", &["qdisc", "show", "dev", Host::BRIDGE]).unwrap()
}

/// What the bridge itself says of packets.
fn of_bridge(host: &Host) -> Directions<u64> {
    let text = host.tool("ip", &["-j", "-s", "link", "show", "dev", Host::BRIDGE]).unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    let packets = |way: &str| links[0]["stats64"][way]["packets"].as_u64().unwrap();
    Directions { tx: packets("tx"), rx: packets("rx") }
}

/// What the bridge and the others have seen, at an instant at which nothing crossed.
fn witnesses(host: &Host, others: &Others) -> (Directions<u64>, Directions<u64>) {
    for _ in 0..100 {
        let before = of_bridge(host);
        let seen = others.packets();
        if of_bridge(host) == before {
            return (before, seen);
        }
    }
    panic!("packets never cease to cross the bridge");
}

fn difference(now: Directions<u64>, before: Directions<u64>) -> Directions<u64> {
    Directions { tx: now.tx - before.tx, rx: now.rx - before.rx }
}

fn connect(lab: &Lab) -> Connection {
    Connection::open(lab.source(), lab.destination(), false, PORT, 256 << 10).unwrap()
}

/// Two hosts between which real frames cross. Through the source's bridge go buffers of many, so that it counts what
/// programs see.
fn network() -> Lab {
    let lab = Lab::builder().without_guests().receiver_gro(false).start().unwrap();
    lab.source().set_offloads(Host::UPLINK, &["tso", "gso"], false).unwrap();
    for interface in [Host::BRIDGE, Host::UPLINK] {
        lab.destination().set_offloads(interface, &["tso", "gso"], false).unwrap();
    }
    lab
}

/// Sends both ways while migtrace counts, and compares it with a tap.
fn transfer_is_counted(lab: &Lab, attach: &str) {
    let recording = Recording::start(lab.source(), &["--attach", attach]);
    transfer_is_counted_by(lab, recording);
}

/// Returns what was said not to be measured.
fn transfer_is_counted_by(lab: &Lab, recording: Recording) -> Vec<String> {
    let tap = Wiretap::start(lab.source(), Host::UPLINK).unwrap();
    let connection = connect(lab);
    let (local, remote) = (connection.local().unwrap(), connection.remote().unwrap());
    connection.send(8 * MIB, 64 << 10).unwrap();
    connection.send_back(MIB, 64 << 10).unwrap();
    connection.close().unwrap();
    let capture = tap.stop().unwrap();
    let facts = recording.stop();
    let counted = facts.flow(local, remote).expect("the connection was not counted").counters;
    let truth = Directions { tx: capture.stream(local, remote), rx: capture.stream(remote, local) };
    assert_eq!(
        counted.map(|counters| [counters.wire_bytes, counters.payload_bytes, counters.segments]),
        truth.map(|tally| [tally.bytes, tally.payload_bytes, tally.frames]),
        "left is what migtrace counted, right is what crossed: bytes, payload, segments",
    );
    assert!(truth.tx.longest_bytes <= 1514 && truth.rx.longest_bytes <= 1514, "{truth:?}");
    facts.not_measured()
}

/// The others see as many packets as the bridge, before, while and after migtrace counts.
fn others_see_every_packet(hook: Hook, verdict: Verdict, attach: &str) {
    let lab = network();
    let source = lab.source();
    let others = Others::attach(source, hook, verdict);
    let (bridge_before, seen_before) = witnesses(source, &others);
    transfer_is_counted(&lab, attach);
    let (bridge, seen) = witnesses(source, &others);
    let crossed = difference(bridge, bridge_before);
    assert!(crossed.tx > 100 && crossed.rx > 20, "{crossed:?}");
    assert_eq!(difference(seen, seen_before), crossed, "left is what the others saw, right the bridge");

    connect(&lab).close().unwrap();
    let (bridge_after, seen_after) = witnesses(source, &others);
    let crossed = difference(bridge_after, bridge);
    assert!(crossed.tx >= 3, "{crossed:?}");
    assert_eq!(difference(seen_after, seen), crossed, "they are still there afterwards");
    for (_, way) in WAYS {
        let filters = filters(source, way);
        assert!(!filters.contains("migtrace"), "{filters}");
        assert_eq!(filters.contains("other"), hook == Hook::Clsact, "{filters}");
    }
    assert_eq!(qdiscs(source).contains("clsact"), hook == Hook::Clsact || attach == "clsact");
}

#[test]
fn a_tcx_program_that_ends_the_walk_still_sees_every_packet_beside_our_tcx() {
    others_see_every_packet(Hook::Tcx, Verdict::Pass, "tcx");
}

#[test]
fn a_tcx_program_still_sees_every_packet_beside_our_filter() {
    others_see_every_packet(Hook::Tcx, Verdict::Next, "clsact");
}

#[test]
fn a_filter_that_ends_the_walk_still_sees_every_packet_beside_our_tcx() {
    others_see_every_packet(Hook::Clsact, Verdict::Pass, "tcx");
}

#[test]
fn a_filter_that_ends_the_walk_still_sees_every_packet_beside_our_filter() {
    others_see_every_packet(Hook::Clsact, Verdict::Pass, "clsact");
}

#[test]
fn filters_of_another_kind_at_the_first_priority_stay_first_and_it_is_told() {
    let lab = network();
    let source = lab.source();
    source.tool("tc", &["qdisc", "add", "dev", Host::BRIDGE, "clsact"]).unwrap();
    for (_, way) in WAYS {
        // It takes UDP only, so that TCP is left to us.
        let place = ["filter", "add", "dev", Host::BRIDGE, way, "pref", "1", "protocol", "ip"];
        let rule = ["u32", "match", "ip", "protocol", "17", "0xff", "flowid", "1:1"];
        source.tool("tc", &[&place[..], &rule[..]].concat()).unwrap();
    }
    let before = WAYS.map(|(_, way)| filters(source, way));
    let recording = Recording::start(source, &["--attach", "clsact"]);
    assert!(filters(source, "egress").contains("pref 2 bpf"), "{}", filters(source, "egress"));
    let told = transfer_is_counted_by(&lab, recording);
    assert!(told.iter().any(|told| told.starts_with("packets that other filters at br0 drop")), "{told:?}");
    assert_eq!(WAYS.map(|(_, way)| filters(source, way)), before);
}

/// Ends in a way that leaves no time to clean up.
fn kill_a_recording(host: &Host, attach: &str) {
    Recording::start(host, &["--attach", attach]).kill();
}

fn clean_up(host: &Host) -> String {
    let output = host.run(Command::new(migtrace()).arg("cleanup")).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn cleanup_removes_the_filters_of_a_killed_run_and_nothing_else() {
    let lab = network();
    let source = lab.source();
    let others = Others::attach(source, Hook::Clsact, Verdict::Pass);
    let before = WAYS.map(|(_, way)| filters(source, way));
    kill_a_recording(source, "clsact");
    for (_, way) in WAYS {
        assert!(filters(source, way).contains(&format!("migtrace_{way}")), "{}", filters(source, way));
    }
    // They do no harm meanwhile.
    connect(&lab).close().unwrap();
    let said = clean_up(source);
    for (_, way) in WAYS {
        assert!(said.contains(&format!("removed the filter migtrace_{way} from br0")), "{said}");
    }
    assert_eq!(WAYS.map(|(_, way)| filters(source, way)), before);
    assert!(qdiscs(source).contains("clsact"));
    let seen = others.packets().tx;
    source.ping(lab.destination().ipv4(), Duration::from_secs(5)).unwrap();
    assert!(others.packets().tx > seen);
    assert!(clean_up(source).starts_with("nothing to remove"));
}

#[test]
fn the_next_run_takes_away_what_a_killed_one_has_left() {
    let lab = network();
    kill_a_recording(lab.source(), "clsact");
    assert!(filters(lab.source(), "egress").contains("migtrace"));
    transfer_is_counted(&lab, "clsact");
    assert!(!filters(lab.source(), "egress").contains("migtrace"));
}

#[test]
fn a_killed_run_leaves_nothing_where_there_is_tcx() {
    let lab = network();
    kill_a_recording(lab.source(), "tcx");
    assert!(clean_up(lab.source()).starts_with("nothing to remove"));
    assert!(!qdiscs(lab.source()).contains("clsact"));
}
