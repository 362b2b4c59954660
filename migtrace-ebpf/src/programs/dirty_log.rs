//! When a traced QEMU asks KVM which pages the guest has dirtied: that is where a round of copying ends and the next
//! begins, also when QEMU itself tells nothing.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user},
    programs::{ProbeContext, TracePointContext},
};
use migtrace_ebpf::abi::{DirtyLogRead, Header, kind, lost};

use super::{flow, maps, process};

/// `_IOW(KVMIO, 0x42, struct kvm_dirty_log)`
const KVM_GET_DIRTY_LOG: u64 = 0x4010_ae42;

/// A round whose first slot is never asked for again (its memory was unplugged) is over after this time.
const ROUND_NS: u64 = 1_000_000_000;

/// `kvm_vm_ioctl(struct file *, unsigned int request, unsigned long argument)` is called.
#[inline(always)]
pub(crate) fn ioctl(ctx: &ProbeContext) {
    if ctx.arg::<u32>(1).map(u64::from) == Some(KVM_GET_DIRTY_LOG)
        && let Some(argument) = ctx.arg(2)
    {
        read(argument);
    }
}

/// `ioctl(fd, request, argument)` is called.
#[inline(always)]
pub(crate) fn system_call(ctx: &TracePointContext) {
    if process::ioctl_request(ctx) == Some(KVM_GET_DIRTY_LOG)
        && let Some(argument) = process::ioctl_argument(ctx)
    {
        read(argument);
    }
}

/// QEMU asks once a round for every slot of memory, one after the other: a round begins with the slot that the one
/// before began with.
#[inline(always)]
fn read(argument: u64) {
    let Some((tgid, process)) = process::known() else { return };
    // The main thread asks too, for the pages of the display.
    if bpf_get_current_pid_tgid() as u32 == tgid {
        return;
    }
    // SAFETY: the helper checks the address. `struct kvm_dirty_log` begins with the slot.
    let Ok(slot) = (unsafe { bpf_probe_read_user(argument as *const u32) }) else {
        return maps::count_lost(lost::PROBES);
    };
    let now_ns = maps::now_ns();
    // Only the thread that migrates asks.
    let began_ns = process.round_ns.get();
    if began_ns != 0 && process.round_slot.get() != slot && now_ns < began_ns + ROUND_NS {
        return;
    }
    process.round_ns.set(now_ns);
    process.round_slot.set(slot);
    if let Some(sums) = flow::sum(tgid) {
        maps::emit(DirtyLogRead {
            header: Header { at_ns: now_ns, kind: kind::DIRTY_LOG, tgid },
            sums: *sums,
        });
    }
}
