//! Finds whether a connection has a socket here, and which process uses it.
//!
//! A flow belongs to the process that sends on its socket or has accepted it, not to the one that connected:
//! libvirt's daemon connects and passes the descriptor on. The process is found from its file descriptor. The walk
//! from task to files to socket needs only the offsets of a few fields.

use aya_ebpf::{
    bindings::{
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as Tuple4,
        bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as Tuple6,
    },
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_task, bpf_probe_read_kernel, bpf_sk_release,
        bpf_skc_lookup_tcp,
    },
    programs::TcContext,
};
use migtrace_ebpf::abi::{FlowKey, SocketOffsets, lost};

use super::{
    maps, ownership,
    settings::{self, SOCKET_OFFSETS},
};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// The states, as bits, in which a socket opens a connection: `TCP_SYN_SENT`, `TCP_SYN_RECV` and
/// `TCP_NEW_SYN_RECV` (include/net/tcp_states.h).
const OPENING: u32 = 1 << 2 | 1 << 3 | 1 << 12;

/// The sizes of the keys by which a socket is looked up: addresses and ports, of IPv4 and of IPv6.
const TUPLE_4: u32 = size_of::<Tuple4>() as u32;
const TUPLE_6: u32 = size_of::<Tuple6>() as u32;

/// Look in the network namespace of the interface (`BPF_F_CURRENT_NETNS`).
const THIS_NETWORK: u64 = -1_i64 as u64;

/// The state (include/net/tcp_states.h) of the socket here that receives the packets of a flow: the connection's own,
/// or else a listening one. `None`: this network namespace has no such socket.
#[inline(always)]
pub(crate) fn state(ctx: &TcContext, key: &FlowKey) -> Option<u32> {
    let skb = ctx.skb.skb.cast();
    let (sport, dport) = (key.remote_port.to_be(), key.local_port.to_be());
    let [a, b, mapped, saddr] = key.remote;
    let socket = if a | b == 0 && mapped == 0xffff_u32.to_be() {
        let mut tuple = Tuple4 { saddr, daddr: key.local[3], sport, dport };
        // SAFETY: the context is valid, and the tuple has the given length.
        unsafe { bpf_skc_lookup_tcp(skb, (&raw mut tuple).cast(), TUPLE_4, THIS_NETWORK, 0) }
    } else {
        let mut tuple = Tuple6 { saddr: key.remote, daddr: key.local, sport, dport };
        // SAFETY: as above.
        unsafe { bpf_skc_lookup_tcp(skb, (&raw mut tuple).cast(), TUPLE_6, THIS_NETWORK, 0) }
    };
    if socket.is_null() {
        return None;
    }
    // SAFETY: the kernel has returned a socket, whose state may be read until it is released.
    let state = unsafe { (*socket).state };
    // SAFETY: it was acquired above.
    unsafe { bpf_sk_release(socket.cast()) };
    Some(state)
}

/// Whether the packet that is about to leave comes from a socket of this machine that opens a connection. What a
/// guest sends belongs to a socket too (of the tap), but that one opens no connection.
#[inline(always)]
pub(crate) fn opens(ctx: &TcContext) -> bool {
    // SAFETY: the kernel passes a valid context, and this field may be read in every TC program.
    let socket = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    // SAFETY: the kernel has given us a socket, which lives as long as the packet.
    !socket.is_null() && OPENING >> (unsafe { (*socket).state } & 31) & 1 != 0
}

/// Gives the flow behind descriptor `fd` of the current process to that process.
#[inline(always)]
pub(crate) fn tie(fd: u32) {
    if let Some(key) = of_descriptor(fd) {
        ownership::own(&key, (bpf_get_current_pid_tgid() >> 32) as u32, 0);
    }
}

/// Whether descriptor `fd` of the current process is a migration's connection, as far as that can be known.
#[inline(always)]
pub(crate) fn is_of_migration(fd: u32) -> bool {
    of_descriptor(fd).is_some_and(|key| settings::is_either_watched(key.local_port, key.remote_port))
}

/// The TCP connection behind a descriptor of the current task, as far as that can be known.
#[inline(always)]
pub(super) fn of_descriptor(fd: u32) -> Option<FlowKey> {
    let offsets = SOCKET_OFFSETS.load();
    if offsets.task_files == 0 { None } else { flow_of(fd, &offsets) }
}

/// The TCP connection behind a descriptor of the current task.
#[inline(always)]
fn flow_of(fd: u32, offsets: &SocketOffsets) -> Option<FlowKey> {
    // SAFETY: the helper has no preconditions.
    let task = unsafe { bpf_get_current_task() };
    let files: u64 = field(task, offsets.task_files)?;
    let fdtable: u64 = field(files, offsets.files_fdt)?;
    let max_fds: u32 = field(fdtable, offsets.fdtable_max_fds)?;
    if fd >= max_fds {
        return None;
    }
    let table: u64 = field(fdtable, offsets.fdtable_fd)?;
    let file: u64 = field(table, fd.checked_mul(8)?)?;
    let socket: u64 = field(file, offsets.file_private_data)?;
    let sock: u64 = field(socket, offsets.socket_sk)?;
    key_of(sock, offsets)
}

/// The TCP connection of a `struct sock`.
#[inline(always)]
pub(crate) fn key_of(sock: u64, offsets: &SocketOffsets) -> Option<FlowKey> {
    let family: u16 = field(sock, offsets.family)?;
    let (local, remote) = match family {
        AF_INET => (mapped(field(sock, offsets.rcv_saddr)?), mapped(field(sock, offsets.daddr)?)),
        AF_INET6 => (field(sock, offsets.v6_rcv_saddr)?, field(sock, offsets.v6_daddr)?),
        _ => return None,
    };
    Some(FlowKey {
        local,
        remote,
        local_port: field(sock, offsets.num)?,
        remote_port: u16::from_be(field(sock, offsets.dport)?),
    })
}

#[inline(always)]
fn mapped(address: u32) -> [u32; 4] {
    [0, 0, 0xffff_u32.to_be(), address]
}

/// A field of a struct of the kernel's. One that cannot be read is counted as lost.
#[inline(always)]
pub(super) fn field<T>(base: u64, offset: u32) -> Option<T> {
    if base == 0 {
        return None;
    }
    let address = base.wrapping_add(u64::from(offset)) as *const T;
    // SAFETY: the helper checks the address and fails where nothing is mapped.
    let value = unsafe { bpf_probe_read_kernel(address) };
    if value.is_err() {
        maps::count_lost(lost::UNREADABLE);
    }
    value.ok()
}
