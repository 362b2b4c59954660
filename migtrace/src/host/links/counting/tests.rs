use super::*;
use crate::host::testing::{in_new_netns, ip};

fn chosen(requested: &[&str]) -> Result<Vec<(String, bool)>, String> {
    let requested: Vec<String> = requested.iter().copied().map(ToOwned::to_owned).collect();
    let points = counting_points(&requested).map_err(|error| error.to_string())?;
    Ok(points.into_iter().map(|point| (point.name, point.skip_tagged)).collect())
}

fn point(name: &str, skip_tagged: bool) -> (String, bool) {
    (name.to_owned(), skip_tagged)
}

fn ethernet(name: &str) {
    ip(&format!("link add {name} type veth peer name p-{name}"));
    up(name);
}

fn up(name: &str) {
    ip(&format!("link set {name} up"));
}

fn address(name: &str, address: &str) {
    ip(&format!("address add {address} dev {name}"));
    up(name);
}

/// `upper` of the given kind with the ports.
fn master(upper: &str, kind: &str, ports: &[&str]) {
    ip(&format!("link add {upper} type {kind}"));
    for port in ports {
        ip(&format!("link set {port} down"));
        ip(&format!("link set {port} master {upper}"));
        up(port);
    }
    up(upper);
}

#[test]
fn a_frame_of_a_vlan_has_its_tags_on_the_wire() {
    let link = |index, kind: Option<&str>, lower, master| Link {
        name: format!("device{index}"),
        index,
        kind: kind.map(Into::into),
        hardware_type: ETHERNET,
        loopback: false,
        up: true,
        master,
        lower,
        mtu: 1500,
        vlan_id: None,
        addresses: Vec::new(),
    };
    let links = [
        link(1, None, None, None),
        link(2, Some("vlan"), Some(1), None),
        // QinQ; its bridge, with a guest; a macvlan of that.
        link(3, Some("vlan"), Some(2), Some(4)),
        link(4, Some("bridge"), None, None),
        link(5, Some("tun"), None, Some(4)),
        link(6, Some("macvlan"), Some(4), None),
        // Its parent is in another network namespace.
        link(7, Some("vlan"), None, None),
    ];
    let bytes: Vec<u32> = links.iter().map(|link| tag_bytes(&links, link)).collect();
    assert_eq!(bytes, [0, 4, 8, 8, 0, 8, 4]);
    let below = |link| below(&links, link).map(|device| device.index).collect::<Vec<_>>();
    assert_eq!(
        links.iter().map(below).collect::<Vec<_>>(),
        [vec![], vec![1], vec![2, 1], vec![3, 2, 1], vec![], vec![4, 3, 2, 1], vec![]]
    );
}

#[test]
fn a_tunnel_is_known_at_it_and_above_it() {
    in_new_netns(|| {
        ethernet("eth0");
        address("eth0", "192.0.2.1/24");
        ip("link add vx0 type vxlan id 7 local 192.0.2.1 remote 192.0.2.2 dstport 4789 dev eth0");
        address("vx0", "198.51.100.1/24");
        ip("link add vx1 type vxlan id 8 local 192.0.2.1 remote 192.0.2.2 dstport 4789 dev eth0");
        ip("tuntap add vnet0 mode tap");
        master("br1", "bridge", &["vx1", "vnet0"]);
        address("br1", "203.0.113.1/24");
        let vxlan = |name: &str| (name.to_owned(), Some("vxlan".to_owned()));
        let points = counting_points(&[]).unwrap().into_iter();
        let known: Vec<_> = points.map(|point| (point.name, point.kind.unwrap(), point.below)).collect();
        assert_eq!(
            known,
            [
                ("eth0".into(), "veth".into(), vec![]),
                ("vx0".into(), "vxlan".into(), vec![]),
                ("br1".into(), "bridge".into(), vec![vxlan("vx1")]),
            ]
        );
    });
}

