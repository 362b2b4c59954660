use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use super::*;
use crate::host::testing::{in_new_netns, ip};

fn me() -> u32 {
    std::process::id()
}

fn inode(socket: &impl AsRawFd) -> u32 {
    let target = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
    socket_inode(target.to_str().unwrap()).unwrap()
}

fn flow(socket: &TcpStream) -> Flow {
    Flow { local: socket.local_addr().unwrap(), remote: socket.peer_addr().unwrap() }
}

/// Both ends of a connection to a listener on `listen`, called as `connect`; the listener is still there.
fn connected(listen: &str, connect: &str) -> (TcpListener, TcpStream, TcpStream) {
    let listener = TcpListener::bind(listen).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect(connect.replace(":0", &format!(":{port}"))).unwrap();
    let server = listener.accept().unwrap().0;
    (listener, client, server)
}

/// Who holds the socket of one flow.
fn holder_of(flow: Flow, pids: &[u32]) -> io::Result<Option<Holder>> {
    Ok(holders_of(&[flow], pids)?.pop().map(|(_, holder)| holder))
}

#[test]
fn a_link_names_the_inode() {
    assert_eq!(socket_inode("socket:[4711]"), Some(4711));
    for target in ["pipe:[4711]", "socket:[]", "socket:[x]", "/dev/null", ""] {
        assert_eq!(socket_inode(target), None, "{target}");
    }
}

#[test]
fn each_end_of_a_connection_is_found_by_its_own_side() {
    for (listen, connect) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0")] {
        let (_listener, client, server) = connected(listen, connect);
        let held = |inode| Holder { pid: me(), inode };
        assert_eq!(
            holders_of(&[flow(&server), flow(&client)], &[1, me()]).unwrap(),
            [(flow(&server), held(inode(&server))), (flow(&client), held(inode(&client)))],
            "{listen}"
        );
    }
}

#[test]
fn a_flow_of_ipv4_packets_is_found_on_an_ipv6_socket() {
    // As QEMU listens: one IPv6 socket for both.
    let (_listener, client, server) = connected("[::]:0", "127.0.0.1:0");
    assert!(server.local_addr().unwrap().is_ipv6(), "else this test proves nothing");
    let mapped = flow(&server);
    let wire = Flow { local: client.peer_addr().unwrap(), remote: client.local_addr().unwrap() };
    for flow in [mapped, wire] {
        assert_eq!(holder_of(flow, &[me()]).unwrap().unwrap().inode, inode(&server), "{flow}");
    }
    let port = server.local_addr().unwrap().port();
    let found = connections(&[me()], |candidate| candidate == port).unwrap();
    assert!(
        found.iter().any(|open| open.flow == wire && open.pid == Some(me())),
        "as on the wire: {found:?}"
    );
}

#[test]
fn a_socket_of_another_process_has_no_holder_among_the_candidates() {
    let (_listener, client, _server) = connected("127.0.0.1:0", "127.0.0.1:0");
    assert_eq!(holder_of(flow(&client), &[]).unwrap(), None);
    assert_eq!(holder_of(flow(&client), &[1, u32::MAX]).unwrap(), None);
}

#[test]
fn the_listener_is_not_taken_for_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let never = Flow { local: listener.local_addr().unwrap(), remote: "127.0.0.1:1".parse().unwrap() };
    assert_eq!(holder_of(never, &[me()]).unwrap(), None);
    let port = listener.local_addr().unwrap().port();
    assert_eq!(connections(&[me()], |candidate| candidate == port).unwrap(), []);
}

#[test]
fn a_closed_connection_has_no_holder() {
    let (_listener, client, server) = connected("127.0.0.1:0", "127.0.0.1:0");
    let flow = flow(&client);
    drop(client);
    drop(server);
    assert_eq!(holder_of(flow, &[me()]).unwrap(), None);
}

#[test]
fn connections_in_progress_are_found_by_either_port() {
    let (listener, client, server) = connected("127.0.0.1:0", "127.0.0.1:0");
    let port = listener.local_addr().unwrap().port();
    let found = |pids: &[u32]| connections(pids, |candidate| candidate == port).unwrap();
    (&client).write_all(&[0; 300]).unwrap();
    (&server).read_exact(&mut [0; 300]).unwrap();
    (&server).write_all(&[0; 20]).unwrap();
    (&client).read_exact(&mut [0; 20]).unwrap();
    // An acknowledgement may be late.
    std::thread::sleep(Duration::from_millis(300));
    let open = |socket, pid, is_to_listener, tx, rx| OpenConnection {
        flow: flow(socket),
        pid,
        is_to_listener,
        payload_bytes: Directions { tx, rx },
    };
    let mut expected =
        vec![open(&client, Some(me()), false, 300 + 1, 20), open(&server, Some(me()), true, 20, 300)];
    expected.sort_unstable_by_key(|open| open.flow);
    assert_eq!(found(&[me()]), expected);
    assert!(found(&[1]).iter().all(|open| open.pid.is_none()));
    drop(listener);
    assert!(!found(&[me()]).iter().any(|open| open.is_to_listener));
    assert_eq!(connections(&[me()], |_| false).unwrap(), []);
}

#[test]
fn many_flows_are_looked_up_at_once() {
    let pairs: Vec<_> = (0..20).map(|_| connected("127.0.0.1:0", "127.0.0.1:0")).collect();
    let flows: Vec<Flow> =
        pairs.iter().flat_map(|(_, client, server)| [flow(client), flow(server)]).collect();
    let found: Vec<Flow> = holders_of(&flows, &[me()]).unwrap().into_iter().map(|(flow, _)| flow).collect();
    assert_eq!(found, flows);
}

#[test]
fn a_link_local_connection_is_found_without_its_interface() {
    in_new_netns(|| {
        ip("link add near0 type veth peer name far0");
        for (link, address) in [("near0", "fe80::1"), ("far0", "fe80::2")] {
            ip(&format!("address add {address}/64 dev {link} nodad"));
            ip(&format!("link set {link} up"));
        }
        let near =
            crate::host::links::list().unwrap().iter().find(|link| link.name == "near0").unwrap().index;
        let listener =
            TcpListener::bind(std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 0, 0, near)).unwrap();
        let server_address = listener.local_addr().unwrap();
        let client = TcpStream::connect(server_address).unwrap();
        let _server = listener.accept().unwrap();
        let without = |address: SocketAddr| SocketAddr::new(address.ip(), address.port());
        let wire = Flow {
            local: without(client.local_addr().unwrap()),
            remote: without(client.peer_addr().unwrap()),
        };
        assert_eq!(holder_of(wire, &[me()]).unwrap().unwrap().inode, inode(&client));
    });
}
