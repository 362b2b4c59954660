//! The packets of one connection.

use std::net::TcpListener;

use super::*;

pub(super) const CLIENT: u16 = 40000;
/// The first sequence numbers. The client's soon wrap around.
pub(super) const CLIENT_FIRST: u32 = 0xffff_fff0;
pub(super) const SERVER_FIRST: u32 = 7_000;

/// Offsets in a frame of the commonest shape.
const SEQUENCE: usize = IP_END + 4;
const ACKNOWLEDGEMENT: usize = IP_END + 8;

/// One end of a connection.
pub(super) type End = ([u8; 4], u16);

/// A packet of a connection, as bytes.
pub(super) fn segment(
    from: End,
    to: End,
    flags: u8,
    sequence: u32,
    acknowledgement: u32,
    payload: usize,
) -> Vec<u8> {
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
pub(super) struct Connection {
    pub(super) client: End,
    pub(super) server: End,
    pub(super) client_first: u32,
    /// Whether this is the client's host.
    pub(super) is_client: bool,
}

impl Connection {
    pub(super) fn at_client() -> Self {
        Self {
            client: (SOURCE, CLIENT),
            server: (DESTINATION, FIRST),
            client_first: CLIENT_FIRST,
            is_client: true,
        }
    }

    pub(super) fn at_server() -> Self {
        Self { is_client: false, ..Self::at_client() }
    }

    pub(super) fn flow(self) -> Flow {
        let (local, remote) =
            if self.is_client { (self.client, self.server) } else { (self.server, self.client) };
        Flow { local: local.into(), remote: remote.into() }
    }

    pub(super) fn client_sends(
        self,
        bench: &Bench,
        flags: u8,
        ahead: u32,
        acknowledgement: u32,
        payload: usize,
    ) -> u64 {
        let sequence = self.client_first.wrapping_add(ahead);
        let bytes = segment(self.client, self.server, flags, sequence, acknowledgement, payload);
        bench.run(if self.is_client { OUT } else { IN }, &bytes, INTERFACE, 0);
        bytes.len() as u64
    }

    pub(super) fn server_sends(
        self,
        bench: &Bench,
        flags: u8,
        ahead: u32,
        acknowledgement: u32,
        payload: usize,
    ) -> u64 {
        let bytes = segment(self.server, self.client, flags, SERVER_FIRST + ahead, acknowledgement, payload);
        bench.run(if self.is_client { IN } else { OUT }, &bytes, INTERFACE, 0);
        bytes.len() as u64
    }

    /// The three packets of the handshake; returns the wire bytes that the client and the server sent.
    pub(super) fn shake_hands(self, bench: &Bench) -> (u64, u64) {
        let syn = self.client_sends(bench, SYN, 0, 0, 0);
        let answer = self.server_sends(bench, SYN | ACK, 0, self.client_first.wrapping_add(1), 0);
        (syn + self.client_sends(bench, ACK, 1, SERVER_FIRST + 1, 0), answer)
    }
}

/// Listens on both ports, so that there is a socket for either end.
pub(super) fn listeners() -> [TcpListener; 2] {
    [CLIENT, FIRST].map(|port| TcpListener::bind(("::", port)).expect("a free port"))
}
