//! What opens a flow, and what does not.

use std::net::TcpListener;

use super::connection::{CLIENT, CLIENT_FIRST, Connection, SERVER_FIRST, listeners, segment};
use super::*;

#[test]
fn a_handshake_opens_a_flow_at_either_end_with_its_first_packet() {
    for connection in [Connection::at_client(), Connection::at_server()] {
        with_default_bench(|bench| {
            let _listeners = listeners();
            let (client, server) = connection.shake_hands(bench);
            let data = connection.client_sends(bench, ACK, 1, SERVER_FIRST + 1, 500);
            let state = bench.only_flow();
            assert_eq!(state.flow, connection.flow());
            assert!(state.from_start && !state.closed);
            let of_client = Counters { wire_bytes: client + data, payload_bytes: 500, segments: 3, skbs: 3 };
            let of_server = Counters { wire_bytes: server, payload_bytes: 0, segments: 1, skbs: 1 };
            let Directions { tx, rx } = state.counters;
            assert_eq!(if connection.is_client { (tx, rx) } else { (rx, tx) }, (of_client, of_server));
            let messages = bench.messages();
            let [Body::FlowSeen { flow, first, initial_sequences }, Body::FlowPayload { .. }] = messages[..]
            else {
                panic!("{messages:?}")
            };
            assert_eq!((flow, Some(first)), (state.id(), state.first));
            assert_eq!(Some(initial_sequences), state.initial_sequences);
            let (of_server, of_client) = (SERVER_FIRST, CLIENT_FIRST);
            let [tx, rx] = if connection.is_client { [of_client, of_server] } else { [of_server, of_client] };
            assert_eq!(initial_sequences, Directions { tx, rx });
            assert_eq!(first.ifindex, INTERFACE);
            assert!(first.at_ns < state.opened_ns, "the SYN came before the entry");
            assert_eq!((bench.lost(), bench.strays()), (Lost::default(), 0));
        });
    }
}

#[test]
fn repeated_packets_of_a_handshake_count_each_time_but_at_one_interface_only() {
    with_default_bench(|bench| {
        let _listeners = listeners();
        let connection = Connection::at_client();
        let syn = segment(connection.client, connection.server, SYN, CLIENT_FIRST, 0, 0);
        for ifindex in [INTERFACE, ANOTHER, INTERFACE, ANOTHER] {
            bench.run(OUT, &syn, ifindex, 0);
        }
        connection.server_sends(bench, SYN | ACK, 0, CLIENT_FIRST.wrapping_add(1), 0);
        // The third packet was lost on its way here, the next one was not.
        connection.client_sends(bench, ACK, 1001, SERVER_FIRST + 1, 100);
        let state = bench.only_flow();
        assert_eq!(state.counters.tx.skbs, 3);
        assert_eq!(state.counters.tx.wire_bytes, 3 * syn.len() as u64 + 100);
    });
}

#[test]
fn only_a_complete_handshake_opens_a_flow() {
    with_default_bench(|bench| {
        let _listeners = listeners();
        let ours = Connection::at_server();
        let acknowledged = CLIENT_FIRST.wrapping_add(1);
        ours.client_sends(bench, ACK, 1, SERVER_FIRST + 1, 500);
        ours.client_sends(bench, RST, 1, 0, 0);
        ours.server_sends(bench, SYN | ACK, 0, acknowledged, 0);
        ours.server_sends(bench, ACK, 1, acknowledged, 100);
        assert_eq!(bench.strays(), 4);
        ours.client_sends(bench, SYN, 0, 0, 0);
        ours.client_sends(bench, ACK, 1, SERVER_FIRST + 1, 0);
        ours.server_sends(bench, SYN | ACK, 0, acknowledged, 0);
        ours.client_sends(bench, ACK, 1, SERVER_FIRST - 5, 0);
        ours.client_sends(bench, RST, 1, SERVER_FIRST + 1, 0);
        assert_eq!(bench.flows(), []);
        assert_eq!(bench.strays(), 7);
        assert_eq!(bench.messages(), []);
        ours.client_sends(bench, ACK, 1, SERVER_FIRST + 1, 0);
        assert_eq!(bench.flows().len(), 1, "the right acknowledgement does");
    });
}

#[test]
fn a_connection_from_a_watched_port_to_an_unwatched_one_is_not_counted() {
    // A disk over NBD, Ceph or iSCSI, whose client got a port of the range from the kernel.
    with_default_bench(|bench| {
        let _listeners = [10809, FIRST].map(|port| TcpListener::bind(("::", port)).expect("a free port"));
        for is_client in [true, false] {
            let disk = Connection {
                client: (SOURCE, FIRST),
                server: (DESTINATION, 10809),
                is_client,
                ..Connection::at_client()
            };
            disk.shake_hands(bench);
            disk.server_sends(bench, ACK, 1, CLIENT_FIRST.wrapping_add(1), 500);
            disk.client_sends(bench, ACK, 1, SERVER_FIRST + 501, 500);
        }
        assert_eq!(bench.flows(), []);
        assert_eq!(bench.messages(), []);
    });
}

#[test]
fn a_forwarded_connection_opens_no_flow_unless_it_is_in_a_tunnel() {
    with_default_bench(|bench| {
        Connection::at_client().shake_hands(bench);
        assert_eq!((bench.flows(), bench.strays()), (vec![], 1));
    });
    // In a tunnel it may belong to this host: its socket is in another network namespace.
    with_bench(&all_tunnels(), |bench| {
        let handshake = [(SYN, 0, 0, OUT), (SYN | ACK, 0, 1, IN), (ACK, 1, 1, OUT)];
        for (flags, sequence, acknowledgement, direction) in handshake {
            let ends = [(SOURCE, CLIENT), (DESTINATION, FIRST)];
            let [from, to] = if direction == OUT { ends } else { [ends[1], ends[0]] };
            let outer = BuiltPacket::new(
                [Header::Ethernet, outer_ipv4(), Header::Udp { port: 4789 }, Header::Vxlan],
                segment(from, to, flags, sequence, acknowledgement, 0),
            );
            bench.run(direction, &outer.bytes(), INTERFACE, 0);
        }
        assert_eq!(bench.only_flow().flow, Connection::at_client().flow());
    });
}

#[test]
fn six_thousand_half_open_connections_leave_the_table_empty() {
    with_default_bench(|bench| {
        let _listeners = listeners();
        for number in 0..6000_u16 {
            let [high, low] = number.to_be_bytes();
            let stranger = ([10, 9, high, low], 1024 + number);
            for (flags, sequence) in [(SYN, 9), (ACK, 10), (RST, 10)] {
                bench.run(IN, &segment(stranger, (DESTINATION, FIRST), flags, sequence, 77, 0), INTERFACE, 0);
            }
            let answer = segment((DESTINATION, FIRST), stranger, SYN | ACK, 500, 10, 0);
            bench.run(OUT, &answer, INTERFACE, 0);
        }
        assert_eq!(bench.0.flows().expect("the flow table"), []);
        assert_eq!((bench.lost(), bench.messages()), (Lost::default(), vec![]));
        Connection::at_server().shake_hands(bench);
        assert!(bench.only_flow().from_start);
    });
}
