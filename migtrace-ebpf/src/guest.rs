//! What comes from a guest through its tap: its frames, and the announcements of where it is.

use aya_ebpf::{bindings::__sk_buff, programs::TcContext};
use migtrace_ebpf::{
    abi::{ANNOUNCEMENTS_TOLD, GuestPortEvent, Header, announcement, kind},
    packet::announcement::{Plain, parse, parse_plain},
};

use crate::{
    maps::{self, GUEST_PORTS},
    wire::{Linear, Whole},
};

#[inline(always)]
pub(crate) fn notice(ctx: &TcContext) {
    let skb: *const __sk_buff = ctx.skb.skb;
    // SAFETY: the kernel passes a valid context, and this field may be read in every TC program.
    let ifindex = unsafe { (*skb).ifindex };
    let Some(port) = GUEST_PORTS.get_ptr_mut(ifindex) else { return };
    let now_ns = maps::now_ns();
    let announcement = match parse_plain(&Linear(ctx)) {
        Plain::Known(announcement) => announcement,
        Plain::Unknown => parse(&Whole(ctx)),
    };
    if announcement != announcement::NONE {
        // SAFETY: `port` is the map's value.
        unsafe { maps::add(&raw mut (*port).announcements, 1) };
        // SAFETY: as above.
        if unsafe { (*port).announcements } <= ANNOUNCEMENTS_TOLD {
            tell(kind::ANNOUNCEMENT, now_ns, ifindex, announcement);
        }
    }
    // QEMU sends these on the guest's behalf, before it runs.
    if announcement == announcement::RARP {
        return;
    }
    // SAFETY: as above.
    unsafe { maps::add(&raw mut (*port).frames, 1) };
    // SAFETY: as above; a lost race with another queue of the tap is off by nanoseconds.
    unsafe { (*port).last_frame_ns = now_ns };
    // SAFETY: as above; two queues that race here tell twice.
    if unsafe { (*port).awaited } != 0 {
        // SAFETY: as above.
        unsafe { (*port).awaited = 0 };
        tell(kind::GUEST_FRAME, now_ns, ifindex, announcement);
    }
}

#[inline(always)]
fn tell(kind: u32, at_ns: u64, ifindex: u32, announcement: u32) {
    maps::emit(GuestPortEvent { header: Header { at_ns, kind, tgid: 0 }, ifindex, announcement });
}
