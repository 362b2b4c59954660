//! How a flow goes on, is replaced, and frees its entry in the table.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use migtrace_ebpf::abi::{Claim, FlowKey};

use super::connection::{CLIENT, CLIENT_FIRST, Connection, SERVER_FIRST, listeners};
use super::*;
use crate::kernel::flows::flow_of;
use crate::kernel::{FlowId, maps};

#[test]
fn a_new_connection_between_the_same_ends_is_a_new_flow() {
    with_default_bench(|bench| {
        let _listeners = listeners();
        let old = Connection::at_server();
        old.shake_hands(bench);
        old.client_sends(bench, FIN | ACK, 1, SERVER_FIRST + 1, 700);
        bench.0.own(old.flow(), 4242).expect("a program that takes commands");
        let before = bench.only_flow();
        assert_eq!(before.owner, Some(4242));
        bench.messages();

        let new = Connection { client_first: 5_000_000, ..old };
        new.client_sends(bench, SYN, 0, 0, 0);
        assert_eq!(bench.only_flow(), before, "a SYN alone changes nothing");
        // A late packet of the old connection still counts for it.
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
        assert_eq!(after.last_byte_ns.rx, Some(after.last_ns), "its stream starts over");
        let messages = bench.messages();
        let [Body::FlowReplaced { key, entry }, Body::FlowSeen { flow, .. }, Body::FlowPayload { .. }] =
            &messages[..]
        else {
            panic!("{messages:?}")
        };
        let last = bench.0.final_state(key, entry);
        assert_eq!(last.counters, before.counters);
        assert_eq!((last.id(), *flow), (before.id(), after.id()));
    });
}

#[test]
fn forged_packets_do_not_end_an_open_connection() {
    with_default_bench(|bench| {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, FIRST)).expect("a free port");
        let client = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
        let port = client.local_addr().expect("an address").port();
        let server = listener.accept().expect("the connection");
        let localhost = Ipv4Addr::LOCALHOST.octets();
        let open =
            Connection { client: (localhost, port), server: (localhost, FIRST), ..Connection::at_server() };
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
        assert_eq!(after.id(), before.id());
        assert!(!after.closed);
        assert_eq!(after.last_byte_ns.tx, Some(after.last_ns));
        assert_eq!(after.counters.rx.payload_bytes, 1000);
        drop((client, server));
    });
}

#[test]
fn the_entry_of_a_retired_flow_can_be_used_again_once_it_is_removed() {
    // Two connections of one pair of addresses, with one bucket for fragments.
    with_bench(&Settings { flow_capacity: 3, ..Settings::default() }, |bench| {
        let flows = [40001, 40002, 40003].map(|port| flow(port, FIRST));
        bench.adopt(flows[0]);
        bench.adopt(flows[1]);
        assert!(!bench.0.adopt(flows[2]).expect("a program that takes commands"));
        assert_eq!(bench.lost(), Lost { flows: 1, ..Lost::default() });
        bench.pass(OUT, &plain(40001, FIRST));
        bench.pass(OUT, &plain(40002, FIRST));
        let over = bench.flows()[0].id();
        let other = FlowId { opened_ns: MonotonicNs(over.opened_ns.0 + 1), ..over };
        assert_eq!(bench.0.retire(other).expect("a program that takes commands"), None);
        let last = bench.0.retire(over).expect("a program that takes commands").expect("the flow");
        assert_eq!(last.counters.tx, counters(&[&plain(40001, FIRST)]));
        bench.pass(OUT, &plain(40001, FIRST));
        assert_eq!((bench.only_flow().flow, bench.strays()), (flows[1], 1));
        assert!(!bench.0.adopt(flows[2]).expect("a program that takes commands"), "its entry is still taken");
        bench.0.remove(over).expect("a program that takes commands");
        bench.adopt(flows[2]);
    });
}

#[test]
fn a_full_table_loses_new_flows_which_are_counted_and_keeps_those_in_it() {
    with_bench(&Settings { flow_capacity: 2, ..Settings::default() }, |bench| {
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
    with_bench(&Settings { flow_capacity: 1, ..Settings::default() }, |bench| {
        bench.adopt(flow(CLIENT, FIRST));
        assert_eq!(bench.lost(), Lost { flows: 1, ..Lost::default() }, "no room for the fragments");
    });
}

#[test]
fn a_retired_flow_takes_nothing_from_the_next_process_with_its_owners_id() {
    const PID: u32 = 4242;
    with_default_bench(|bench| {
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
        let id = all.iter().map(FlowState::id).find(|id| id.flow == old).expect("the old one");
        bench.0.retire(id).expect("a program that takes commands").expect("the old one");
        assert_eq!(listed(bench), Some(new));
    });
}
