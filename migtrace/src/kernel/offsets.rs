//! Where the programs find what they read of the kernel's structs.
//!
//! Rust emits no CO-RE relocations for eBPF, so user space looks the few offsets up in the kernel's
//! [BTF](super::btf) and hands them over as constants.

use migtrace_ebpf::abi::{OpeningOffsets, RetransmitOffsets, SocketOffsets};

use super::btf::{Btf, BtfError};
use super::instruments::{Need, Types, Unmet};

/// The offsets; all zeros where they are unknown.
#[derive(Clone, Copy, Default)]
pub(super) struct Offsets {
    pub(super) socket: SocketOffsets,
    pub(super) retransmit: RetransmitOffsets,
    pub(super) opening: OpeningOffsets,
    pub(super) task_tgid: u32,
}

impl Offsets {
    /// Those of the running kernel, and the needs that are not met for the lack of any.
    pub(super) fn of(types: &Types) -> (Self, Unmet) {
        let mut unmet = Unmet::default();
        let offsets = Self {
            socket: found(types, socket, Need::SocketOffsets, &mut unmet),
            retransmit: found(types, retransmit, Need::RetransmitOffsets, &mut unmet),
            opening: found(types, opening, Need::OpeningOffsets, &mut unmet),
            task_tgid: found(types, task_tgid, Need::TaskTgid, &mut unmet),
        };
        (offsets, unmet)
    }
}

fn found<T: Default>(
    types: &Types,
    read: impl Fn(&Btf) -> Result<T, BtfError>,
    need: Need,
    unmet: &mut Unmet,
) -> T {
    let mut failed = |error: &BtfError| {
        unmet.push(need, error.to_string());
        T::default()
    };
    match types {
        Ok(btf) => read(btf).unwrap_or_else(|error| failed(&error)),
        Err(error) => failed(error),
    }
}

/// For the way from a file descriptor to its socket.
fn socket(btf: &Btf) -> Result<SocketOffsets, BtfError> {
    Ok(SocketOffsets {
        task_files: btf.offset("task_struct", "files")?,
        files_fdt: btf.offset("files_struct", "fdt")?,
        fdtable_max_fds: btf.offset("fdtable", "max_fds")?,
        fdtable_fd: btf.offset("fdtable", "fd")?,
        file_private_data: btf.offset("file", "private_data")?,
        socket_sk: btf.offset("socket", "sk")?,
        family: btf.offset("sock_common", "skc_family")?,
        daddr: btf.offset("sock_common", "skc_daddr")?,
        rcv_saddr: btf.offset("sock_common", "skc_rcv_saddr")?,
        v6_daddr: btf.offset("sock_common", "skc_v6_daddr")?,
        v6_rcv_saddr: btf.offset("sock_common", "skc_v6_rcv_saddr")?,
        dport: btf.offset("sock_common", "skc_dport")?,
        num: btf.offset("sock_common", "skc_num")?,
    })
}

/// For counting retransmissions.
fn retransmit(btf: &Btf) -> Result<RetransmitOffsets, BtfError> {
    Ok(RetransmitOffsets {
        len: btf.offset("sk_buff", "len")?,
        tcp_gso_segs: btf.offset("sk_buff", "cb")? + btf.offset("tcp_skb_cb", "tcp_gso_segs")?,
        total_retrans: btf.offset("tcp_sock", "total_retrans")?,
        bytes_retrans: btf.offset("tcp_sock", "bytes_retrans")?,
        tracepoint_has_error: u32::from(btf.tracepoint_arguments("tcp_retransmit_skb")? > 2),
    })
}

/// For noting connections that open.
fn opening(btf: &Btf) -> Result<OpeningOffsets, BtfError> {
    Ok(OpeningOffsets {
        net: btf.offset("sock_common", "skc_net")?,
        net_inum: btf.offset("net", "ns")? + btf.offset("ns_common", "inum")?,
        snd_una: btf.offset("tcp_sock", "snd_una")?,
        rcv_nxt: btf.offset("tcp_sock", "rcv_nxt")?,
    })
}

/// Where a task has its thread group's id.
fn task_tgid(btf: &Btf) -> Result<u32, BtfError> {
    btf.offset("task_struct", "tgid")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::btf::is_published;

    #[test]
    fn the_running_kernel_has_every_field_that_the_programs_read() {
        if !is_published() {
            eprintln!("skipped: this kernel has no BTF");
            return;
        }
        let btf = Btf::of_running_kernel().unwrap();
        let socket = socket(&btf).unwrap();
        // skc_daddr and skc_rcv_saddr open struct sock_common on every kernel (include/net/sock.h).
        assert_eq!((socket.daddr, socket.rcv_saddr), (0, 4));
        assert_eq!((socket.dport, socket.num), (12, 14));
        let retransmit = retransmit(&btf).unwrap();
        let opening = opening(&btf).unwrap();
        assert!(opening.net > 0 && opening.net_inum > 0 && opening.snd_una > 0 && opening.rcv_nxt > 0);
        assert!(retransmit.len > 0 && retransmit.total_retrans > 0 && retransmit.bytes_retrans > 0);
    }

    #[test]
    fn a_missing_type_leaves_zeros_and_a_reason() {
        let mut unmet = Unmet::default();
        let types = Err(BtfError::NoType("struct file".into()));
        assert_eq!(found(&types, |_| Ok(1), Need::TaskTgid, &mut unmet), 0);
        assert_eq!(unmet.why(&[Need::TaskTgid]), Some("this kernel's BTF has no struct file"));
    }
}
