//! What makes an entry of the flow table, what does not, and how its place becomes free again.

use std::net::{TcpListener, TcpStream};

use migtrace_ebpf::abi::{Claim, FlowKey};

use super::*;
use crate::kernel::flows::flow_of;
use crate::kernel::{Opened, maps};

const CLIENT: u16 = 40000;
const CLIENT_FIRST: u32 = 0xffff_fff0;
const SERVER_FIRST: u32 = 7_000;

/// Offsets in a frame of the commonest shape.
const SEQUENCE: usize = IP_END + 4;
const ACKNOWLEDGEMENT: usize = IP_END + 8;

const LOOPBACK: [u8; 4] = [127, 0, 0, 1];

/// One end of a connection.
type End = ([u8; 4], u16);

/// A packet, as bytes.
fn segment(from: End, to: End, flags: u8, sequence: u32, acknowledgement: u32, payload: usize) -> Vec<u8> {
    let headers = [
        Header::Ethernet,
        Header::Ipv4 { source: from.0, destination: to.0, option_words: 0, fragment: 0 },
        Header::Tcp { source_port: from.1, destination_port: to.1, flags, option_words: 3 },
    ];
    let mut bytes = BuiltPacket::new(headers, vec![0x5a; payload]).bytes();
    bytes[SEQUENCE..SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
    bytes[ACKNOWLEDGEMENT..ACKNOWLEDGEMENT + 4].copy_from_slice(&acknowledgement.to_be_bytes());
    bytes
}

/// A connection as one of its ends sees it.
#[derive(Clone, Copy)]
struct Connection {
    client: End,
    server: End,
    client_first: u32,
    /// Whether this is the client's host.
    is_client: bool,
}

impl Connection {
    fn at_client() -> Self {
        Self {
            client: (SOURCE, CLIENT),
            server: (DESTINATION, FIRST),
            client_first: CLIENT_FIRST,
            is_client: true,
        }
    }

    fn at_server() -> Self {
        Self { is_client: false, ..Self::at_client() }
    }

    fn flow(self) -> Flow {
        let (local, remote) =
            if self.is_client { (self.client, self.server) } else { (self.server, self.client) };
        Flow { local: local.into(), remote: remote.into() }
    }

    fn client_sends(self, bench: &Bench, flags: u8, ahead: u32, acknowledgement: u32, payload: usize) -> u64 {
        let sequence = self.client_first.wrapping_add(ahead);
        let bytes = segment(self.client, self.server, flags, sequence, acknowledgement, payload);
        bench.run(if self.is_client { OUT } else { IN }, &bytes, INTERFACE, 0);
        bytes.len() as u64
    }

    fn server_sends(self, bench: &Bench, flags: u8, ahead: u32, acknowledgement: u32, payload: usize) -> u64 {
        let bytes = segment(self.server, self.client, flags, SERVER_FIRST + ahead, acknowledgement, payload);
        bench.run(if self.is_client { IN } else { OUT }, &bytes, INTERFACE, 0);
        bytes.len() as u64
    }

    /// The three packets; returns the wire bytes of the client's and of the server's.
    fn shake_hands(self, bench: &Bench) -> (u64, u64) {
        let syn = self.client_sends(bench, SYN, 0, 0, 0);
        let answer = self.server_sends(bench, SYN | ACK, 0, self.client_first.wrapping_add(1), 0);
        (syn + self.client_sends(bench, ACK, 1, SERVER_FIRST + 1, 0), answer)
    }
}

/// Somebody listens on both ports, so that there is a socket for either end.
fn listeners() -> [TcpListener; 2] {
    [CLIENT, FIRST].map(|port| TcpListener::bind(("::", port)).expect("a free port"))
}

#[test]
fn a_handshake_opens_a_flow_at_either_end_with_its_first_packet() {
    for connection in [Connection::at_client(), Connection::at_server()] {
        with_default_kernel(|bench| {
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
            let said = bench.said();
            let [Body::FlowSeen { flow, first }, Body::FlowPayload { .. }] = said[..] else {
                panic!("{said:?}")
            };
            assert_eq!((flow, Some(first)), (state.opened(), state.first));
            assert_eq!(first.ifindex, INTERFACE);
            assert!(first.at_ns < state.opened_ns, "the SYN came before the entry");
            assert_eq!((bench.lost(), bench.strays()), (Lost::default(), 0));
        });
    }
}

#[test]
fn copies_of_a_handshakes_packets_count_and_what_crosses_two_interfaces_does_not_count_twice() {
    with_default_kernel(|bench| {
        let _listeners = listeners();
        let connection = Connection::at_client();
        let syn = segment(connection.client, connection.server, SYN, CLIENT_FIRST, 0, 0);
        for ifindex in [INTERFACE, ANOTHER, INTERFACE, ANOTHER] {
            bench.run(OUT, &syn, ifindex, 0);
        }
        connection.server_sends(bench, SYN | ACK, 0, CLIENT_FIRST.wrapping_add(1), 0);
        // The third packet is lost before it comes here, and what follows it is not.
        connection.client_sends(bench, ACK, 1001, SERVER_FIRST + 1, 100);
        let state = bench.only_flow();
        assert_eq!(state.counters.tx.skbs, 3);
        assert_eq!(state.counters.tx.wire_bytes, 3 * syn.len() as u64 + 100);
    });
}

#[test]
fn nothing_but_a_completed_handshake_opens_a_flow() {
    with_default_kernel(|bench| {
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
        assert_eq!(bench.said(), []);
        ours.client_sends(bench, ACK, 1, SERVER_FIRST + 1, 0);
        assert_eq!(bench.flows().len(), 1, "and that one does");
    });
}

#[test]
fn what_connects_from_a_watched_port_to_another_is_no_migration() {
    // A disk over NBD, Ceph or iSCSI: the kernel gave the client a port of the range.
    with_default_kernel(|bench| {
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
        assert_eq!(bench.said(), []);
    });
}

#[test]
fn a_connection_of_others_that_only_passes_through_is_none() {
    with_default_kernel(|bench| {
        Connection::at_client().shake_hands(bench);
        assert_eq!((bench.flows(), bench.strays()), (vec![], 1));
    });
    // In a tunnel it may be this host's, whose socket is in another network namespace.
    with_kernel(&both_tunnels(), |bench| {
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
fn six_thousand_strangers_leave_the_table_empty() {
    with_default_kernel(|bench| {
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
        assert_eq!((bench.lost(), bench.said()), (Lost::default(), vec![]));
        Connection::at_server().shake_hands(bench);
        assert!(bench.only_flow().from_start);
    });
}

#[test]
fn a_new_connection_between_the_same_ends_is_another_flow() {
    with_default_kernel(|bench| {
        let _listeners = listeners();
        let old = Connection::at_server();
        old.shake_hands(bench);
        old.client_sends(bench, FIN | ACK, 1, SERVER_FIRST + 1, 700);
        bench.0.own(old.flow(), 4242).expect("a program that takes commands");
        let before = bench.only_flow();
        assert_eq!(before.owner, Some(4242));
        bench.said();

        let new = Connection { client_first: 5_000_000, ..old };
        new.client_sends(bench, SYN, 0, 0, 0);
        assert_eq!(bench.only_flow(), before, "a SYN alone changes nothing");
        // What is left of the old one is the old one's.
        old.server_sends(bench, ACK, 1, CLIENT_FIRST.wrapping_add(702), 0);
        let before = bench.only_flow();
        assert_eq!(before.counters.tx.skbs, 2);
        new.server_sends(bench, SYN | ACK, 0, 5_000_001, 0);
        new.client_sends(bench, ACK, 1, SERVER_FIRST + 1, 0);
        new.client_sends(bench, ACK, 1, SERVER_FIRST + 1, 500);

        let after = bench.only_flow();
        assert!(after.opened_ns > before.opened_ns && after.from_start && !after.closed);
        assert_eq!(after.owner, None);
        assert_eq!((after.counters.rx.skbs, after.counters.rx.payload_bytes), (3, 500));
        assert_eq!(after.counters.tx.skbs, 1);
        assert_eq!(after.last_byte_ns.rx, Some(after.last_ns), "its stream begins anew");
        let said = bench.said();
        let [Body::FlowReplaced { key, entry }, Body::FlowSeen { flow, .. }, Body::FlowPayload { .. }] =
            &said[..]
        else {
            panic!("{said:?}")
        };
        let last = bench.0.final_state(key, entry);
        assert_eq!(last.counters, before.counters);
        assert_eq!((last.opened(), *flow), (before.opened(), after.opened()));
    });
}

#[test]
fn who_forges_packets_of_an_open_connection_does_not_end_it() {
    with_default_kernel(|bench| {
        let ip = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("iproute2's ip");
        assert!(ip.success());
        let listener = TcpListener::bind((Ipv4Addr::from(LOOPBACK), FIRST)).expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let port = client.local_addr().expect("an address").port();
        let server = listener.accept().expect("the connection");
        let open =
            Connection { client: (LOOPBACK, port), server: (LOOPBACK, FIRST), ..Connection::at_server() };
        open.shake_hands(bench);
        open.client_sends(bench, ACK, 1, SERVER_FIRST + 1, 500);
        let before = bench.only_flow();
        for forged in [SYN, SYN | ACK, RST, FIN | ACK] {
            open.client_sends(bench, forged, 123_456_789, 42, 0);
            open.server_sends(bench, forged, 123_456_789, 42, 0);
        }
        open.client_sends(bench, ACK, 501, SERVER_FIRST + 1, 500);
        open.server_sends(bench, ACK, 1, CLIENT_FIRST.wrapping_add(1001), 10);
        let after = bench.only_flow();
        assert_eq!(after.opened(), before.opened());
        assert!(!after.closed);
        assert_eq!(after.last_byte_ns.tx, Some(after.last_ns));
        assert_eq!(after.counters.rx.payload_bytes, 1000);
        drop((client, server));
    });
}

#[test]
fn a_place_in_the_table_is_free_again_when_its_flow_is_over() {
    // Two connections of one pair of addresses, with one bucket for fragments.
    with_kernel(&Settings { flow_capacity: 3, ..Settings::default() }, |bench| {
        let flows = [40001, 40002, 40003].map(|port| flow(port, FIRST));
        bench.adopt(flows[0]);
        bench.adopt(flows[1]);
        assert!(!bench.0.adopt(flows[2]).expect("a program that takes commands"));
        assert_eq!(bench.lost(), Lost { flows: 1, ..Lost::default() });
        bench.pass(OUT, &plain(40001, FIRST));
        bench.pass(OUT, &plain(40002, FIRST));
        let over = bench.flows()[0].opened();
        let other = Opened { opened_ns: MonotonicNs(over.opened_ns.0 + 1), ..over };
        assert_eq!(bench.0.retire(other).expect("a program that takes commands"), None);
        let last = bench.0.retire(over).expect("a program that takes commands").expect("the flow");
        assert_eq!(last.counters.tx, counters(&[&plain(40001, FIRST)]));
        bench.pass(OUT, &plain(40001, FIRST));
        assert_eq!((bench.only_flow().flow, bench.strays()), (flows[1], 1));
        assert!(!bench.0.adopt(flows[2]).expect("a program that takes commands"), "it is not yet");
        bench.0.remove(over).expect("a program that takes commands");
        bench.adopt(flows[2]);
    });
}

#[test]
fn a_bucket_of_fragments_begins_anew_with_a_new_flow() {
    with_default_kernel(|bench| {
        let rest = BuiltPacket::new([Header::Ethernet, ipv4_with(0, 100), Header::RestOf(TCP)], [0x5a; 300]);
        bench.adopt(flow(CLIENT, FIRST));
        bench.pass(OUT, &rest);
        let old = bench.fragments().expect("the bucket");
        let last = bench.0.retire(old.opened()).expect("a program that takes commands").expect("the bucket");
        assert_eq!(last.counters.tx, counters(&[&rest]));
        bench.pass(OUT, &rest);
        assert_eq!(bench.fragments(), None);
        bench.adopt(flow(CLIENT + 1, FIRST));
        bench.0.remove(old.opened()).expect("a program that takes commands");
        bench.pass(OUT, &rest);
        let new = bench.fragments().expect("the bucket of the new flow");
        assert!(new.opened_ns > old.opened_ns);
        assert_eq!(new.counters.tx, counters(&[&rest]));
    });
}

#[test]
fn a_full_table_is_a_counted_loss_and_the_flows_in_it_go_on() {
    with_kernel(&Settings { flow_capacity: 2, ..Settings::default() }, |bench| {
        let _listeners = listeners();
        let known = Connection::at_server();
        known.shake_hands(bench);
        let other = Connection { client: (SOURCE, CLIENT + 1), ..known };
        other.shake_hands(bench);
        other.client_sends(bench, ACK, 1, SERVER_FIRST + 1, 500);
        assert_eq!(bench.lost(), Lost { flows: 2, ..Lost::default() });
        known.client_sends(bench, ACK, 1, SERVER_FIRST + 1, 500);
        let state = bench.only_flow();
        assert_eq!((state.flow, state.counters.rx.payload_bytes), (known.flow(), 500));
    });
    with_kernel(&Settings { flow_capacity: 1, ..Settings::default() }, |bench| {
        bench.adopt(flow(CLIENT, FIRST));
        assert_eq!(bench.lost(), Lost { flows: 1, ..Lost::default() }, "no room for the fragments");
    });
}

#[test]
fn a_flow_has_one_owner_of_which_user_space_is_told_once() {
    with_default_kernel(|bench| {
        bench.adopt(flow(CLIENT, FIRST));
        bench.pass(OUT, &plain(CLIENT, FIRST));
        bench.said();
        bench.0.own(flow(CLIENT, FIRST), 4242).expect("a program that takes commands");
        bench.0.own(flow(CLIENT, FIRST), 4242).expect("a program that takes commands");
        let said = bench.said();
        let [Body::FlowOwned { flow: opened, pid: 4242, by_user_space: true, crossed }] = said[..] else {
            panic!("{said:?}")
        };
        assert_eq!(opened, bench.only_flow().opened());
        assert_eq!(crossed.counters.tx, counters(&[&plain(CLIENT, FIRST)]));
        assert_eq!(bench.only_flow().owner, Some(4242));
    });
}

#[test]
fn what_a_process_had_whose_id_is_used_again_takes_nothing_from_the_next() {
    const PID: u32 = 4242;
    with_default_kernel(|bench| {
        let listed = |bench: &Bench| {
            let first = Claim { tgid: PID, number: 0 };
            let key = maps::get::<_, FlowKey>(&bench.0.ebpf, "FLOW_CLAIMS", first).expect("the list");
            key.map(|key| flow_of(&key))
        };
        let [old, new] = [CLIENT, CLIENT + 1].map(|port| flow(port, FIRST));
        for flow in [old, new] {
            assert!(bench.0.trace(PID).expect("the table"));
            bench.adopt(flow);
            bench.0.own(flow, PID).expect("a program that takes commands");
            assert_eq!(listed(bench), Some(flow));
            if flow == old {
                bench.0.untrace(PID).expect("the table");
                assert_eq!(listed(bench), None);
            }
        }
        let all = bench.0.flows().expect("the flow table");
        let opened =
            all.iter().map(FlowState::opened).find(|opened| opened.flow == old).expect("the old one");
        bench.0.retire(opened).expect("a program that takes commands").expect("the old one");
        assert_eq!(listed(bench), Some(new));
    });
}
