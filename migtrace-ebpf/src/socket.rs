//! Ties a flow to the process that uses its socket, from the process' file descriptor.
//!
//! Not who connected counts (libvirt's daemon connects and passes the descriptor on) but who sends, and who
//! accepted. The walk task -> files -> socket needs nothing but the offsets of a few fields.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, bpf_probe_read_kernel};
use migtrace_ebpf::abi::{EGRESS, FlowKey, FlowOwned, Header, SocketOffsets, Sum, kind, lost};

use crate::maps::{self, EVENTS, FLOWS, FOUND, SETTLED, SOCKET_OFFSETS};

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
        tell_owned(key, tgid);
    }
}

/// Tells user space of an owner, and what the sums over its flows lacked until now.
#[inline(always)]
fn tell_owned(key: &FlowKey, tgid: u32) {
    // A packet that comes meanwhile is counted and has a later stamp: then it shows that the counters are not of this instant.
    let at_ns = maps::now_ns();
    let Some(mut event) = EVENTS.reserve_untyped::<FlowOwned>(0) else {
        return maps::count_lost(lost::RING_BUFFER);
    };
    let out = event.as_mut_ptr();
    // SAFETY: `out` is the reserved record, large enough for every field.
    unsafe {
        out.write_bytes(0, 1);
        (*out).header = Header { at_ns, kind: kind::FLOW_OWNED, tgid };
        (*out).key = *key;
    }
    for key in [*key, key.reversed()] {
        let Some(flow) = FLOWS.get_ptr(key) else { continue };
        // SAFETY: `flow` points into the map, `out` is as above.
        unsafe {
            (*out).crossed.by_direction[usize::from(key.direction & 1)] = Sum {
                wire_bytes: (*flow).wire_bytes,
                payload_bytes: (*flow).payload_bytes,
                segments: (*flow).segments,
                skbs: (*flow).skbs,
            };
            (*out).last_ns = (*out).last_ns.max((*flow).last_ns);
        }
    }
    event.submit(0);
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
