//! Fragments have no ports: they are counted for their pair of addresses.

use super::connection::CLIENT;
use super::shapes::ipv4_with;
use super::*;

#[test]
fn fragments_count_for_their_pair_of_addresses_once_a_watched_flow_has_opened_it() {
    with_default_bench(|bench| {
        let rest = |protocol| {
            BuiltPacket::new([Header::Ethernet, ipv4_with(0, 100), Header::RestOf(protocol)], [0x5a; 300])
        };
        bench.pass(OUT, &rest(TCP));
        assert_eq!(bench.flows(), []);

        bench.adopt(flow(40000, FIRST));
        // The first fragment carries the ports.
        let first =
            BuiltPacket::new([Header::Ethernet, ipv4_with(0, 0x2000), tcp(40000, FIRST)], [0x5a; 800]);
        bench.pass(OUT, &first);
        bench.pass(OUT, &rest(TCP));
        bench.pass(OUT, &rest(TCP));
        bench.pass(OUT, &rest(UDP));
        bench.pass(IN, &rest(TCP));
        let connection = bench.connection().expect("the flow");
        assert_eq!(connection.counters.tx, counters(&[&first]));
        let fragments = bench.fragments().expect("the bucket");
        assert_eq!(fragments.flow, flow(0, 0));
        assert_eq!(fragments.counters.tx, counters(&[&rest(TCP), &rest(TCP)]));
        assert_eq!(fragments.counters.rx, Counters::default());

        let rest_6 = [Header::Ethernet, ipv6(), Header::Fragment { field: 800 }, Header::RestOf(TCP)];
        let rest_6 = BuiltPacket::new(rest_6, [0x5a; 300]);
        bench.pass(OUT, &rest_6);
        assert_eq!(bench.flows().len(), 2, "no flow has opened that bucket");
        bench.adopt(all_ends()[2]);
        let first_6 = BuiltPacket::new(
            [Header::Ethernet, ipv6(), Header::Fragment { field: 1 }, tcp(40000, FIRST)],
            [0x5a; 800],
        );
        bench.pass(OUT, &first_6);
        bench.pass(OUT, &rest_6);
        let flows = bench.flows();
        let bucket = flows.iter().find(|state| state.is_fragments() && state.flow.local.is_ipv6());
        assert_eq!(bucket.expect("the bucket").counters.tx, counters(&[&rest_6]));
    });
}

#[test]
fn a_fragment_seen_at_two_interfaces_is_counted_once() {
    with_default_bench(|bench| {
        bench.adopt(flow(40000, FIRST));
        let rest = BuiltPacket::new([Header::Ethernet, ipv4_with(0, 100), Header::RestOf(TCP)], [0x5a; 300]);
        bench.pass(OUT, &plain(40000, FIRST));
        bench.pass(OUT, &rest);
        bench.pass_at(OUT, &rest, ANOTHER);
        let fragments = bench.fragments().expect("the bucket");
        assert_eq!(fragments.counters.tx, counters(&[&rest]));
        assert_eq!(fragments.elsewhere_skbs, 1);
    });
}

#[test]
fn the_fragments_of_a_new_flow_are_counted_from_zero() {
    with_default_bench(|bench| {
        let rest = BuiltPacket::new([Header::Ethernet, ipv4_with(0, 100), Header::RestOf(TCP)], [0x5a; 300]);
        bench.adopt(flow(CLIENT, FIRST));
        bench.pass(OUT, &rest);
        let old = bench.fragments().expect("the bucket");
        let last = bench.0.retire(old.id()).expect("a program that takes commands").expect("the bucket");
        assert_eq!(last.counters.tx, counters(&[&rest]));
        bench.pass(OUT, &rest);
        assert_eq!(bench.fragments(), None);
        bench.adopt(flow(CLIENT + 1, FIRST));
        bench.0.remove(old.id()).expect("a program that takes commands");
        bench.pass(OUT, &rest);
        let new = bench.fragments().expect("the bucket of the new flow");
        assert!(new.opened_ns > old.opened_ns);
        assert_eq!(new.counters.tx, counters(&[&rest]));
    });
}
