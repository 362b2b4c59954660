//! Bytes on the wire below a VLAN or a tunnel, and bytes that are sent again.

use super::packet_counts::{ETHERNET_HEADER, FilterCounter, payload_without_retransmissions, send};
use super::{in_vm, interrupt};
use crate::shapes::networks::over_device;
use crate::support::{network, number};
use migtrace_lab::migtrace_command::Recording;
use migtrace_lab::{Host, Lab};
use std::net::Ipv4Addr;

const VLAN_TAG: u64 = 4;

/// The outer Ethernet, IPv4 and UDP headers, and the VXLAN header or a Geneve header without options.
const TUNNEL_HEADERS: u64 = 14 + 20 + 8 + 8;

/// A cable of its own between the lab's two hosts: `wire0` at both ends.
///
/// TCP may hand down segments larger than the MTU. They are split at the cable, so that the arriving frames are real.
struct Cable<'a> {
    source: &'a Host,
    destination: &'a Host,
}

impl<'a> Cable<'a> {
    const NAME: &'static str = "wire0";

    fn connect(lab: &'a Lab) -> Self {
        let cable = Self { source: lab.source(), destination: lab.destination() };
        let netns = cable.destination.netns().name();
        cable
            .source
            .tool(
                "ip",
                &["link", "add", Self::NAME, "type", "veth", "peer", "name", Self::NAME, "netns", netns],
            )
            .unwrap();
        for (host, address) in cable.ends("192.0.2") {
            host.set_offloads(Self::NAME, &["tso", "gso", "gro"], false).unwrap();
            Self::set_address(host, Self::NAME, &address);
        }
        cable
    }

    /// Adds a device of `kind` to both ends of the cable, with an address in `network`. In `kind`, `OTHER` stands for the
    /// other end's address.
    fn add_device(&self, name: &str, kind: &[&str], network: &str) {
        for (host, address) in self.ends(network) {
            let other = if host.role() == self.source.role() { "192.0.2.2" } else { "192.0.2.1" };
            let kind: Vec<&str> =
                kind.iter().map(|word| if *word == "OTHER" { other } else { word }).collect();
            host.tool("ip", &[&["link", "add"], &kind[..]].concat()).unwrap();
            Self::set_address(host, name, &address);
        }
        self.destination.set_offloads(name, &["gro"], false).unwrap();
    }

