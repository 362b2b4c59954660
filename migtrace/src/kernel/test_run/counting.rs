//! What is counted of a flow.

use super::shapes::{all_shapes, in_tunnel};
use super::*;

#[test]
fn every_shape_of_headers_is_counted_as_on_the_wire_in_both_directions() {
    with_bench(&all_tunnels(), |bench| {
        all_ends().into_iter().for_each(|flow| bench.adopt(flow));
        for (name, headers) in all_shapes() {
            let mut passed = Vec::new();
            for (payload, segment_size) in
                [(0, None), (6, None), (700, None), (1448, Some(1448)), (2500, Some(290)), (2500, Some(1))]
            {
                let packet = BuiltPacket::new(headers.clone(), vec![0x5a; payload]);
                passed.push(BuiltPacket { segment_size, ..packet });
            }
            let before = bench.flows();
            for packet in &passed {
                bench.pass(OUT, packet);
                bench.pass(IN, packet);
            }
            let expected = counters(&passed.iter().collect::<Vec<_>>());
            let is_ip = |header: &&Header| matches!(header, Header::Ipv4 { .. } | Header::Ipv6 { .. });
            let innermost = headers.iter().rev().find(is_ip);
            let (source, destination) = if matches!(innermost, Some(Header::Ipv6 { .. })) {
                ((SOURCE_6, 40000).into(), (DESTINATION_6, FIRST).into())
            } else {
                ((SOURCE, 40000).into(), (DESTINATION, FIRST).into())
            };
            // Incoming packets with these addresses belong to another flow than outgoing ones: its local end
            // is the destination.
            let after = bench.flows();
            let grown = |flow: Flow, counters_of: fn(&FlowState) -> Counters| {
                let of = |flows: &[FlowState]| flows.iter().find(|state| state.flow == flow).map(counters_of);
                of(&after).unwrap_or_default().since(&of(&before).unwrap_or_default())
            };
            let sent = grown(Flow { local: source, remote: destination }, |state| state.counters.tx);
            let received = grown(Flow { local: destination, remote: source }, |state| state.counters.rx);
            assert_eq!(sent, expected, "{name}, sent");
            assert_eq!(received, expected, "{name}, received");
            assert_eq!(after.iter().filter(|state| state.is_fragments()).count(), 0, "{name}");
        }
        assert_eq!(bench.lost(), Lost::default());
    });
}

#[test]
fn the_padding_of_a_short_frame_counts_as_wire_bytes_but_not_as_payload() {
    with_default_bench(|bench| {
        bench.adopt(flow_in(FIRST, 40000));
        let bare = Header::Tcp { source_port: 40000, destination_port: FIRST, flags: ACK, option_words: 0 };
        let packet = BuiltPacket::new([Header::Ethernet, ipv4(), bare], []).padded(6);
        bench.pass(IN, &packet);
        let counted = bench.only_flow().counters.rx;
        assert_eq!(counted, counters(&[&packet]));
        assert_eq!((counted.wire_bytes, counted.payload_bytes), (60, 0));
    });
}

#[test]
fn each_packet_adds_to_its_own_direction_of_the_flow() {
    with_default_bench(|bench| {
        bench.adopt(flow(40000, FIRST));
        let (there, back) = (plain(40000, FIRST), reversed(plain(FIRST, 40000)));
        let large = BuiltPacket { payload: vec![0; 2896], ..plain(40000, FIRST) }.cut_at(1448);
        for packet in [&there, &large, &there] {
            bench.pass(OUT, packet);
        }
        bench.pass(IN, &back);
        let state = bench.only_flow();
        assert_eq!(state.flow, flow(40000, FIRST));
        assert_eq!(state.counters.tx, counters(&[&there, &large, &there]));
        assert_eq!(state.counters.rx, counters(&[&back]));
        let first = state.first.expect("packets");
        assert_eq!(first.ifindex, INTERFACE);
        assert!(first.at_ns < state.last_ns);
    });
}

#[test]
fn a_port_of_the_range_is_watched_at_either_end_and_its_neighbours_are_not() {
    with_default_bench(|bench| {
        let pairs = |port| [(40000, port), (port, 40000)];
        for (local, remote) in [FIRST - 1, LAST + 1, 22, 0, 65535].into_iter().flat_map(pairs) {
            bench.adopt(flow(local, remote));
            bench.pass(OUT, &plain(local, remote));
        }
        assert_eq!(bench.flows(), []);
        assert_eq!(bench.messages(), []);
        for (local, remote) in [FIRST, LAST].into_iter().flat_map(pairs) {
            bench.adopt(flow(local, remote));
            bench.pass(OUT, &plain(local, remote));
            assert!(bench.flows().iter().any(|state| state.flow == flow(local, remote)));
        }
        assert_eq!(bench.flows().len(), 4);
    });
}

#[test]
fn all_eight_port_ranges_are_watched() {
    let ports: PortRanges = "1,3,5,7-8,10,12,14,65535".parse().expect("eight ranges");
    let settings = Settings { ports: ports.clone(), ..Settings::default() };
    with_bench(&settings, |bench| {
        for port in (0..=16).chain([65534, 65535]) {
            let before = bench.flows().len();
            bench.adopt(flow(40000, port));
            bench.pass(OUT, &plain(40000, port));
            assert_eq!(bench.flows().len() > before, ports.contains(port), "port {port}");
        }
    });
}

#[test]
fn a_tunnel_is_looked_into_only_when_that_was_asked_for() {
    for asked_for in [None].into_iter().chain(Tunnel::ALL.map(Some)) {
        let settings = Settings::default().tunnels(asked_for.into_iter().collect::<Vec<_>>());
        with_bench(&settings, |bench| {
            all_ends().into_iter().for_each(|flow| bench.adopt(flow));
            for tunnel in Tunnel::ALL {
                for (name, headers) in in_tunnel(tunnel) {
                    let before = bench.flows();
                    bench.pass(OUT, &BuiltPacket::new(headers, [0x5a; 100]));
                    let is_counted = bench.flows() != before;
                    assert_eq!(is_counted, asked_for == Some(tunnel), "{name}, asked for {asked_for:?}");
                }
            }
        });
    }
}
