//! What comes from a guest through its tap: its frames, and the announcements of its new place in the network.

use aya_ebpf::programs::TcContext;
use migtrace_ebpf::{
    abi::{EventHeader, GuestPortEvent, announcement, kind},
    budget,
    packet::announcement::{PlainAnnouncement, parse, parse_plain},
};

use super::{
    maps::{self, GUEST_TAPS},
    skb::{Linear, Whole, ifindex},
};

/// Takes in a frame that comes from a guest.
#[inline(always)]
pub(crate) fn notice(ctx: &TcContext) {
    let ifindex = ifindex(ctx);
    let Some(port) = maps::guest_port(ifindex) else { return };
    let now_ns = maps::now_ns();
    let announcement = match parse_plain(&Linear(ctx)) {
        PlainAnnouncement::Known(announcement) => announcement,
        PlainAnnouncement::Unknown => parse(&Whole(ctx)),
    };
    if announcement != announcement::NONE {
        port.announcements.add(1);
        // Queues of the tap that race here emit one too many.
        if let Some(full_ns) = budget::ANNOUNCEMENTS.spend(port.announcements_full_ns.get(), 1, now_ns) {
            port.announcements_full_ns.set(full_ns);
            emit(kind::ANNOUNCEMENT, now_ns, ifindex, announcement);
        }
    }
    // QEMU sends these on behalf of the guest, before it runs.
    if announcement == announcement::RARP {
        return;
    }
    port.frames.add(1);
    // Losing a race with another queue of the tap is off by nanoseconds.
    port.last_frame_ns.set(now_ns);
    // Two queues that race here emit it twice.
    if port.awaited.get() != 0 {
        port.awaited.set(0);
        emit(kind::GUEST_FRAME, now_ns, ifindex, announcement);
    }
}

/// A QEMU has emitted an event. Its guest may have stopped, so the next frame at each of its taps is reported. User
/// space would ask for it too late when a guest is resumed at once.
#[inline(always)]
pub(crate) fn await_next_frame(tgid: u32) {
    let Some(taps) = GUEST_TAPS.get_ptr(tgid) else { return };
    // SAFETY: `taps` is the map's value, which user space replaces as a whole.
    let interfaces = unsafe { &(*taps).interfaces };
    for interface in interfaces {
        if *interface == 0 {
            return;
        }
        if let Some(port) = maps::guest_port(*interface) {
            port.awaited.set(1);
        }
    }
}

#[inline(always)]
fn emit(kind: u32, at_ns: u64, ifindex: u32, announcement: u32) {
    maps::emit(GuestPortEvent { header: EventHeader { at_ns, kind, tgid: 0 }, ifindex, announcement });
}
