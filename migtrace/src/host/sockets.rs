//! Which process holds a TCP connection: `sock_diag` names the socket's inode, `/proc/PID/fd` who has it open.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, InetResponseHeader, SocketId, StateFlags,
};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, SockDiagMessage};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::netlink::Connection;
use crate::units::{Directions, Flow};

/// "Whatever the cookie": both words of the cookie all ones (`INET_DIAG_NOCOOKIE`).
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Where `struct tcp_info` (include/uapi/linux/tcp.h) has its counters.
const TCP_INFO_BYTES_ACKED: usize = 120;
const TCP_INFO_BYTES_RECEIVED: usize = 128;

/// Who holds a connection's socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Holder {
    /// The process; the lowest id when several of the candidates hold the socket.
    pub(crate) pid: u32,
    /// The socket's inode, as in `/proc/PID/fd`'s `socket:[inode]`.
    pub(crate) inode: u32,
}

/// Those of `flows` that one of the processes `pids` holds, in the order of `flows`.
///
/// A flow is left out when its connection is closed or is another process's. Its addresses may be IPv4 or IPv4-mapped
/// IPv6, whatever the socket itself is. Costs one look-up in the kernel a flow, and one listing a process of its open
/// files; a process whose files may not be listed holds nothing.
///
/// # Errors
/// The netlink socket's.
pub(crate) fn holders_of(flows: &[Flow], pids: &[u32]) -> io::Result<Vec<(Flow, Holder)>> {
    let mut kernel = Connection::open(NETLINK_SOCK_DIAG)?;
    let mut inodes = Vec::new();
    for flow in flows {
        inodes.extend(inode_of(&mut kernel, flow)?.map(|inode| (*flow, inode)));
    }
    if inodes.is_empty() {
        return Ok(Vec::new());
    }
    let holders = holders(pids);
    let owned = inodes.into_iter().filter_map(|(flow, inode)| {
        let pid = *holders.get(&inode)?;
        Some((flow, Holder { pid, inode }))
    });
    Ok(owned.collect())
}

/// An open connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct OpenConnection {
    /// IPv4-mapped addresses are given as IPv4, as they are on the wire.
    pub(crate) flow: Flow,
    /// The process that holds it, if it is one of the candidates.
    pub(crate) pid: Option<u32>,
    /// Whether somebody listens on its local port, so that it may have come to us.
    pub(crate) is_to_listener: bool,
    /// The payload that it has carried so far, as the socket has counted it: who has connected counts its SYN too.
    pub(crate) payload_bytes: Directions<u64>,
}

/// The open connections of this network namespace with either end on a port that `ports` accepts, and which of the
/// processes `pids` hold them.
///
/// # Errors
/// The netlink socket's; `NotFound` when the kernel cannot list TCP sockets.
pub(crate) fn connections(pids: &[u32], ports: impl Fn(u16) -> bool) -> io::Result<Vec<OpenConnection>> {
    let mut kernel = Connection::open(NETLINK_SOCK_DIAG)?;
    let mut listened = HashSet::new();
    let mut found = Vec::new();
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let question = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::INFO,
            states: StateFlags::all() - StateFlags::TIME_WAIT - StateFlags::CLOSE - StateFlags::SYN_RECV,
            socket_id: any,
        });
        let table = kernel.dump(&question).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                io::Error::new(
                    error.kind(),
                    "the kernel cannot list TCP sockets; load its module: modprobe tcp_diag",
                )
            } else {
                io::Error::new(error.kind(), format!("cannot list TCP connections: {error}"))
            }
        })?;
        for entry in table {
            let SockDiagMessage::InetResponse(response) = entry else { continue };
            let flow = flow_of(&response.header);
            if flow.remote.port() == 0 {
                listened.insert(flow.local.port());
            } else if ports(flow.local.port()) || ports(flow.remote.port()) {
                found.push((flow, response.header.inode, payload_of(&response)));
            }
        }
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let holders = holders(pids);
    let open = |(flow, inode, payload_bytes): (Flow, u32, Directions<u64>)| OpenConnection {
        flow,
        pid: holders.get(&inode).copied(),
        is_to_listener: listened.contains(&flow.local.port()),
        payload_bytes,
    };
    let mut found: Vec<OpenConnection> = found.into_iter().map(open).collect();
    found.sort_unstable_by_key(|open| open.flow);
    Ok(found)
}

/// Whether there is a socket with exactly these two ends that some process has open.
///
/// # Errors
/// The netlink socket's.
pub(crate) fn is_there(flow: &Flow) -> io::Result<bool> {
    Ok(inode_of(&mut Connection::open(NETLINK_SOCK_DIAG)?, flow)?.is_some())
}

