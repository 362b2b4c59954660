//! Reports the first packet that reaches each milestone of a connection's streams: see `migtrace_ebpf::milestone`.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use migtrace_ebpf::{
    abi::{EventHeader, FlowKey, MilestonesCrossed, crossed_by, kind, shared},
    milestone::Crossing,
    packet::Tcp,
};

use super::maps::{self, MILESTONES, Meeting};

/// Takes in a packet that has `reached` something for the first time.
#[inline(always)]
pub(super) fn cross(key: &FlowKey, direction: u8, packet: &Tcp, reached: u32, now_ns: u64) {
    if maps::set_meeting(key, packet) {
        cross_milestones(u32::from(direction), reached, now_ns);
    }
}

/// Does the work of [`cross`] with the packet that was set. A global function: the verifier checks it once, instead of once
/// for each path to the packet's header.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn cross_milestones(direction: u32, reached: u32, now_ns: u64) -> u32 {
    let Some(Meeting { key, packet }) = maps::meeting() else { return 0 };
    let Some(flow) = maps::flow(key) else { return 0 };
    let opened_ns = flow.opened_ns.get();
    flow.cross_milestones(direction as usize & 1, packet, reached, now_ns, |crossing| {
        report(crossing, key, direction & 1, opened_ns);
    });
    0
}

/// Reports the two SYNs of a connection: the first milestone of each stream. One that was sent twice is left out: perhaps
/// not every copy was seen here, and the other host may have seen another one first.
#[inline(always)]
pub(super) fn report_handshake(handshake: &shared::Handshake, key: &FlowKey, opened_ns: u64) {
    for (direction, side) in (0..).zip(&handshake.sides) {
        if side.segments.get() == 1 {
            let at_ns = side.first_ns.get();
            report(Crossing { by: crossed_by::PAYLOAD, first: 1, last: 1, at_ns }, key, direction, opened_ns);
        }
    }
}

/// Wakes nobody: user space reads these when it reads the flow table.
#[inline(always)]
fn report(crossing: Crossing, key: &FlowKey, direction: u32, opened_ns: u64) {
    let Crossing { by, first, last, at_ns } = crossing;
    let Some(mut event) = MILESTONES.reserve_untyped::<MilestonesCrossed>(0) else { return };
    let out = event.as_mut_ptr();
    // SAFETY: `out` is the reserved record, which has room for every field. They are written one by one, because a whole
    // event would take too much of the stack.
    unsafe {
        (*out).header = EventHeader { at_ns, kind: kind::MILESTONES_CROSSED, tgid: 0 };
        (*out).key = *key;
        (*out).direction = direction;
        (*out).opened_ns = opened_ns;
        (*out).first = first;
        (*out).last = last;
        (*out).crossed_by = by;
        (*out).padding = 0;
    }
    event.submit(u64::from(BPF_RB_NO_WAKEUP));
}
