//! When the vCPUs of traced QEMUs enter and leave KVM, and what that tells of their VM.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::bpf_get_current_pid_tgid,
    programs::{ProbeContext, TracePointContext},
};
use migtrace_ebpf::{
    abi::{self, Claim, GuestRun, GuestRunVoid, Header, Vcpu, kind, lost, shared},
    vcpu_state::{Left, Survey},
};

use super::{
    maps::{self, SURVEY, VCPU_CLAIMS, VCPUS},
    process,
};

/// `_IO(KVMIO, 0x80)`
const KVM_RUN: u64 = 0xae80;

/// `kvm_vcpu_ioctl(struct file *, unsigned int request, unsigned long argument)` is called.
#[inline(always)]
pub(crate) fn ioctl(ctx: &ProbeContext) {
    if ctx.arg::<u32>(1).map(u64::from) == Some(KVM_RUN) {
        enter();
    }
}

/// `ioctl(fd, request, argument)` is called.
#[inline(always)]
pub(crate) fn system_call(ctx: &TracePointContext) {
    if process::ioctl_request(ctx) == Some(KVM_RUN) {
        enter();
    }
}

#[inline(always)]
fn enter() {
    let Some(tgid) = process::traced() else { return };
    let thread = bpf_get_current_pid_tgid() as u32;
    let now_ns = maps::now_ns();
    // Told before the vCPU is marked as inside: it must not count itself.
    if let Some(vcpu) = known(thread, tgid) {
        let told = vcpu.paused(now_ns) && tell(tgid, now_ns);
        vcpu.enter(now_ns, told);
    } else {
        let told = tell(tgid, now_ns);
        if let Some(vcpu) = insert(thread, tgid) {
            vcpu.enter(now_ns, told);
        }
    }
}

/// The vCPU of a thread of `tgid`. The id may have been another process' thread's, whose end was not seen.
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
        // It was in KVM before the tracing.
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
        header: Header { at_ns: now_ns, kind: kind::GUEST_RUN_VOID, tgid },
        entered_ns: vcpu.entered_ns.get(),
        certain,
    });
}

/// Makes the entry of a vCPU that was not seen before, and enters it into the list of its process'.
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

/// Gives a thread the first number that no vCPU of `tgid` has; beyond the last if there is none.
///
/// A global function: the verifier looks at it by itself, and not at all that follows once for each number.
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

/// A thread ends: a vCPU that is unplugged has no part in what follows.
#[inline(always)]
pub(crate) fn unplug(thread: u32) {
    // Of most threads there is no entry.
    if let Some(vcpu) = maps::vcpu(thread) {
        let (tgid, number) = (vcpu.tgid.get(), vcpu.claim.get());
        let _ = VCPU_CLAIMS.remove(Claim { tgid, number });
        let _ = VCPUS.remove(thread);
    }
}

/// Takes everything out of the list of a process' vCPUs. A global function, as [`claim_vcpu`].
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

/// Tells user space if this run ends a stop of the VM; says whether it does.
#[inline(always)]
fn tell(tgid: u32, now_ns: u64) -> bool {
    let Some(survey) = survey(tgid, now_ns) else { return false };
    let stopped = survey.stopped(now_ns);
    if stopped {
        let header = Header { at_ns: now_ns, kind: kind::GUEST_RUN, tgid };
        maps::emit(GuestRun { header, vcpus: survey.vcpus });
    }
    stopped
}

/// Looks at the vCPUs of `tgid` as they are now.
#[inline(always)]
pub(crate) fn survey(tgid: u32, now_ns: u64) -> Option<&'static Survey> {
    look_at_vcpus(tgid, now_ns);
    // SAFETY: the map's value, which is this CPU's, and this program's until its end.
    SURVEY.get_ptr(0).map(|survey| unsafe { &*survey })
}

/// Fills in [`SURVEY`]. A global function, as [`claim_vcpu`].
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

/// Looks at the vCPU that has this number among those of `tgid`.
///
/// A global function, as [`claim_vcpu`].
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
