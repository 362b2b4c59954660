//! Notices connections that open while nothing is counted, because migtrace sleeps. What they carry until it is awake is
//! found out from their sockets later.
//!
//! The tracepoint fires a few times in the life of a connection, never for a packet. A connection that this host opens is
//! noticed before its SYN leaves.

use aya_ebpf::{helpers::bpf_probe_read_user, programs::RawTracePointContext};
use migtrace_ebpf::{
    abi::{EGRESS, EventHeader, FlowKey, INGRESS, Opening, kind, waking},
    beginning::Beginning,
};

use super::{
    maps::{self, BEGUN, OPENED, WAKING},
    settings::{self, NETWORK, OPENING_OFFSETS, SOCKET_OFFSETS},
    socket,
};

/// States of a socket (include/net/tcp_states.h).
const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_SENT: i32 = 2;
const TCP_LISTEN: i32 = 10;

/// Whether openings are noted.
#[inline(always)]
pub(super) fn are_noted() -> bool {
    maps::counter(&WAKING, waking::NOTES).is_some_and(|notes| notes.get() != 0)
}

/// Takes in that a socket has another state.
#[inline(always)]
pub(crate) fn state_changed(ctx: &RawTracePointContext) {
    if !are_noted() {
        return;
    }
    let (sock, before, state): (u64, i32, i32) = (ctx.arg(0), ctx.arg(1), ctx.arg(2));
    if !matches!(state, TCP_ESTABLISHED | TCP_SYN_SENT | TCP_LISTEN) || !is_of_this_network(sock) {
        return;
    }
    let Some(key) = socket::key_of(sock, &SOCKET_OFFSETS.load()) else { return };
    let by_this_host = state == TCP_SYN_SENT || before == TCP_SYN_SENT;
    if !settings::is_watched(if by_this_host { key.remote_port } else { key.local_port }) {
        return;
    }
    let now_ns = maps::now_ns();
    match state {
        // It has no port of its own yet, so it is known by its address.
        TCP_SYN_SENT => drop(BEGUN.insert(sock, now_ns, 0)),
        TCP_ESTABLISHED => note(sock, &key, by_this_host, now_ns),
        _ => {}
    }
    report(now_ns);
}

/// Whether a socket is of the network namespace that is traced.
#[inline(always)]
fn is_of_this_network(sock: u64) -> bool {
    let network = NETWORK.load();
    if network == 0 {
        return true;
    }
    let offsets = OPENING_OFFSETS.load();
    let Some(net) = socket::field::<u64>(sock, offsets.net) else { return false };
    socket::field::<u32>(net, offsets.net_inum) == Some(network)
}

/// Notes a connection that is open now. Nothing but the SYNs has crossed in either direction.
#[inline(always)]
fn note(sock: u64, key: &FlowKey, by_this_host: bool, now_ns: u64) {
    let offsets = OPENING_OFFSETS.load();
    // SAFETY: the value is copied at once.
    let began_ns = unsafe { BEGUN.get(sock) }.copied().unwrap_or(0);
    let mut opening = Opening {
        began_ns: if by_this_host { began_ns } else { 0 },
        opened_ns: now_ns,
        by_this_host: u32::from(by_this_host),
        ..Opening::default()
    };
    if let (Some(snd_una), Some(rcv_nxt)) =
        (socket::field::<u32>(sock, offsets.snd_una), socket::field::<u32>(sock, offsets.rcv_nxt))
    {
        opening.initial_sequences[usize::from(EGRESS)] = snd_una.wrapping_sub(1);
        opening.initial_sequences[usize::from(INGRESS)] = rcv_nxt.wrapping_sub(1);
        let _ = OPENED.insert(key, opening, 0);
    }
}

/// The current process writes to its descriptor `fd` what is at `from`. If that is the beginning of a stream of a migration,
/// it is noted: nobody may count yet.
///
/// A global function: the verifier checks it on its own.
#[unsafe(no_mangle)]
#[inline(never)]
pub(super) extern "C" fn wrote(fd: u32, from: u64) -> u32 {
    // SAFETY: the helper checks the address and fails where nothing is mapped.
    let Ok(bytes) = (unsafe { bpf_probe_read_user(from as *const [u8; 4]) }) else { return 0 };
    let first_payload = u32::from_be_bytes(bytes);
    if Beginning::of(first_payload).is_none() {
        return 0;
    }
    let Some(key) = socket::of_descriptor(fd) else { return 0 };
    let Some(opening) = OPENED.get_ptr_mut(key) else { return 0 };
    // SAFETY: the map's value. One that is evicted meanwhile is another's, which then seems to begin like this; user space
    // sees that only if somebody opens a thousand connections at this instant.
    unsafe {
        if (*opening).first_payload == 0 {
            (*opening).first_payload = first_payload;
        }
    }
    1
}

/// Tells user space, if it has asked for that and was not told since.
#[inline(always)]
fn report(now_ns: u64) {
    if let Some(armed) = maps::counter(&WAKING, waking::ARMED)
        && armed.get() != 0
    {
        // Two CPUs that race here report it twice.
        armed.set(0);
        maps::emit(EventHeader { at_ns: now_ns, kind: kind::CONNECTION_OPENS, tgid: 0 });
    }
}
