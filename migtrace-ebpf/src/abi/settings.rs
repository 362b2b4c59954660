//! The forms of constants that user space sets before it loads the programs.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Offsets, in bytes, of the fields that lead from a task's file descriptor to the addresses of its socket.
///
/// User space reads them from the running kernel's BTF. All zero: not known, so no owner is looked for this way.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct SocketOffsets {
    /// `task_struct.files`
    pub task_files: u32,
    /// `files_struct.fdt`
    pub files_fdt: u32,
    /// `fdtable.max_fds`
    pub fdtable_max_fds: u32,
    /// `fdtable.fd`
    pub fdtable_fd: u32,
    /// `file.private_data`
    pub file_private_data: u32,
    /// `socket.sk`
    pub socket_sk: u32,
    /// `sock_common.skc_family`
    pub family: u32,
    /// `sock_common.skc_daddr`
    pub daddr: u32,
    /// `sock_common.skc_rcv_saddr`
    pub rcv_saddr: u32,
    /// `sock_common.skc_v6_daddr`
    pub v6_daddr: u32,
    /// `sock_common.skc_v6_rcv_saddr`
    pub v6_rcv_saddr: u32,
    /// `sock_common.skc_dport`
    pub dport: u32,
    /// `sock_common.skc_num`
    pub num: u32,
}

/// Offsets, in bytes, of the fields that describe a retransmission: of its socket buffer and of its socket. All zero:
/// not known, so retransmissions are not counted.
#[derive(Clone, Copy, Debug, Default, Eq, FromBytes, Immutable, IntoBytes, PartialEq)]
#[repr(C)]
pub struct RetransmitOffsets {
    /// `sk_buff.len`
    pub len: u32,
    /// `sk_buff.cb` + `tcp_skb_cb.tcp_gso_segs`
    pub tcp_gso_segs: u32,
    /// `tcp_sock.total_retrans`
    pub total_retrans: u32,
    /// `tcp_sock.bytes_retrans`
    pub bytes_retrans: u32,
    /// 1 when the tracepoint `tcp_retransmit_skb` passes the error as a third argument (Linux 6.17 and later),
    /// and so fires for failed attempts too.
    pub tracepoint_has_error: u32,
}

/// How many port ranges can be watched.
pub const PORT_RANGES: usize = 8;

/// Packs an inclusive range of TCP ports; 0 is the empty one.
#[must_use]
pub const fn port_range(first: u16, last: u16) -> u32 {
    (first as u32) << 16 | last as u32
}

/// Whether a packed range holds a port.
#[inline(always)]
#[must_use]
pub const fn in_range(range: u32, port: u16) -> bool {
    (range >> 16) as u16 <= port && port <= range as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_holds_its_ends_and_nothing_outside() {
        let range = port_range(49152, 49215);
        assert!(in_range(range, 49152) && in_range(range, 49215));
        assert!(!in_range(range, 49151) && !in_range(range, 49216));
        assert!(in_range(port_range(0, 65535), 0) && in_range(port_range(0, 65535), 65535));
    }
}
