//! The constants that user space sets before it loads the programs.

use aya_ebpf::Global;
use migtrace_ebpf::abi;

/// For how many echo sessions there is room: at most [`abi::ECHO_SESSIONS`].
#[unsafe(no_mangle)]
pub(crate) static ECHO_LIMIT: Global<u32> = Global::new(abi::ECHO_SESSIONS);

/// Silences that certainly were shorter than this, in nanoseconds, are ignored.
#[unsafe(no_mangle)]
pub(crate) static ECHO_MIN_GAP_NS: Global<u64> = Global::new(1_000_000);

/// TCP ports used by migrations: ranges as packed by [`abi::port_range`]; the first 0 ends the list.
#[unsafe(no_mangle)]
pub(crate) static PORTS: [Global<u32>; abi::PORT_RANGES] = [
    Global::new(abi::port_range(49152, 49215)),
    Global::new(0),
    Global::new(0),
    Global::new(0),
    Global::new(0),
    Global::new(0),
    Global::new(0),
    Global::new(0),
];

/// The tunnels to look into: a set of `packet::encapsulation`.
#[unsafe(no_mangle)]
pub(crate) static ENCAPSULATIONS: Global<u32> = Global::new(0);

/// Offset of `task_struct.tgid`, in bytes; 0 while unknown.
#[unsafe(no_mangle)]
pub(crate) static TASK_TGID: Global<u32> = Global::new(0);

/// See [`abi::SocketOffsets`].
#[unsafe(no_mangle)]
pub(crate) static SOCKET_OFFSETS: Global<abi::SocketOffsets> = Global::new(abi::SocketOffsets {
    task_files: 0,
    files_fdt: 0,
    fdtable_max_fds: 0,
    fdtable_fd: 0,
    file_private_data: 0,
    socket_sk: 0,
    family: 0,
    daddr: 0,
    rcv_saddr: 0,
    v6_daddr: 0,
    v6_rcv_saddr: 0,
    dport: 0,
    num: 0,
});

/// See [`abi::RetransmitOffsets`].
#[unsafe(no_mangle)]
pub(crate) static RETRANSMIT_OFFSETS: Global<abi::RetransmitOffsets> = Global::new(abi::RetransmitOffsets {
    len: 0,
    tcp_gso_segs: 0,
    total_retrans: 0,
    bytes_retrans: 0,
    tracepoint_has_error: 0,
});

/// See [`abi::OpeningOffsets`].
#[unsafe(no_mangle)]
pub(crate) static OPENING_OFFSETS: Global<abi::OpeningOffsets> =
    Global::new(abi::OpeningOffsets { net: 0, net_inum: 0, snd_una: 0, rcv_nxt: 0 });

/// The number of the network namespace that is traced; 0: every one.
#[unsafe(no_mangle)]
pub(crate) static NETWORK: Global<u32> = Global::new(0);

/// Whether a port is watched.
#[inline(always)]
pub(crate) fn is_watched(port: u16) -> bool {
    is_either_watched(port, port)
}

/// Whether at least one of a packet's ports is watched.
#[inline(always)]
pub(crate) fn is_either_watched(source_port: u16, destination_port: u16) -> bool {
    for range in &PORTS {
        let range = range.load();
        if range == 0 {
            return false;
        }
        if abi::in_range(range, source_port) || abi::in_range(range, destination_port) {
            return true;
        }
    }
    false
}
