//! Which process holds a TCP connection: `sock_diag` gives the socket's inode, `/proc/PID/fd` shows who has it open.

mod counts;
mod duplicates;
#[cfg(test)]
mod tests;

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
pub(crate) use counts::{OneWay, SocketCounts};
pub(crate) use duplicates::duplicates;

/// Any cookie: all bits of both its words are set (`INET_DIAG_NOCOOKIE`).
const NO_COOKIE: [u8; 8] = [0xff; 8];

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
/// A flow is left out when its connection is closed or belongs to another process. Its addresses may be IPv4 or IPv4-mapped
/// IPv6, whatever the socket itself is. This costs one look-up in the kernel per flow, and one listing of open files per
/// process. A process whose files may not be listed counts as holding nothing.
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
    /// Its ends. IPv4-mapped addresses are given as IPv4, as they are on the wire.
    pub(crate) flow: Flow,
    /// The process that holds it, if it is one of the candidates.
    pub(crate) pid: Option<u32>,
    /// Whether somebody listens on its local port, so that the other end may have opened it.
    pub(crate) is_to_listener: bool,
    /// The payload that it has carried so far, by the socket's own count. The end that has connected also counts its SYN.
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
        let states = StateFlags::all() - StateFlags::TIME_WAIT - StateFlags::CLOSE - StateFlags::SYN_RECV;
        for response in list(&mut kernel, family, any, states)? {
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

/// Whether one of the processes `pids` listens on a port that `ports` accepts.
///
/// # Errors
/// As [`connections`].
pub(crate) fn is_any_listening(pids: &[u32], ports: impl Fn(u16) -> bool) -> io::Result<bool> {
    let mut kernel = Connection::open(NETLINK_SOCK_DIAG)?;
    let mut inodes = Vec::new();
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        let listeners = list(&mut kernel, family, any, StateFlags::LISTEN)?;
        let watched = listeners.iter().filter(|response| ports(response.header.socket_id.source_port));
        inodes.extend(watched.map(|response| response.header.inode));
    }
    if inodes.is_empty() {
        return Ok(false);
    }
    let holders = holders(pids);
    Ok(inodes.iter().any(|inode| holders.contains_key(inode)))
}

/// The TCP sockets of a family in these states.
fn list(
    kernel: &mut Connection,
    family: u8,
    any: SocketId,
    states: StateFlags,
) -> io::Result<Vec<InetResponse>> {
    let question = SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::INFO,
        states,
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
    let response = |entry| match entry {
        SockDiagMessage::InetResponse(response) => Some(*response),
        _ => None,
    };
    Ok(table.into_iter().filter_map(response).collect())
}

/// Whether there is a socket with exactly these two ends that some process has open.
///
/// # Errors
/// The netlink socket's.
pub(crate) fn is_there(flow: &Flow) -> io::Result<bool> {
    Ok(inode_of(&mut Connection::open(NETLINK_SOCK_DIAG)?, flow)?.is_some())
}

/// What the socket with exactly these two ends has counted so far; `None` when there is none.
///
/// # Errors
/// The netlink socket's.
pub(crate) fn counts_of(flow: &Flow) -> io::Result<Option<SocketCounts>> {
    let found = ask_about(&mut Connection::open(NETLINK_SOCK_DIAG)?, flow, ExtensionFlags::INFO)?;
    Ok(found.and_then(|response| SocketCounts::of(info_of(&response)?)))
}

/// The inode of the socket with exactly these two ends.
fn inode_of(kernel: &mut Connection, flow: &Flow) -> io::Result<Option<u32>> {
    Ok(ask_about(kernel, flow, ExtensionFlags::empty())?.map(|response| response.header.inode))
}

/// What the kernel says of the socket with exactly these two ends.
fn ask_about(
    kernel: &mut Connection,
    flow: &Flow,
    extensions: ExtensionFlags,
) -> io::Result<Option<InetResponse>> {
    let (local, remote) = (flow.local.ip().to_canonical(), flow.remote.ip().to_canonical());
    // A question about IPv4 also finds an IPv6 socket that carries IPv4.
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    for interface_id in interfaces_of(flow)? {
        let question = SockDiagMessage::InetRequest(InetRequest {
            family,
            protocol: IPPROTO_TCP,
            extensions: extensions.clone(),
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
                if is_open_socket(&response, flow) {
                    return Ok(Some(*response));
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

/// The interfaces at which to look for a flow's socket: 0 finds those that are bound to no interface. A socket with a
/// link-local peer is always bound to its interface, which cannot be seen from packets alone.
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

/// Whether an answer is about `flow`. If there is no such connection, the kernel answers with the listener of the port,
/// which has no other end. A closed connection has no inode.
fn is_open_socket(response: &InetResponse, flow: &Flow) -> bool {
    let header = &response.header;
    let canonical = |end: SocketAddr| (end.ip().to_canonical(), end.port());
    let same = |found: Flow| {
        canonical(found.local) == canonical(flow.local) && canonical(found.remote) == canonical(flow.remote)
    };
    header.inode != 0 && same(flow_of(header))
}

/// The bytes of `struct tcp_info`, if the kernel has reported them.
fn info_of(response: &InetResponse) -> Option<&[u8]> {
    response.nlas.iter().find_map(|nla| if let Nla::TcpInfo(bytes) = nla { Some(&bytes[..]) } else { None })
}

/// The payload that a socket has sent (as far as it was acknowledged) and received; 0 if the kernel does not report it.
fn payload_of(response: &InetResponse) -> Directions<u64> {
    info_of(response).map(counts::acknowledged_and_received).unwrap_or_default()
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
        // It has ended, or may not be examined.
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
