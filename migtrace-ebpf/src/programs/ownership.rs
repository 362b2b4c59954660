//! Which process a flow belongs to, and the sums over the flows of a process.

use aya_ebpf::bindings::BPF_NOEXIST;
use migtrace_ebpf::abi::{
    self, Claim, EGRESS, EventHeader, FlowKey, FlowOwned, INGRESS, Sum, Sums, kind, lost, shared,
};

use super::maps::{self, FLOW_CLAIMS, SUMS, UNOWNED};

/// How often another thread of the process may be faster to claim the same number.
const RACES: u32 = 3;

/// Whether some flow still needs an owner.
#[inline(always)]
pub(super) fn is_any_awaited() -> bool {
    maps::counter(&UNOWNED, 0).is_some_and(|unowned| unowned.get() != 0)
}

/// From now on the programs look for the owner of this entry.
#[inline(always)]
pub(super) fn await_owner(flow: &shared::FlowEntry, now_ns: u64) {
    flow.opened_ns.set(now_ns);
    flow.unowned.set(1);
    maps::count(&UNOWNED, 0);
}

/// The programs no longer look for the owner of this entry.
#[inline(always)]
pub(super) fn settle(flow: &shared::FlowEntry) {
    if flow.unowned.get() != 0 {
        flow.unowned.set(0);
        if let Some(unowned) = maps::counter(&UNOWNED, 0) {
            unowned.add(u64::MAX);
        }
    }
}

/// Gives a flow to a process, and reports that to user space if it is new.
#[inline(always)]
pub(crate) fn own(key: &FlowKey, tgid: u32, by_user_space: u32) {
    let Some(flow) = maps::flow(key) else { return };
    if flow.owner.get() == tgid {
        return;
    }
    release(flow, key);
    flow.owner.set(tgid);
    settle(flow);
    claim(flow, key, tgid);
    emit_owned(flow, key, tgid, by_user_space);
}

/// Enters a flow into the list of its owner's flows.
#[inline(always)]
fn claim(flow: &shared::FlowEntry, key: &FlowKey, tgid: u32) {
    let Some(process) = maps::process(tgid) else { return };
    // Two threads may try the same number at once.
    for _ in 0..RACES {
        let number = free_claim(tgid);
        if number >= abi::FLOW_CLAIMS {
            break;
        }
        if FLOW_CLAIMS.insert(Claim { tgid, number }, key, u64::from(BPF_NOEXIST)).is_ok() {
            // Two threads may claim the same flow at once: then the claim that the flow names is the valid one.
            flow.claim.set(number);
            abi::reach(&process.flow_claims, number);
            return;
        }
    }
    maps::count_lost(lost::CLAIMS);
}

/// The first number that no flow of `tgid` has; [`abi::FLOW_CLAIMS`] if all are taken.
///
/// A global function: the verifier checks it on its own, instead of all that follows once for each number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn free_claim(tgid: u32) -> u32 {
    for number in 0..abi::FLOW_CLAIMS {
        if is_claimed(tgid, number) == 0 {
            return number;
        }
    }
    abi::FLOW_CLAIMS
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn is_claimed(tgid: u32, number: u32) -> u32 {
    u32::from(FLOW_CLAIMS.get_ptr(Claim { tgid, number }).is_some())
}

/// Takes a flow out of the list of its owner's flows, if it is there. For some there was no room, and the owner's id
/// may belong to another process by now.
#[inline(always)]
pub(crate) fn release(flow: &shared::FlowEntry, key: &FlowKey) {
    let claim = Claim { tgid: flow.owner.get(), number: flow.claim.get() };
    // SAFETY: the value is compared at once.
    if unsafe { FLOW_CLAIMS.get(claim) }.is_some_and(|claimed| claimed == key) {
        let _ = FLOW_CLAIMS.remove(claim);
    }
}

/// Empties the list of a process' flows. A global function, like [`free_claim`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn disown_flows(tgid: u32) -> u32 {
    for number in 0..abi::FLOW_CLAIMS {
        remove_claim(tgid, number);
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn remove_claim(tgid: u32, number: u32) -> u32 {
    u32::from(FLOW_CLAIMS.remove(Claim { tgid, number }).is_ok())
}

/// Reports a flow's owner to user space, with the counters that the sums over the owner's flows lacked until now.
#[inline(always)]
fn emit_owned(flow: &shared::FlowEntry, key: &FlowKey, tgid: u32, by_user_space: u32) {
    // A packet that is counted meanwhile has a later stamp. That shows user space that the counters are not of this
    // instant.
    let at_ns = maps::now_ns();
    let mut crossed = Sums::default();
    add(&mut crossed, flow);
    let [rx, tx] = &flow.directions;
    maps::emit(FlowOwned {
        header: EventHeader { at_ns, kind: kind::FLOW_OWNED, tgid },
        key: *key,
        by_user_space,
        opened_ns: flow.opened_ns.get(),
        crossed,
        last_ns: rx.last_ns.get().max(tx.last_ns.get()),
    });
}

/// Adds up the counters of all flows of `tgid`, as they are now.
#[inline(always)]
pub(crate) fn sum(tgid: u32) -> Option<&'static Sums> {
    sum_flows(tgid);
    // SAFETY: the map's value for this CPU, which only this program uses until it ends.
    SUMS.get_ptr(0).map(|sums| unsafe { &*sums })
}

/// Fills in [`SUMS`]. A global function, like [`free_claim`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sum_flows(tgid: u32) -> u32 {
    let Some(sums) = SUMS.get_ptr_mut(0) else { return 0 };
    // SAFETY: as in `sum`.
    unsafe { *sums = Sums::default() };
    let claims = maps::process(tgid).map_or(0, |process| process.flow_claims.get());
    for number in 0..abi::FLOW_CLAIMS {
        if number >= claims {
            break;
        }
        add_claimed_flow(tgid, number);
    }
    claims
}

/// Adds the counters of the flow that has this number among the flows of `tgid`. A global function, like
/// [`free_claim`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_claimed_flow(tgid: u32, number: u32) -> u32 {
    // SAFETY: the key is used at once. Whoever removes it meanwhile has retired its flow, which is then not counted.
    let Some(key) = (unsafe { FLOW_CLAIMS.get(Claim { tgid, number }) }) else { return 0 };
    if let Some(flow) = maps::flow(key)
        && flow.owner.get() == tgid
        && flow.claim.get() == number
        && let Some(sums) = SUMS.get_ptr_mut(0)
    {
        // SAFETY: as in `sum`.
        add(unsafe { &mut *sums }, flow);
        return 1;
    }
    0
}

#[inline(always)]
fn add(sums: &mut Sums, flow: &shared::FlowEntry) {
    const { assert!(INGRESS == 0 && EGRESS == 1) };
    for (sum, direction) in sums.by_direction.iter_mut().zip(&flow.directions) {
        *sum = Sum {
            wire_bytes: sum.wire_bytes + direction.wire_bytes.get(),
            payload_bytes: sum.payload_bytes + direction.payload_bytes.get(),
            segments: sum.segments + direction.segments.get(),
            skbs: sum.skbs + direction.skbs.get(),
        };
    }
}
