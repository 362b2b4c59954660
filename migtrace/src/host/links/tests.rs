use std::net::IpAddr;

use netlink_packet_core::Emitable as _;
use netlink_packet_core::{NetlinkDeserializable as _, NetlinkHeader};
use netlink_packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

use super::*;
use crate::host::route_netlink::Answer;
use crate::host::testing::{in_new_netns, ip, this_netns};

fn named(links: &[Link], name: &str) -> Link {
    links.iter().find(|link| link.name == name).unwrap_or_else(|| panic!("{name} in {links:?}")).clone()
}

#[test]
fn a_new_namespace_has_its_loopback_alone() {
    in_new_netns(|| {
        let links = list().unwrap();
        assert_eq!(links.len(), 1, "{links:?}");
        assert!(links[0].loopback && links[0].up);
        assert_eq!((links[0].name.as_str(), links[0].index, links[0].mtu), ("lo", 1, 65536));
        assert!(links[0].addresses.contains(&"127.0.0.1".parse().unwrap()));
        assert_eq!((name_of(1).as_deref(), name_of(2)), (Some("lo"), None));
    });
}

#[test]
fn every_property_of_a_stack_of_devices_is_read() {
    in_new_netns(|| {
        ip("link add br0 type bridge");
        ip("link add eth0 mtu 9000 type veth peer name far0");
        ip("link set eth0 master br0");
        ip("address add 192.0.2.1/24 dev br0");
        ip("link add link br0 name mv0 type macvlan mode bridge");
        ip("address add 2001:db8::1/64 dev mv0 nodad");
        ip("link set br0 up");
        ip("tuntap add tun0 mode tun");
        ip("tuntap add vnet0 mode tap");
        ip("address add 198.51.100.1 peer 198.51.100.2 dev tun0");
        let links = list().unwrap();
        let (bridge, port) = (named(&links, "br0"), named(&links, "eth0"));
        assert_eq!(bridge.kind.as_deref(), Some("bridge"));
        assert!(bridge.up && !port.up && !bridge.loopback);
        assert!(bridge.addresses.contains(&"192.0.2.1".parse().unwrap()), "{bridge:?}");
        assert_eq!((port.kind.as_deref(), port.master, port.mtu), (Some("veth"), Some(bridge.index), 9000));
        let child = named(&links, "mv0");
        assert_eq!((child.kind.as_deref(), child.lower), (Some("macvlan"), Some(bridge.index)));
        assert_eq!(child.addresses, ["2001:db8::1".parse::<IpAddr>().unwrap()]);
        assert_eq!((named(&links, "tun0").hardware_type, named(&links, "vnet0").hardware_type), (65534, 1));
        assert_eq!(named(&links, "tun0").addresses, ["198.51.100.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(named(&links, "vnet0").kind.as_deref(), Some("tun"));
    });
}

#[test]
fn a_vlan_is_read_with_its_id_and_the_device_below() {
    // Made up by the library, as not every kernel has VLANs.
    let mut message = LinkMessage::default();
    message.header.index = 7;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.header.flags = LinkFlags::Up;
    message.attributes = vec![
        LinkAttribute::IfName("eth0.100".into()),
        LinkAttribute::Mtu(1500),
        LinkAttribute::Link(2),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(netlink_packet_route::link::InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(100)])),
        ]),
    ];
    let expected = Link {
        name: "eth0.100".into(),
        index: 7,
        kind: Some("vlan".into()),
        hardware_type: 1,
        loopback: false,
        up: true,
        master: None,
        lower: Some(2),
        mtu: 1500,
        vlan_id: Some(100),
        addresses: Vec::new(),
    };
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    let mut header = NetlinkHeader::default();
    header.message_type = libc::RTM_NEWLINK;
    let Ok(Answer::Link(read)) = Answer::deserialize(&header, &bytes) else { panic!("no interface") };
    assert_eq!(Link::from(&read), expected);
}

#[test]
fn a_device_below_in_another_namespace_is_not_mistaken_for_one_of_ours() {
    in_new_netns(|| {
        let elsewhere = this_netns();
        in_new_netns(|| {
            ip("link add eth0 type veth peer name far0");
            let links = list().unwrap();
            assert_eq!(named(&links, "eth0").lower, Some(named(&links, "far0").index));
            ip(&format!("link set far0 netns {elsewhere}"));
            assert_eq!(named(&list().unwrap(), "eth0").lower, None);
        });
    });
}

#[test]
fn the_route_decides_the_interface() {
    in_new_netns(|| {
        for (link, v4, v6) in
            [("eth0", "192.0.2.1/24", "2001:db8:1::1/64"), ("eth1", "198.51.100.1/24", "2001:db8:2::1/64")]
        {
            ip(&format!("link add {link} type veth peer name p-{link}"));
            ip(&format!("link set p-{link} up"));
            ip(&format!("address add {v4} dev {link}"));
            ip(&format!("address add {v6} dev {link} nodad"));
            ip(&format!("link set {link} up"));
        }
        ip("route add blackhole 203.0.113.0/24");
        let links = list().unwrap();
        let route = |remote: &str| route_interface(remote.parse().unwrap());
        for (remote, link) in [
            ("192.0.2.77", "eth0"),
            ("198.51.100.77", "eth1"),
            ("::ffff:198.51.100.77", "eth1"),
            ("2001:db8:1::77", "eth0"),
            ("2001:db8:2::77", "eth1"),
            ("192.0.2.1", "lo"),
        ] {
            assert_eq!(route(remote).unwrap(), named(&links, link).index, "{remote}");
        }
        for remote in ["10.0.0.1", "203.0.113.9", "2001:db8:3::1"] {
            let message = route(remote).unwrap_err().to_string();
            assert!(message.starts_with(&format!("no route to {remote}: ")), "{message}");
        }
    });
}
