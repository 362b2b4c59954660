//! Notices when the vCPUs of traced QEMUs enter and leave KVM, and so when a VM runs again after a stop.

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::bpf_get_current_pid_tgid, programs::TracePointContext};
use migtrace_ebpf::{
    abi::{self, Claim, EventHeader, GuestRun, GuestRunVoid, Vcpu, kind, lost, shared},
    vcpu_state::{Left, Survey},
};

use super::{
    maps::{self, SURVEY, VCPU_CLAIMS, VCPUS},
    process,
};

/// `_IO(KVMIO, 0x80)`
const KVM_RUN: u32 = 0xae80;

/// A task calls `ioctl(fd, request, argument)`.
#[inline(always)]
pub(crate) fn ioctl(request: u32) {
    if request == KVM_RUN {
        enter();
    }
}

#[inline(always)]
fn enter() {
    let Some(tgid) = process::traced() else { return };
    let thread = bpf_get_current_pid_tgid() as u32;
    let now_ns = maps::now_ns();
    // Reported before the vCPU is marked as inside: it must not count itself.
    if let Some(vcpu) = known(thread, tgid) {
        let reported = vcpu.paused(now_ns) && report(tgid, now_ns);
        vcpu.enter(now_ns, reported);
    } else {
        let reported = report(tgid, now_ns);
        if let Some(vcpu) = insert(thread, tgid) {
            vcpu.enter(now_ns, reported);
        }
    }
}

/// The vCPU of a thread of `tgid`. An entry of another process is ignored: its thread had the same id, and its end
/// was missed.
#[inline(always)]
fn known(thread: u32, tgid: u32) -> Option<&'static shared::Vcpu> {
    maps::vcpu(thread).filter(|vcpu| vcpu.tgid.get() == tgid)
}

/// Arguments of `kvm:kvm_userspace_exit`.
#[inline(always)]
pub(crate) fn exit_arguments(ctx: &TracePointContext) -> Option<(u32, i32)> {
    // SAFETY: the offset is the tracepoint's field `reason`.
    let reason: u32 = unsafe { ctx.read_at(8) }.ok()?;
    // SAFETY: the offset is the tracepoint's field `errno`.
    let error: i32 = unsafe { ctx.read_at(12) }.ok()?;
    Some((reason, error))
}

/// The tracepoint `kvm:kvm_userspace_exit`: a vCPU leaves KVM.
#[inline(always)]
pub(crate) fn leave(reason: u32, error: i32) {
    let Some(tgid) = process::traced() else { return };
    let thread = bpf_get_current_pid_tgid() as u32;
    let now_ns = maps::now_ns();
    let Some(vcpu) = known(thread, tgid) else {
        // It entered KVM before it was traced.
        if let Some(vcpu) = insert(thread, tgid) {
            vcpu.leave(now_ns, reason, error);
        }
        return;
    };
    let certain = match vcpu.leave(now_ns, reason, error) {
        Left::Run => return,
        Left::Void => 1,
        Left::Doubtful => 0,
    };
    maps::emit(GuestRunVoid {
        header: EventHeader { at_ns: now_ns, kind: kind::GUEST_RUN_VOID, tgid },
        entered_ns: vcpu.entered_ns.get(),
        certain,
    });
}

/// Makes the entry of a new vCPU, and enters it into the list of its process' vCPUs.
#[inline(always)]
fn insert(thread: u32, tgid: u32) -> Option<&'static shared::Vcpu> {
    let process = maps::process(tgid)?;
    let number = claim_vcpu(tgid, thread);
    if number < abi::VCPU_CLAIMS {
        if VCPUS.insert(thread, Vcpu::new(tgid, number), 0).is_ok() {
            abi::reach(&process.vcpu_claims, number);
            return maps::vcpu(thread);
        }
        let _ = VCPU_CLAIMS.remove(Claim { tgid, number });
    }
    maps::count_lost(lost::VCPUS);
    None
}

