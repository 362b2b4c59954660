//! Notices when a traced QEMU asks KVM which pages the guest has dirtied. There one pass ends and the next begins,
//! also when QEMU emits no event for it.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_user};
use migtrace_ebpf::abi::{DirtyLogRead, EventHeader, kind, lost};

use super::{maps, ownership, process};

/// `_IOW(KVMIO, 0x42, struct kvm_dirty_log)`
const KVM_GET_DIRTY_LOG: u32 = 0x4010_ae42;

/// A round is over after this time at the latest: its first slot may never be read again, when its memory was
/// unplugged.
const ROUND_NS: u64 = 1_000_000_000;

/// A task calls `ioctl(fd, request, argument)`.
#[inline(always)]
pub(crate) fn ioctl(request: u32, argument: u64) {
    if request == KVM_GET_DIRTY_LOG {
        read(argument);
    }
}

/// QEMU reads every memory slot once a round, one after the other. So a round begins with the slot with which the
/// round before began.
#[inline(always)]
fn read(argument: u64) {
    let Some((tgid, process)) = process::known() else { return };
    // The main thread reads the log too, for the pages of the display.
    if bpf_get_current_pid_tgid() as u32 == tgid {
        return;
    }
    // SAFETY: the helper checks the address. `struct kvm_dirty_log` begins with the slot.
    let Ok(slot) = (unsafe { bpf_probe_read_user(argument as *const u32) }) else {
        return maps::count_lost(lost::UNREADABLE);
    };
    let now_ns = maps::now_ns();
    // Only the migration thread comes here, so there is no race.
    let began_ns = process.round_ns.get();
    if began_ns != 0 && process.round_slot.get() != slot && now_ns < began_ns + ROUND_NS {
        return;
    }
    process.round_ns.set(now_ns);
    process.round_slot.set(slot);
    if let Some(sums) = ownership::sum(tgid) {
        maps::emit(DirtyLogRead {
            header: EventHeader { at_ns: now_ns, kind: kind::DIRTY_LOG, tgid },
            sums: *sums,
        });
    }
}
