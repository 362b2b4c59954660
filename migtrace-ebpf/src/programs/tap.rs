//! What comes from a guest through its tap: its frames, and the announcements of where it is.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use migtrace_ebpf::{
    abi::{GuestPortEvent, Header, announcement, kind},
    budget,
    packet::announcement::{Plain, parse, parse_plain},
};

use super::{
    maps::{self, GUEST_TAPS},
    skb::{Linear, Whole},
};

#[inline(always)]
pub(crate) fn notice(ctx: &TcContext) {
    let skb: *const __sk_buff = ctx.skb.skb;
    // SAFETY: the kernel passes a valid context, and this field may be read in every TC program.
    let ifindex = unsafe { (*skb).ifindex };
    let Some(port) = maps::guest_port(ifindex) else { return };
    let now_ns = maps::now_ns();
    let announcement = match parse_plain(&Linear(ctx)) {
        Plain::Known(announcement) => announcement,
        Plain::Unknown => parse(&Whole(ctx)),
    };
    if announcement != announcement::NONE {
        port.announcements.add(1);
        // Queues that race here tell one more.
        if let Some(full_ns) = budget::ANNOUNCEMENTS.spend(port.announcements_full_ns.get(), 1, now_ns) {
            port.announcements_full_ns.set(full_ns);
            tell(kind::ANNOUNCEMENT, now_ns, ifindex, announcement);
        }
    }
    // QEMU sends these on the guest's behalf, before it runs.
    if announcement == announcement::RARP {
        return;
    }
    port.frames.add(1);
    // A lost race with another queue of the tap is off by nanoseconds.
    port.last_frame_ns.set(now_ns);
    // Two queues that race here tell twice.
    if port.awaited.get() != 0 {
        port.awaited.set(0);
        tell(kind::GUEST_FRAME, now_ns, ifindex, announcement);
    }
}

/// A QEMU has said something: it may be that its guest has stopped, so the next frame at each of its taps is told. User
/// space would say so too late for a guest that is resumed at once.
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
fn tell(kind: u32, at_ns: u64, ifindex: u32, announcement: u32) {
    maps::emit(GuestPortEvent { header: Header { at_ns, kind, tgid: 0 }, ifindex, announcement });
}