/// Gives a thread the first number that no vCPU of `tgid` has; [`abi::VCPU_CLAIMS`] if all are taken.
///
/// A global function: the verifier checks it on its own, instead of all that follows once for each number.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn claim_vcpu(tgid: u32, thread: u32) -> u32 {
    for number in 0..abi::VCPU_CLAIMS {
        if claim_number(tgid, thread, number) != 0 {
            return number;
        }
    }
    abi::VCPU_CLAIMS
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn claim_number(tgid: u32, thread: u32, number: u32) -> u32 {
    u32::from(VCPU_CLAIMS.insert(Claim { tgid, number }, thread, u64::from(BPF_NOEXIST)).is_ok())
}

/// A thread ends. If it was a vCPU, it was unplugged, and must not count in later stops.
#[inline(always)]
pub(crate) fn unplug(thread: u32) {
    // Most threads have no entry.
    if let Some(vcpu) = maps::vcpu(thread) {
        let (tgid, number) = (vcpu.tgid.get(), vcpu.claim.get());
        let _ = VCPU_CLAIMS.remove(Claim { tgid, number });
        let _ = VCPUS.remove(thread);
    }
}

/// Empties the list of a process' vCPUs. A global function, like [`claim_vcpu`].
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn disown_vcpus(tgid: u32) -> u32 {
    for number in 0..abi::VCPU_CLAIMS {
        remove_vcpu(tgid, number);
    }
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn remove_vcpu(tgid: u32, number: u32) -> u32 {
    let claim = Claim { tgid, number };
    // SAFETY: the value is copied at once.
    let Some(thread) = (unsafe { VCPU_CLAIMS.get(claim) }).copied() else { return 0 };
    let _ = VCPUS.remove(thread);
    u32::from(VCPU_CLAIMS.remove(claim).is_ok())
}

/// Reports to user space that this run ends a stop of the VM, if it does; returns whether it does.
#[inline(always)]
fn report(tgid: u32, now_ns: u64) -> bool {
    let Some(survey) = survey(tgid, now_ns) else { return false };
    let stopped = survey.stopped(now_ns);
    if stopped {
        let header = EventHeader { at_ns: now_ns, kind: kind::GUEST_RUN, tgid };
        maps::emit(GuestRun { header, vcpus: survey.vcpus });
    }
    stopped
}

/// Looks at the vCPUs of `tgid` as they are now.
#[inline(always)]
pub(crate) fn survey(tgid: u32, now_ns: u64) -> Option<&'static Survey> {
    look_at_vcpus(tgid, now_ns);
    // SAFETY: the map's value for this CPU, which only this program uses until it ends.
    SURVEY.get_ptr(0).map(|survey| unsafe { &*survey })
}

/// Fills in [`SURVEY`]. A global function, like [`claim_vcpu`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn look_at_vcpus(tgid: u32, now_ns: u64) -> u32 {
    let Some(survey) = SURVEY.get_ptr_mut(0) else { return 0 };
    // SAFETY: as in `survey`.
    unsafe { *survey = Survey::default() };
    let claims = maps::process(tgid).map_or(0, |process| process.vcpu_claims.get());
    for number in 0..abi::VCPU_CLAIMS {
        if number >= claims {
            break;
        }
        add_claimed_vcpu(tgid, number, now_ns);
    }
    claims
}

/// Adds the vCPU that has this number among the vCPUs of `tgid`. A global function, like [`claim_vcpu`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn add_claimed_vcpu(tgid: u32, number: u32, now_ns: u64) -> u32 {
    // SAFETY: the value is copied at once.
    let Some(thread) = (unsafe { VCPU_CLAIMS.get(Claim { tgid, number }) }).copied() else { return 0 };
    if let Some(vcpu) = maps::vcpu(thread).map(shared::Vcpu::load)
        && vcpu.tgid == tgid
        && vcpu.claim == number
        && let Some(survey) = SURVEY.get_ptr_mut(0)
    {
        // SAFETY: as in `survey`.
        unsafe { &mut *survey }.add(&vcpu, now_ns);
        return 1;
    }
    0
}
