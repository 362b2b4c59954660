//! Follows echo requests to watched addresses, and the replies.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_get_socket_cookie, programs::TcContext};
use migtrace_ebpf::{
    abi::{
        ANY_IDENTIFIER, ECHO_SEQUENCES, ECHO_SESSIONS, EchoGapEvent, EchoKey, EventHeader, kind, lost, shared,
    },
    echo_session::{self, BUCKETS, Reply, Stamps},
    packet::echo::{self, EchoMessage, PlainEcho},
    word::{Word, Words as _},
};

use super::{
    maps::{self, ECHO_KEYS, ECHO_ROUND_TRIPS, ECHO_SLOTS, ECHO_STAMPS, ECHO_TARGETS},
    settings,
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

/// Takes in one packet, in either direction.
#[inline(always)]
pub(crate) fn follow(ctx: &TcContext) {
    let echo = match echo::parse_plain(&Linear(ctx)) {
        PlainEcho::Echo(echo) => echo,
        PlainEcho::Other => return,
        PlainEcho::Unknown => match echo::parse(&Whole(ctx)) {
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
fn take(ctx: &TcContext, echo: &EchoMessage, socket: u64) {
    let now_ns = maps::now_ns();
    let key = EchoKey { target: echo.target, peer: echo.peer, identifier: echo.identifier, padding: 0 };
    // SAFETY: the value is copied at once.
    let known = unsafe { ECHO_SLOTS.get(key) }.copied();
    let slot = match known {
        Some(slot) => slot,
        // A reply to a request that was not seen opens no session.
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
        // User space took this session out of the map just now, and another one has got its number.
        return;
    }
    if !echo.is_reply {
        return echo_session::request(state, &Slot(slot), echo.sequence, now_ns);
    }
    let emit = |number, gap: &shared::EchoGap| {
        maps::emit(EchoGapEvent {
            header: EventHeader { at_ns: now_ns, kind: kind::ECHO_GAP, tgid: 0 },
            slot,
            padding: 0,
            first_request_ns: state.first_request_ns.get(),
            number,
            gap: gap.load(),
        });
    };
    let min_gap_ns = settings::ECHO_MIN_GAP_NS.load();
    let reply = echo_session::reply(state, &Slot(slot), echo.sequence, now_ns, min_gap_ns, emit);
    if let Reply::Prompt(round_trip_ns) = reply {
        maps::count(&ECHO_ROUND_TRIPS, slot * BUCKETS as u32 + echo_session::bucket(round_trip_ns));
    }
}

/// Gives a session the first free number. `None`: all are taken.
#[inline(never)]
fn open(key: &EchoKey) -> Option<u32> {
    for slot in 0..ECHO_SESSIONS {
        if slot >= settings::ECHO_LIMIT.load() {
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
        // Another CPU was faster with the same session: the number it chose is valid.
        let _ = ECHO_KEYS.remove(slot);
        // SAFETY: the value is copied at once.
        return unsafe { ECHO_SLOTS.get(key) }.copied();
    }
    None
}
