//! The lab's network: two hosts and an observer, joined by a switch.
//!
//! ```text
//!   src                        dst                        observer
//!   br0 10.77.0.1              br0 10.77.0.2              uplink 10.77.0.3
//!    ├─ vnet0 (the guest)       ├─ vnet0 (the guest)        │
//!    └─ uplink                  └─ uplink                   │
//!         │                          │                      │
//!         └──────── src ───────── br0 of the switch ────────┘
//! ```

use crate::host::Host;
use crate::netns::NetNs;
use crate::programs::ip_batch;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::fs;

/// The names of all labs' namespaces begin with this.
pub(crate) const PREFIX: &str = "migtrace-";
/// The roles of the hosts, in the order of their addresses.
const HOSTS: [&str; 3] = ["src", "dst", "observer"];
const SWITCH: &str = "switch";

/// How the network is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Network {
    pub(crate) mtu: u32,
    /// A rate as `tc` writes it; none for no limit.
    pub(crate) rate: Option<String>,
    /// The taps for the guest on each host; 0: there is no guest.
    pub(crate) taps: u8,
    pub(crate) sender_offloads: bool,
    pub(crate) receiver_gro: bool,
}

/// The namespaces of one lab.
#[derive(Debug)]
pub(crate) struct Topology {
    pub(crate) source: Host,
    pub(crate) destination: Host,
    pub(crate) observer: Host,
    pub(crate) switch: Host,
}

/// The names of the namespaces of a lab, with the switch last.
pub(crate) fn namespaces(lab: &str) -> Vec<String> {
    HOSTS.iter().chain([&SWITCH]).map(|role| format!("{PREFIX}{lab}-{role}")).collect()
}

impl Topology {
    /// Makes the namespaces and everything in them.
    pub(crate) fn create(lab: &str, network: &Network) -> Result<Self> {
        for namespace in namespaces(lab) {
            NetNs::create(&namespace)?;
        }
        let topology = Self::open(lab)?;
        for host in [&topology.source, &topology.destination, &topology.observer, &topology.switch] {
            host.enter(limit_ipv6_autoconfiguration)??;
        }
        topology.make_switch(network)?;
        for (host, number) in [(&topology.source, 1), (&topology.destination, 2)] {
            make_host(host, number, network)?;
        }
        make_observer(&topology.observer)?;
        topology.set_offloads(network)?;
        if let Some(rate) = &network.rate {
            for host in [&topology.source, &topology.destination] {
                shape(host, rate)?;
            }
        }
        Ok(topology)
    }

    /// Opens the namespaces of a running lab.
    pub(crate) fn open(lab: &str) -> Result<Self> {
        let host = |role, number| -> Result<Host> {
            Ok(Host::new(role, NetNs::open(&format!("{PREFIX}{lab}-{role}"))?, number))
        };
        let [source, destination, observer] = HOSTS;
        Ok(Self {
            source: host(source, 1)?,
            destination: host(destination, 2)?,
            observer: host(observer, 3)?,
            switch: host(SWITCH, 254)?,
        })
    }

    /// The bridge of the switch, and a cable to each host.
    fn make_switch(&self, network: &Network) -> Result<()> {
        let mtu = network.mtu;
        let mut lines = String::from(
            "link set dev lo up\n\
             link add name br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n",
        );
        for host in [&self.source, &self.destination, &self.observer] {
            let (port, uplink, netns) = (host.role(), Host::UPLINK, host.netns().name());
            writeln!(
                lines,
                "link add name {port} mtu {mtu} type veth peer name {uplink} mtu {mtu} netns {netns}"
            )?;
            writeln!(lines, "link set dev {port} master br0 up")?;
        }
        writeln!(lines, "link set dev br0 mtu {mtu} up")?;
        ip_batch(self.switch.netns().name(), &lines)
    }

    fn set_offloads(&self, network: &Network) -> Result<()> {
        if !network.sender_offloads {
            for interface in [Host::BRIDGE, Host::UPLINK] {
                self.source.set_offloads(interface, &["tso", "gso"], false)?;
            }
        }
        if !network.receiver_gro {
            for interface in [Host::BRIDGE, Host::UPLINK] {
                self.destination.set_offloads(interface, &["gro"], false)?;
            }
        }
        Ok(())
    }
}

/// Makes a host's bridge, with the uplink and the guest's tap as its ports.
fn make_host(host: &Host, number: u8, network: &Network) -> Result<()> {
    let (bridge, uplink, mtu) = (Host::BRIDGE, Host::UPLINK, network.mtu);
    let (ipv4, ipv6) = (host.ipv4(), host.ipv6());
    // A bridge without a MAC of its own takes the lowest one of its ports, which changes with the ports.
    let mut lines = format!(
        "link set dev lo up\n\
         link add name {bridge} address 02:77:00:00:00:{number:02x} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\n\
         link set dev {uplink} master {bridge} up\n"
    );
    for tap in (0..network.taps).map(Host::tap) {
        writeln!(lines, "tuntap add dev {tap} mode tap vnet_hdr")?;
        writeln!(lines, "link set dev {tap} mtu {mtu} master {bridge} up")?;
    }
    writeln!(lines, "link set dev {bridge} mtu {mtu} up")?;
    writeln!(lines, "address add {ipv4}/24 dev {bridge}")?;
    writeln!(lines, "address add {ipv6}/64 dev {bridge} nodad")?;
    ip_batch(host.netns().name(), &lines)
}

fn make_observer(host: &Host) -> Result<()> {
    let (uplink, ipv4, ipv6) = (Host::UPLINK, host.ipv4(), host.ipv6());
    let lines = format!(
        "link set dev lo up\n\
         link set dev {uplink} up\n\
         address add {ipv4}/24 dev {uplink}\n\
         address add {ipv6}/64 dev {uplink} nodad\n"
    );
    ip_batch(host.netns().name(), &lines)
}

/// Limits what a host sends. With a burst below the size of a GSO packet, tbf would split each of them.
fn shape(host: &Host, rate: &str) -> Result<()> {
    let arguments = ["qdisc", "replace", "dev", Host::UPLINK, "root", "tbf", "rate", rate];
    let limits = ["burst", "256kb", "latency", "20ms"];
    host.tool("tc", &[&arguments[..], &limits[..]].concat()).map(drop)
}

/// Turns off duplicate address detection, which holds an address back for a second, and router discovery.
fn limit_ipv6_autoconfiguration() -> Result<()> {
    for (setting, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")] {
        for interface in ["all", "default"] {
            let path = format!("/proc/sys/net/ipv6/conf/{interface}/{setting}");
            fs::write(&path, value).with_context(|| format!("cannot set {path}"))?;
        }
    }
    Ok(())
}
