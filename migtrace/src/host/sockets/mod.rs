//! Which process holds a TCP connection: `sock_diag` gives the socket's inode, `/proc/PID/fd` shows who has it open.

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

/// Any cookie: all bits of both its words are set (`INET_DIAG_NOCOOKIE`).
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// Offsets of the counters in `struct tcp_info` (include/uapi/linux/tcp.h).
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
    // A question about IPv4 also finds an IPv6 socket that carries IPv4.
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

/// The inode in an answer about `flow`. If there is no such connection, the kernel answers with the listener of the port,
/// which has no other end. A closed connection has no inode.
fn open_inode(response: &InetResponse, flow: &Flow) -> Option<u32> {
    let header = &response.header;
    let canonical = |end: SocketAddr| (end.ip().to_canonical(), end.port());
    let same = |found: Flow| {
        canonical(found.local) == canonical(flow.local) && canonical(found.remote) == canonical(flow.remote)
    };
    (header.inode != 0 && same(flow_of(header))).then_some(header.inode)
}

/// The payload that a socket has sent (as far as it was acknowledged) and received; 0 if the kernel does not report it.
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