    fn ends(&self, network: &str) -> [(&'a Host, String); 2] {
        [(self.source, format!("{network}.1/24")), (self.destination, format!("{network}.2/24"))]
    }

    fn set_address(host: &Host, device: &str, address: &str) {
        host.tool("ip", &["address", "add", address, "dev", device]).unwrap();
        host.tool("ip", &["link", "set", device, "up"]).unwrap();
    }
}

#[test]
fn traffic_of_a_vlan_is_counted_once_with_its_tag() {
    if !in_vm() {
        return;
    }
    const PORT: u16 = 49160;
    const BYTES: usize = 8 << 20;
    let lab = network();
    let cable = Cable::connect(&lab);
    let vlan = "wire0.100";
    cable.add_device(vlan, &["link", Cable::NAME, "name", vlan, "type", "vlan", "id", "100"], "198.51.100");
    let counter = FilterCounter::start(lab.destination(), &[PORT]);
    let above = Recording::start(lab.source(), &[]).unwrap();
    let below = Recording::start(lab.destination(), &["--interface", Cable::NAME]).unwrap();
    send(lab.source(), lab.destination(), Ipv4Addr::new(198, 51, 100, 2).into(), PORT, BYTES);
    let (above, below) = (interrupt(above), interrupt(below));
    let [arriving, leaving] = counter.read(PORT);

    // The VLAN and the device below it both have an address, so migtrace counts at both.
    let counted_at = above.0[0]["interfaces"].as_array().unwrap();
    for name in [Cable::NAME, vlan] {
        assert!(counted_at.iter().any(|interface| interface["name"] == name), "{counted_at:?}");
    }
    assert_eq!(above.flow_seen(PORT)["interface"], vlan);
    let flow = above.flow_counters(PORT);
    arriving.assert_counted_as(&flow["counters"]["tx"], ETHERNET_HEADER + VLAN_TAG);
    leaving.assert_counted_as(&flow["counters"]["rx"], ETHERNET_HEADER + VLAN_TAG);
    assert_eq!(payload_without_retransmissions(flow), BYTES as u64);

    assert_eq!(below.flow_seen(PORT)["interface"], Cable::NAME);
    let flow = below.flow_counters(PORT);
    arriving.assert_counted_as(&flow["counters"]["rx"], ETHERNET_HEADER + VLAN_TAG);
    leaving.assert_counted_as(&flow["counters"]["tx"], ETHERNET_HEADER + VLAN_TAG);
}

#[test]
fn a_migration_over_a_vlan_is_merged() {
    if in_vm() {
        let kind = ["link", Host::BRIDGE, "type", "vlan", "id", "100"];
        let lacking = over_device("vlan-7.2", "br0.100", &kind);
        // A VLAN is no tunnel: its tags are counted.
        assert!(lacking.iter().all(|entry| !entry["what"].as_str().unwrap().contains("outer headers")));
    }
}

#[test]
fn a_tunnel_is_counted_with_all_of_its_headers() {
    if !in_vm() {
        return;
    }
    const VXLAN_PORT: u16 = 49161;
    const GENEVE_PORT: u16 = 49162;
    const BYTES: usize = 4 << 20;
    let lab = network();
    let cable = Cable::connect(&lab);
    let vxlan =
        ["name", "vx0", "type", "vxlan", "id", "7", "remote", "OTHER", "dstport", "4789", "dev", Cable::NAME];
    cable.add_device("vx0", &vxlan, "198.51.100");
    cable.add_device("gn0", &["name", "gn0", "type", "geneve", "id", "7", "remote", "OTHER"], "203.0.113");
    let counter = FilterCounter::start(lab.destination(), &[VXLAN_PORT, GENEVE_PORT]);
    let arguments = ["--interface", Cable::NAME, "--decapsulate", "vxlan,geneve"];
    let recordings =
        [lab.source(), lab.destination()].map(|host| Recording::start(host, &arguments).unwrap());
    let tunnels =
        [(VXLAN_PORT, Ipv4Addr::new(198, 51, 100, 2)), (GENEVE_PORT, Ipv4Addr::new(203, 0, 113, 2))];
    for (port, address) in tunnels {
        send(lab.source(), lab.destination(), address.into(), port, BYTES);
    }
    let [source, destination] = recordings.map(interrupt);
    for (port, _) in tunnels {
        let [arriving, leaving] = counter.read(port);
        let sent = source.flow_counters(port);
        arriving.assert_counted_as(&sent["counters"]["tx"], ETHERNET_HEADER + TUNNEL_HEADERS);
        leaving.assert_counted_as(&sent["counters"]["rx"], ETHERNET_HEADER + TUNNEL_HEADERS);
        assert_eq!(payload_without_retransmissions(sent), BYTES as u64);
        let received = destination.flow_counters(port);
        arriving.assert_counted_as(&received["counters"]["rx"], ETHERNET_HEADER + TUNNEL_HEADERS);
        leaving.assert_counted_as(&received["counters"]["tx"], ETHERNET_HEADER + TUNNEL_HEADERS);
    }
}

#[test]
fn retransmissions_are_counted_apart_to_the_byte() {
    if !in_vm() {
        return;
    }
    const PORT: u16 = 49163;
    const BYTES: usize = 4 << 20;
    // The source's uplink splits what TCP hands down, so that real frames reach the switch, which loses some of them.
    let lab = Lab::builder().without_guests().sender_offloads(false).start().unwrap();
    let port = lab.destination().role();
    lab.switch().tool("tc", &["qdisc", "add", "dev", port, "root", "netem", "loss", "2%"]).unwrap();
    let before = lab.source().retransmitted_segments().unwrap();
    let recording = Recording::start(lab.source(), &[]).unwrap();
    send(lab.source(), lab.destination(), lab.destination().ipv4().into(), PORT, BYTES);
    let events = interrupt(recording);
    let kernel_claims = lab.source().retransmitted_segments().unwrap() - before;
    let flow = events.flow_counters(PORT);
    assert!(kernel_claims > 0);
    assert_eq!(number(&flow["retransmitted_segments"]), kernel_claims);
    assert_eq!(payload_without_retransmissions(flow), BYTES as u64);
}
