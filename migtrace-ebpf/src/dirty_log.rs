//! When a traced QEMU asks KVM which pages the guest has dirtied: that is where a round of copying ends and the next
//! begins, also when QEMU itself tells nothing.

use aya_ebpf::{
    helpers::bpf_get_current_pid_tgid,
    programs::{ProbeContext, TracePointContext},
};
use migtrace_ebpf::abi::{DirtyLogRead, Header, kind, lost};

use crate::{
    maps::{self, DIRTY_LOGS},
    process, qmp,
};

/// `_IOW(KVMIO, 0x42, struct kvm_dirty_log)`
const KVM_GET_DIRTY_LOG: u64 = 0x4010_ae42;

/// QEMU asks once for every slot of memory, one after the other: what comes later than this is the next round.
const ROUND_NS: u64 = 5_000_000;

/// `kvm_vm_ioctl(struct file *, unsigned int request, unsigned long argument)` is called.
#[inline(always)]
pub(crate) fn ioctl(ctx: &ProbeContext) {
    if ctx.arg::<u32>(1).map(u64::from) == Some(KVM_GET_DIRTY_LOG) {
        read();
    }
}

/// `ioctl(fd, request, argument)` is called.
#[inline(always)]
pub(crate) fn system_call(ctx: &TracePointContext) {
    if process::ioctl_request(ctx) == Some(KVM_GET_DIRTY_LOG) {
        read();
    }
}

#[inline(always)]
fn read() {
    let Some(tgid) = process::traced() else { return };
    // The main thread asks too, for the pages of the display.
    if bpf_get_current_pid_tgid() as u32 == tgid {
        return;
    }
    let now_ns = maps::now_ns();
    // SAFETY: the value is copied at once.
    let last_ns = unsafe { DIRTY_LOGS.get(tgid) }.copied().unwrap_or(0);
    if DIRTY_LOGS.insert(tgid, now_ns, 0).is_err() {
        return maps::count_lost(lost::PROBES);
    }
    if now_ns >= last_ns + ROUND_NS {
        maps::emit(DirtyLogRead {
            header: Header { at_ns: now_ns, kind: kind::DIRTY_LOG, tgid },
            sums: qmp::sum_flows(tgid),
        });
    }
}
