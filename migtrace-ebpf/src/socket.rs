//! Ties a flow to the process that uses its socket, from the process' file descriptor.
//!
//! Not who connected counts (libvirt's daemon connects and passes the descriptor on) but who sends, and who
//! accepted. The walk task -> files -> socket needs nothing but the offsets of a few fields.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, bpf_probe_read_kernel};
use migtrace_ebpf::abi::{EGRESS, FlowEvent, FlowKey, Header, SocketOffsets, kind, lost};

use crate::maps::{self, FLOWS, FOUND, SETTLED, SOCKET_OFFSETS};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Whether some flow may still want an owner.
#[inline(always)]
pub(crate) fn wanted() -> bool {
    match (FOUND.get(0), SETTLED.get(0)) {
        (Some(found), Some(settled)) => found != settled,
        _ => false,
    }
}

/// Gives the flow behind descriptor `fd` of the current process to that process.
#[inline(always)]
pub(crate) fn tie(fd: u32) {
    let offsets = SOCKET_OFFSETS.load();
    if offsets.task_files == 0 {
        return;
    }
    if let Some(key) = flow_of(fd, &offsets) {
        own(&key);
    }
}

#[inline(always)]
fn own(key: &FlowKey) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let mut fresh = false;
    for key in [*key, key.reversed()] {
        if let Some(flow) = FLOWS.get_ptr_mut(key) {
            // SAFETY: `flow` points into the map.
            fresh |= unsafe { (*flow).owner } != tgid;
            // SAFETY: as above.
            unsafe { (*flow).owner = tgid };
        }
    }
    if fresh {
        maps::emit(FlowEvent {
            header: Header { at_ns: maps::now_ns(), kind: kind::FLOW_OWNED, tgid },
            key: *key,
            ifindex: 0,
            flags: 0,
            first_payload: 0,
            padding: 0,
        });
    }
}

/// The outgoing direction of the TCP connection behind a descriptor of the current task.
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

/// The outgoing direction of the TCP connection of a `struct sock`.
#[inline(always)]
pub(crate) fn key_of(sock: u64, offsets: &SocketOffsets) -> Option<FlowKey> {
    let family: u16 = field(sock, offsets.family)?;
    let (source, destination) = match family {
        AF_INET => (mapped(field(sock, offsets.rcv_saddr)?), mapped(field(sock, offsets.daddr)?)),
        AF_INET6 => (field(sock, offsets.v6_rcv_saddr)?, field(sock, offsets.v6_daddr)?),
        _ => return None,
    };
    Some(FlowKey {
        source,
        destination,
        source_port: field(sock, offsets.num)?,
        destination_port: u16::from_be(field(sock, offsets.dport)?),
        direction: EGRESS,
        padding: [0; 3],
    })
}

#[inline(always)]
fn mapped(address: u32) -> [u32; 4] {
    [0, 0, 0xffff_u32.to_be(), address]
}

#[inline(always)]
fn field<T>(base: u64, offset: u32) -> Option<T> {
    if base == 0 {
        return None;
    }
    let address = base.wrapping_add(u64::from(offset)) as *const T;
    // SAFETY: the helper checks the address and fails where nothing is mapped.
    let value = unsafe { bpf_probe_read_kernel(address) };
    if value.is_err() {
        maps::count_lost(lost::PROBES);
    }
    value.ok()
}
