//! What tunnels add to packets after they were counted.

use std::collections::BTreeSet;

use super::list::List;
use crate::event::Interface;
use crate::timeline::facts::Facts;
use crate::timeline::migration::MigrationFacts;

/// A kind of device that puts frames into other packets.
struct Tunnel {
    /// In the kernel's word.
    kind: &'static str,
    /// How many bytes it adds to each segment at least.
    adds_bytes: Option<u64>,
    /// Whether migtrace can look into its packets (`--decapsulate`).
    is_seen_into: bool,
}

impl Tunnel {
    const fn new(kind: &'static str, adds_bytes: u64) -> Self {
        Self { kind, adds_bytes: Some(adds_bytes), is_seen_into: false }
    }

    const fn seen_into(kind: &'static str, adds_bytes: u64) -> Self {
        Self { is_seen_into: true, ..Self::new(kind, adds_bytes) }
    }
}

/// Those of which the frames inside have an Ethernet header: no others are counted at. What they add is without options: an
/// Ethernet header of 14 bytes, IP's of 20 or 40, and their own.
const TUNNELS: [Tunnel; 8] = [
    Tunnel::seen_into("vxlan", 14 + 20 + 8 + 8),
    Tunnel::seen_into("geneve", 14 + 20 + 8 + 8),
    Tunnel::new("gretap", 14 + 20 + 4),
    Tunnel::new("ip6gretap", 14 + 40 + 4),
    Tunnel::new("erspan", 14 + 20 + 4),
    Tunnel::new("ip6erspan", 14 + 40 + 4),
    // No outer headers, but its own tag and a checksum.
    Tunnel::new("macsec", 8 + 16),
    // A tap that has an address is that of a program, such as a VPN's.
    Tunnel { kind: "tun", adds_bytes: None, is_seen_into: false },
];

/// The outer headers of flows that were counted before they went into a tunnel.
pub(super) fn outer_headers(facts: &Facts, migration: &MigrationFacts<'_>, list: &mut List) {
    let interfaces: BTreeSet<_> = migration.flows.iter().map(|flow| flow.interface.as_str()).collect();
    for interface in interfaces.into_iter().filter_map(|name| facts.interfaces.get(name)) {
        if let Some((device, tunnel)) = tunnel_of(interface) {
            list.push(
                &format!("the outer headers of packets at {}", interface.name),
                why(interface, device, tunnel),
            );
        }
    }
}

/// The tunnel that all frames of an interface go into, and its name.
fn tunnel_of(interface: &Interface) -> Option<(&str, &'static Tunnel)> {
    let own = (interface.name.as_str(), interface.kind.as_deref());
    let below = interface.below.iter().map(|device| (device.name.as_str(), device.kind.as_deref()));
    let mut devices = std::iter::once(own).chain(below);
    devices.find_map(|(name, kind)| Some((name, TUNNELS.iter().find(|tunnel| Some(tunnel.kind) == kind)?)))
}

fn why(interface: &Interface, device: &str, tunnel: &Tunnel) -> String {
    let what = match tunnel.kind {
        "tun" => format!("{device} leads to a program"),
        kind => format!("{device} is a tunnel ({kind})"),
    };
    let through =
        if device == interface.name { what } else { format!("{what}, and its packets go through it") };
    let adds = match tunnel.adds_bytes {
        Some(bytes) => format!("each segment has at least {bytes} bytes more on the wire"),
        None => "what the program makes of each segment is not known".to_owned(),
    };
    let remedy = if tunnel.is_seen_into {
        format!(
            "; to count them, name the interface below it: `--interface NAME --decapsulate {}`",
            tunnel.kind
        )
    } else {
        String::new()
    };
    format!("{through}: the bytes are those inside it, and {adds}{remedy}")
}
