//! What comes from a guest through its tap: its frames, and the announcements of where it is.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use migtrace_ebpf::{
    abi::{ANNOUNCEMENTS_TOLD, GuestPortEvent, Header, announcement, kind},
    packet::announcement::{Plain, parse, parse_plain},
};

use crate::{
    maps,
    wire::{Linear, Whole},
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
        if port.announcements.get() <= ANNOUNCEMENTS_TOLD {
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

#[inline(always)]
fn tell(kind: u32, at_ns: u64, ifindex: u32, announcement: u32) {
    maps::emit(GuestPortEvent { header: Header { at_ns, kind, tgid: 0 }, ifindex, announcement });
}
