//! Packets that cross more than one interface of this host, with VLAN tags or without.

use super::shapes::ipv4_with;
use super::*;

#[test]
fn a_packet_seen_at_two_interfaces_is_counted_once() {
    with_default_bench(|bench| {
        bench.adopt(flow(40000, FIRST));
        let packet = plain(40000, FIRST);
        bench.pass_at(OUT, &packet, ANOTHER);
        bench.pass_at(OUT, &packet, INTERFACE);
        bench.pass_at(OUT, &packet, ANOTHER);
        bench.pass_at(OUT, &packet, INTERFACE);
        let state = bench.only_flow();
        assert_eq!(state.first.expect("packets").ifindex, ANOTHER);
        assert_eq!(state.counters.tx, counters(&[&packet, &packet]));
        assert_eq!(state.elsewhere_skbs, 2);
    });
}

#[test]
fn tagged_frames_are_left_to_the_vlan_device_where_there_is_one() {
    with_default_bench(|bench| {
        bench.adopt(flow(40000, FIRST));
        bench.adopt(flow(40001, FIRST));
        bench.0.leave_tagged(ANOTHER).expect("a map that can be written");
        let tagged = |fragment, last| {
            BuiltPacket::new(
                [Header::Ethernet, Header::Tag(0x8100), ipv4_with(0, fragment), last],
                [0x5a; 100],
            )
        };
        bench.pass_at(OUT, &tagged(0, tcp(40000, FIRST)), ANOTHER);
        assert_eq!(bench.flows(), []);
        let untagged = plain(40000, FIRST);
        bench.pass_at(OUT, &untagged, ANOTHER);
        bench.pass_at(OUT, &tagged(100, Header::RestOf(TCP)), ANOTHER);
        let state = bench.only_flow();
        assert_eq!(state.counters.tx, counters(&[&untagged]));
        assert_eq!(state.elsewhere_skbs, 0);
        // The other interface has no VLAN device.
        let other = tagged(0, tcp(40001, FIRST));
        bench.pass_at(OUT, &other, INTERFACE);
        assert_eq!(bench.flows().len(), 2);
    });
}

#[test]
fn a_flow_older_than_the_vlan_device_is_still_counted_where_it_was() {
    with_default_bench(|bench| {
        bench.adopt(flow(40000, FIRST));
        let headers = [Header::Ethernet, Header::Tag(0x8100), ipv4(), tcp(40000, FIRST)];
        let (tagged, untagged) = (BuiltPacket::new(headers, [0x5a; 100]), plain(40000, FIRST));
        bench.pass_at(OUT, &tagged, ANOTHER);
        bench.0.leave_tagged(ANOTHER).expect("a map that can be written");
        bench.pass_at(OUT, &untagged, INTERFACE);
        bench.pass_at(OUT, &tagged, ANOTHER);
        let state = bench.only_flow();
        assert_eq!(state.counters.tx, counters(&[&tagged, &tagged]));
        assert_eq!(state.elsewhere_skbs, 1);
    });
}

#[test]
fn the_tags_that_frames_get_below_an_interface_are_counted() {
    with_default_bench(|bench| {
        bench.0.add_tags(ANOTHER, 8).expect("a map that can be written");
        bench.adopt(flow(40000, FIRST));
        let large = BuiltPacket { payload: vec![0; 2896], ..plain(40000, FIRST) }.cut_at(1448);
        bench.pass_at(OUT, &large, ANOTHER);
        let without = counters(&[&large]);
        let expected = Counters { wire_bytes: without.wire_bytes + 2 * 8, ..without };
        assert_eq!(bench.only_flow().counters.tx, expected);
    });
}
