//! Follows the echo requests to watched addresses, and the replies.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_get_socket_cookie, programs::TcContext};
use migtrace_ebpf::{
    abi::{ANY_IDENTIFIER, ECHO_SEQUENCES, ECHO_SESSIONS, EchoGapEvent, EchoKey, Header, kind, lost, shared},
    echo_session::{self, BUCKETS, Reply, Stamps},
    packet::echo::{self, Echo, Plain},
    word::{Word, Words as _},
};

use super::{
    maps::{self, ECHO_KEYS, ECHO_ROUND_TRIPS, ECHO_SLOTS, ECHO_STAMPS, ECHO_TARGETS},
    skb::{Linear, Whole},
};

/// The stamps of one session.
struct Slot(u32);

impl Slot {
    #[inline(always)]
    const fn index(&self, sequence: u16) -> u32 {
        self.0 * ECHO_SEQUENCES + sequence as u32
    }
}

impl Stamps for Slot {
    #[inline(always)]
    fn get(&self, sequence: u16) -> u64 {
        maps::counter(&ECHO_STAMPS, self.index(sequence)).map_or(0, Word::<u64>::get)
    }

    #[inline(always)]
    fn set(&self, sequence: u16, stamp: u64) {
        if let Some(place) = maps::counter(&ECHO_STAMPS, self.index(sequence)) {
            place.set(stamp);
        }
    }
}

/// Takes in one packet, whichever way it goes.
#[inline(always)]
pub(crate) fn follow(ctx: &TcContext) {
    let echo = match echo::parse_plain(&Linear(ctx)) {
        Plain::Echo(echo) => echo,
        Plain::Other => return,
        Plain::Unknown => match echo::parse(&Whole(ctx)) {
            Some(echo) => echo,
            None => return,
        },
    };
    // SAFETY: the value is copied at once.
    let Some(target) = (unsafe { ECHO_TARGETS.get(echo.target) }).copied() else { return };
    if target.identifier == ANY_IDENTIFIER || target.identifier == u32::from(echo.identifier) {
        take(ctx, &echo, target.socket);
    }
}

#[inline(always)]
fn take(ctx: &TcContext, echo: &Echo, socket: u64) {
    let now_ns = maps::now_ns();
    let key = EchoKey { target: echo.target, peer: echo.peer, identifier: echo.identifier, padding: 0 };
    // SAFETY: the value is copied at once.
    let known = unsafe { ECHO_SLOTS.get(key) }.copied();
    let slot = match known {
        Some(slot) => slot,
        // A reply to what nobody was seen to ask opens nothing.
        None if echo.is_reply => return,
        // SAFETY: the helper has no preconditions.
        None if socket != 0 && unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) } != socket => return,
        None => match open(&key) {
            Some(slot) => slot,
            None => return maps::count_lost(lost::ECHO_SESSIONS),
        },
    };
    let Some(state) = maps::echo_session(slot) else { return };
    if state.mark.get() != key.mark() {
        // This session was taken out of the map just now, and another has got its place there.
        return;
    }
    if !echo.is_reply {
        return echo_session::request(state, &Slot(slot), echo.sequence, now_ns);
    }
    let tell = |number, gap: &shared::EchoGap| {
        maps::emit(EchoGapEvent {
            header: Header { at_ns: now_ns, kind: kind::ECHO_GAP, tgid: 0 },
            slot,
            padding: 0,
            first_request_ns: state.first_request_ns.get(),
            number,
            gap: gap.load(),
        });
    };
    let min_gap_ns = maps::ECHO_MIN_GAP_NS.load();
    let reply = echo_session::reply(state, &Slot(slot), echo.sequence, now_ns, min_gap_ns, tell);
    if let Reply::Prompt(round_trip_ns) = reply {
        maps::count(&ECHO_ROUND_TRIPS, slot * BUCKETS as u32 + echo_session::bucket(round_trip_ns));
    }
}

/// Gives a session the next free number. `None`: all are taken.
#[inline(never)]
fn open(key: &EchoKey) -> Option<u32> {
    for slot in 0..ECHO_SESSIONS {
        if slot >= maps::ECHO_LIMIT.load() {
            return None;
        }
        if ECHO_KEYS.insert(slot, key, u64::from(BPF_NOEXIST)).is_err() {
            continue;
        }
        if let Some(state) = maps::echo_session(slot) {
            state.mark.set(key.mark());
        }
        if ECHO_SLOTS.insert(key, slot, u64::from(BPF_NOEXIST)).is_ok() {
            return Some(slot);
        }
        // Another CPU was faster with the same session: its number holds.
        let _ = ECHO_KEYS.remove(slot);
        // SAFETY: the value is copied at once.
        return unsafe { ECHO_SLOTS.get(key) }.copied();
    }
    None
}
