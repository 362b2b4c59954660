//! Which packets are stamped so that both hosts can compare their clocks.

use super::connection::{CLIENT_FIRST, Connection, SERVER_FIRST, listeners};
use super::*;
use crate::event::{CrossedBy, Way};

/// What was crossed since the last call, without the stamps, as the client's host would name the ways.
fn crossed(bench: &mut Bench, connection: Connection) -> Vec<(Way, CrossedBy, u64, u64)> {
    let crossed = bench.0.milestones_crossed().into_iter().map(|crossed| {
        let crossing = crossed.crossing;
        let is_up = (crossing.way == Way::Tx) == connection.is_client;
        (if is_up { Way::Tx } else { Way::Rx }, crossing.by, crossing.first, crossing.last)
    });
    crossed.collect()
}

const UP: Way = Way::Tx;
const DOWN: Way = Way::Rx;
const DATA: CrossedBy = CrossedBy::Payload;
const ACKED: CrossedBy = CrossedBy::Acknowledgement;

#[test]
fn both_hosts_stamp_the_same_positions_of_a_connection() {
    for connection in [Connection::at_client(), Connection::at_server()] {
        with_default_bench(|bench| {
            let _listeners = listeners();
            let up = |bench: &Bench, flags, ahead, acked, payload| {
                connection.client_sends(bench, flags, ahead, SERVER_FIRST + acked, payload);
            };
            let down = |bench: &Bench, flags, ahead, acked: u32, payload| {
                connection.server_sends(bench, flags, ahead, CLIENT_FIRST.wrapping_add(acked), payload);
            };
            connection.shake_hands(bench);
            let handshake = [(UP, DATA, 1, 1), (DOWN, DATA, 1, 1), (UP, ACKED, 1, 1)];
            assert_eq!(crossed(bench, connection), handshake);
            up(bench, ACK, 1, 1, 1000);
            up(bench, ACK, 1001, 1, 1000);
            down(bench, ACK, 1, 2001, 0);
            assert_eq!(crossed(bench, connection), [(UP, DATA, 2, 1001), (DOWN, ACKED, 2, 2001)]);
            // What was sent again was crossed before, and a duplicate acknowledgement acknowledges nothing.
            up(bench, ACK, 1001, 1, 1000);
            down(bench, ACK, 1, 2001, 0);
            for ahead in (2001..33_001).step_by(1000) {
                up(bench, ACK, ahead, 1, 1000);
            }
            assert_eq!(crossed(bench, connection), [(UP, DATA, 16384, 17001), (UP, DATA, 32768, 33001)]);
            down(bench, ACK, 1, 33_001, 0);
            assert_eq!(crossed(bench, connection), [(DOWN, ACKED, 16384, 33001)]);
            up(bench, ACK | FIN, 33_001, 1, 0);
            assert_eq!(crossed(bench, connection), [(UP, DATA, 33_001, 33_001), (UP, DATA, 33_002, 33_002)]);
            down(bench, ACK | FIN, 1, 33_002, 0);
            assert_eq!(crossed(bench, connection), [(DOWN, ACKED, 33_002, 33_002), (DOWN, DATA, 2, 2)]);
            up(bench, ACK, 33_002, 2, 0);
            assert_eq!(crossed(bench, connection), [(UP, ACKED, 2, 2)]);
        });
    }
}

#[test]
fn positions_behind_a_hole_are_not_claimed() {
    with_default_bench(|bench| {
        let _listeners = listeners();
        let connection = Connection::at_client();
        connection.shake_hands(bench);
        drop(crossed(bench, connection));
        connection.client_sends(bench, ACK, 20_001, SERVER_FIRST + 1, 1000);
        assert_eq!(crossed(bench, connection), [(UP, DATA, 20_002, 21_001)]);
        // An acknowledgement of what was never sent: somebody has made it up.
        connection.server_sends(bench, ACK, 1, CLIENT_FIRST.wrapping_add(900_000), 0);
        assert_eq!(crossed(bench, connection), []);
        connection.server_sends(bench, ACK, 1, CLIENT_FIRST.wrapping_add(21_001), 0);
        assert_eq!(crossed(bench, connection), [(DOWN, ACKED, 2, 21_001)]);
    });
}

#[test]
fn a_connection_that_was_open_already_has_no_positions() {
    with_default_bench(|bench| {
        let connection = Connection::at_client();
        bench.adopt(connection.flow());
        for ahead in (1..100_001).step_by(1000) {
            connection.client_sends(bench, ACK, ahead, SERVER_FIRST + 1, 1000);
            connection.server_sends(bench, ACK, 1, CLIENT_FIRST.wrapping_add(ahead), 0);
        }
        connection.client_sends(bench, ACK | FIN, 100_001, SERVER_FIRST + 1, 0);
        assert_eq!(crossed(bench, connection), []);
    });
}

#[test]
fn a_handshake_packet_that_was_sent_twice_is_not_stamped() {
    with_default_bench(|bench| {
        let _listeners = listeners();
        let connection = Connection::at_client();
        connection.client_sends(bench, SYN, 0, 0, 0);
        connection.shake_hands(bench);
        assert_eq!(crossed(bench, connection), [(DOWN, DATA, 1, 1), (UP, ACKED, 1, 1)]);
    });
}