/// The inode of the socket with exactly these two ends.
fn inode_of(kernel: &mut Connection, flow: &Flow) -> io::Result<Option<u32>> {
    let (local, remote) = (flow.local.ip().to_canonical(), flow.remote.ip().to_canonical());
    // An IPv4 question also finds an IPv6 socket that speaks IPv4.
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    for interface_id in interfaces_of(flow)? {
        let question = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id: SocketId {
                source_port: flow.local.port(),
                destination_port: flow.remote.port(),
                source_address: local,
                destination_address: remote,
                interface_id,
                cookie: NO_COOKIE,
            },
        });
        match kernel.ask(question) {
            Ok(SockDiagMessage::InetResponse(response)) => {
                if let Some(inode) = open_inode(&response, flow) {
                    return Ok(Some(inode));
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("cannot look up the socket of {flow}: {error}"),
                ));
            }
        }
    }
    Ok(None)
}

/// The interfaces at which to look for a flow's socket: 0 finds those that are bound to none. A socket with a
/// link-local peer is always bound to its interface, which packets alone do not tell.
fn interfaces_of(flow: &Flow) -> io::Result<Vec<u32>> {
    let link_local = |address: &SocketAddr| match address {
        SocketAddr::V6(address) => address.ip().is_unicast_link_local().then_some(address.scope_id()),
        SocketAddr::V4(_) => None,
    };
    match link_local(&flow.local).max(link_local(&flow.remote)) {
        None => Ok(vec![0]),
        Some(0) => Ok(super::links::list()?.iter().map(|link| link.index).collect()),
        Some(scope) => Ok(vec![scope]),
    }
}

/// The inode of an answer about `flow`. Where there is no such connection the kernel answers with the listener of the
/// port, which has no other end; and a connection that is closed has no inode.
fn open_inode(response: &InetResponse, flow: &Flow) -> Option<u32> {
    let header = &response.header;
    let canonical = |end: SocketAddr| (end.ip().to_canonical(), end.port());
    let same = |found: Flow| {
        canonical(found.local) == canonical(flow.local) && canonical(found.remote) == canonical(flow.remote)
    };
    (header.inode != 0 && same(flow_of(header))).then_some(header.inode)
}

/// What a socket says that it has sent, and had acknowledged, and received; nothing if the kernel does not say.
fn payload_of(response: &InetResponse) -> Directions<u64> {
    let info = response
        .nlas
        .iter()
        .find_map(|nla| if let Nla::TcpInfo(bytes) = nla { Some(&bytes[..]) } else { None });
    let word = |offset: usize| info?.get(offset..)?.first_chunk().copied().map(u64::from_ne_bytes);
    Directions { tx: word(TCP_INFO_BYTES_ACKED).unwrap_or(0), rx: word(TCP_INFO_BYTES_RECEIVED).unwrap_or(0) }
}

fn flow_of(header: &InetResponseHeader) -> Flow {
    let id = &header.socket_id;
    let end = |address: IpAddr, port| SocketAddr::new(unmapped(address), port);
    Flow {
        local: end(id.source_address, id.source_port),
        remote: end(id.destination_address, id.destination_port),
    }
}

fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) if address != Ipv6Addr::UNSPECIFIED => IpAddr::V6(address).to_canonical(),
        other => other,
    }
}

/// The open sockets of the given processes, by inode.
fn holders(pids: &[u32]) -> HashMap<u32, u32> {
    let mut pids = pids.to_vec();
    pids.sort_unstable();
    let mut holders = HashMap::new();
    for pid in pids {
        // Ended, or not ours to look into.
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for file in files.flatten() {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            if let Some(inode) = target.to_str().and_then(socket_inode) {
                holders.entry(inode).or_insert(pid);
            }
        }
    }
    holders
}

fn socket_inode(target: &str) -> Option<u32> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
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

    /// The owner of one flow.
    fn holder_of(flow: Flow, pids: &[u32]) -> io::Result<Option<Holder>> {
        Ok(holders_of(&[flow], pids)?.pop().map(|(_, owner)| owner))
    }

    #[test]
    fn the_inode_in_a_link() {
        assert_eq!(socket_inode("socket:[4711]"), Some(4711));
        for target in ["pipe:[4711]", "socket:[]", "socket:[x]", "/dev/null", ""] {
            assert_eq!(socket_inode(target), None, "{target}");
        }
    }

    #[test]
    fn each_end_of_a_connection_is_found_by_its_own_side() {
        for (listen, connect) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0")] {
            let (_listener, client, server) = connected(listen, connect);
            let owned = |inode| Holder { pid: me(), inode };
            assert_eq!(
                holders_of(&[flow(&server), flow(&client)], &[1, me()]).unwrap(),
                [(flow(&server), owned(inode(&server))), (flow(&client), owned(inode(&client)))],
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
    fn a_socket_of_another_process_has_no_owner_among_the_candidates() {
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
    fn a_closed_connection_has_no_owner() {
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
    fn many_flows_at_once() {
        let pairs: Vec<_> = (0..20).map(|_| connected("127.0.0.1:0", "127.0.0.1:0")).collect();
        let flows: Vec<Flow> =
            pairs.iter().flat_map(|(_, client, server)| [flow(client), flow(server)]).collect();
        let found: Vec<Flow> =
            holders_of(&flows, &[me()]).unwrap().into_iter().map(|(flow, _)| flow).collect();
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
                super::super::links::list().unwrap().iter().find(|link| link.name == "near0").unwrap().index;
            let listener =
                TcpListener::bind(std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), 0, 0, near))
                    .unwrap();
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
}