#[test]
fn a_bridge_is_counted_and_its_ports_are_not() {
    in_new_netns(|| {
        ethernet("eth0");
        ip("tuntap add vnet0 mode tap");
        up("vnet0");
        master("br0", "bridge", &["eth0", "vnet0"]);
        address("br0", "192.0.2.1/24");
        assert_eq!(chosen(&[]).unwrap(), [point("br0", false)]);
        assert_eq!(chosen(&["eth0"]).unwrap(), [point("eth0", false)], "a port alone may be asked for");
        assert_eq!(
            chosen(&["br0", "eth0"]).unwrap_err(),
            "cannot count at both `br0` and `eth0`: `eth0` is below `br0`, so each packet would be counted twice; \
             leave one of them out"
        );
    });
}

#[test]
fn only_a_device_that_is_up_and_has_an_address_is_counted() {
    in_new_netns(|| {
        ethernet("eth0");
        assert_eq!(
            chosen(&[]).unwrap_err(),
            "no interface to count at: lo: it is the loopback device, where each packet is both sent and received, \
             so both ends would be counted as one; p-eth0: it is down; eth0: it has no IP address of its own; \
             name one with --interface"
        );
        address("eth0", "192.0.2.1/24");
        assert_eq!(chosen(&[]).unwrap(), [point("eth0", false)]);
        ip("link set eth0 down");
        assert!(chosen(&[]).is_err());
    });
}

#[test]
fn the_link_local_address_that_every_device_gives_itself_is_no_reason_to_count() {
    in_new_netns(|| {
        ip("tuntap add vnet0 mode tap");
        ip("address add fe80::1/64 dev vnet0 nodad");
        up("vnet0");
        ethernet("eth0");
        ip("address add 2001:db8::1/64 dev eth0 nodad");
        assert_eq!(chosen(&[]).unwrap(), [point("eth0", false)]);
    });
}

#[test]
fn a_macvlan_is_counted_at_its_parent() {
    in_new_netns(|| {
        ethernet("eth0");
        ip("link add link eth0 name mv0 type macvlan mode bridge");
        address("mv0", "192.0.2.1/24");
        assert_eq!(chosen(&[]).unwrap(), [point("mv0", false)]);
        address("eth0", "192.0.2.2/24");
        assert_eq!(chosen(&[]).unwrap(), [point("eth0", false)]);
        assert!(chosen(&["eth0", "mv0"]).unwrap_err().contains("counted twice"));
    });
}

#[test]
fn an_unsuitable_interface_is_refused_with_the_reason() {
    in_new_netns(|| {
        ethernet("eth0");
        ip("tuntap add tun0 mode tun");
        address("tun0", "192.0.2.1/24");
        assert_eq!(
            chosen(&["eth9"]).unwrap_err(),
            "no interface `eth9`; this network namespace has: lo, p-eth0, eth0, tun0"
        );
        assert!(chosen(&["lo"]).unwrap_err().contains("both ends would be counted"));
        assert!(chosen(&["tun0"]).unwrap_err().contains("no Ethernet header"));
        assert!(chosen(&[]).is_err(), "a tun device is not chosen by its address");
        assert_eq!(chosen(&["eth0", "eth0"]).unwrap(), [point("eth0", false)], "named twice, counted once");
    });
}

/// A namespace of made-up devices, for the kinds that not every kernel has.
#[derive(Default)]
struct Stack(Vec<Link>);

impl Stack {
    fn device(mut self, name: &str, kind: Option<&str>) -> Self {
        let index = u32::try_from(self.0.len()).unwrap() + 1;
        self.0.push(Link {
            name: name.into(),
            index,
            kind: kind.map(Into::into),
            hardware_type: ETHERNET,
            loopback: false,
            up: true,
            master: None,
            lower: None,
            mtu: 1500,
            vlan_id: None,
            addresses: Vec::new(),
        });
        self
    }

    fn of(&mut self, name: &str) -> &mut Link {
        self.0.iter_mut().find(|link| link.name == name).unwrap()
    }

    fn vlan(self, name: &str, lower: &str) -> Self {
        let mut stack = self.device(name, Some("vlan"));
        let lower = stack.of(lower).index;
        stack.of(name).lower = Some(lower);
        stack
    }

    fn master(self, name: &str, kind: &str, ports: &[&str]) -> Self {
        let mut stack = self.device(name, Some(kind));
        let master = stack.of(name).index;
        for port in ports {
            stack.of(port).master = Some(master);
        }
        stack
    }

    fn address(mut self, name: &str) -> Self {
        self.of(name).addresses.push("192.0.2.1".parse().unwrap());
        self
    }

    fn chosen(&self, requested: &[&str]) -> Result<Vec<(String, bool)>, String> {
        let requested: Vec<String> = requested.iter().copied().map(ToOwned::to_owned).collect();
        let points = choose(&self.0, &requested).map_err(|error| error.to_string())?;
        Ok(points.into_iter().map(|point| (point.name, point.skip_tagged)).collect())
    }
}

#[test]
fn a_vlan_and_the_device_below_share_the_packets() {
    let stack = Stack::default().device("eth0", None).vlan("eth0.100", "eth0").address("eth0.100");
    assert_eq!(stack.chosen(&[]).unwrap(), [point("eth0.100", false)]);
    let stack = stack.address("eth0");
    assert_eq!(stack.chosen(&[]).unwrap(), [point("eth0", true), point("eth0.100", false)]);
    assert_eq!(stack.chosen(&["eth0"]).unwrap(), [point("eth0", false)], "the VLAN is not counted then");
}

#[test]
fn a_vlan_of_a_vlan_is_tagged_at_both_below() {
    let stack = Stack::default()
        .device("eth0", None)
        .vlan("eth0.10", "eth0")
        .vlan("eth0.10.20", "eth0.10")
        .address("eth0")
        .address("eth0.10.20");
    assert_eq!(stack.chosen(&[]).unwrap(), [point("eth0", true), point("eth0.10.20", false)]);
}

#[test]
fn a_bridge_over_a_vlan_leaves_the_untagged_packets_to_the_device_below() {
    let stack = Stack::default()
        .device("eth0", None)
        .vlan("eth0.100", "eth0")
        .master("br100", "bridge", &["eth0.100"])
        .address("br100")
        .address("eth0");
    assert_eq!(stack.chosen(&[]).unwrap(), [point("eth0", true), point("br100", false)]);
}

#[test]
fn a_vlan_of_a_bond_is_counted_besides_the_bond_and_its_ports_are_not() {
    let stack = Stack::default()
        .device("eno1", None)
        .device("eno2", None)
        .master("bond0", "bond", &["eno1", "eno2"])
        .vlan("bond0.100", "bond0")
        .address("bond0")
        .address("bond0.100")
        .address("eno1");
    assert_eq!(stack.chosen(&[]).unwrap(), [point("bond0", true), point("bond0.100", false)]);
    assert_eq!(
        stack.chosen(&["eno1", "eno2"]).unwrap(),
        [point("eno1", false), point("eno2", false)],
        "the ports of a bond share the packets between them"
    );
    assert!(stack.chosen(&["eno1", "bond0"]).unwrap_err().contains("counted twice"));
    assert_eq!(
        stack.chosen(&["eno1", "bond0.100"]).unwrap(),
        [point("eno1", true), point("bond0.100", false)],
        "the VLAN's packets have its tag at the port"
    );
}

#[test]
fn a_port_of_a_port_is_still_below() {
    let stack = Stack::default()
        .device("eno1", None)
        .master("bond0", "bond", &["eno1"])
        .master("br0", "bridge", &["bond0"])
        .address("br0");
    assert_eq!(stack.chosen(&[]).unwrap(), [point("br0", false)]);
    assert!(stack.chosen(&["br0", "eno1"]).unwrap_err().contains("`eno1` is below `br0`"));
}

#[test]
fn a_member_of_a_vrf_is_counted_and_the_vrf_is_not() {
    let stack = Stack::default()
        .device("eth0", None)
        .master("vrf0", "vrf", &["eth0"])
        .address("eth0")
        .address("vrf0");
    assert_eq!(stack.chosen(&[]).unwrap(), [point("eth0", false)]);
}

#[test]
fn a_ring_of_devices_comes_to_an_end() {
    let mut stack = Stack::default().vlan_ring();
    stack = stack.address("a").address("b");
    assert_eq!(stack.chosen(&[]).unwrap(), [point("a", true), point("b", true)]);
}

impl Stack {
    /// Two devices that each claim to sit on the other, as a namespace's indices can make it seem.
    fn vlan_ring(self) -> Self {
        let mut stack = self.device("a", Some("vlan")).device("b", Some("vlan"));
        (stack.of("a").lower, stack.of("b").lower) = (Some(2), Some(1));
        stack
    }
}
