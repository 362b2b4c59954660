//! When the vCPUs of traced QEMUs enter and leave KVM, and what that tells of their VM.

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::{bpf_for_each_map_elem, bpf_get_current_pid_tgid},
    programs::{ProbeContext, RawTracePointContext, TracePointContext},
};
use core::ffi::c_void;
use migtrace_ebpf::{
    abi::{GuestRun, GuestRunVoid, Header, Vcpu, Vcpus, kind, lost},
    vcpu_state::{Left, Survey},
};

use crate::{
    maps::{self, VCPUS},
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
    if let Some(vcpu) = VCPUS.get_ptr_mut(thread) {
        // SAFETY: the map's value; only its own thread writes to it.
        let vcpu = unsafe { &mut *vcpu };
        let told = vcpu.paused(now_ns) && tell(tgid, now_ns);
        vcpu.enter(now_ns, told);
    } else {
        let mut vcpu = Vcpu::new(tgid);
        vcpu.enter(now_ns, tell(tgid, now_ns));
        insert(thread, &vcpu);
    }
}

/// The tracepoint `kvm:kvm_userspace_exit`: a vCPU leaves KVM.
#[inline(always)]
pub(crate) fn leave(ctx: &RawTracePointContext) {
    let Some(tgid) = process::traced() else { return };
    let thread = bpf_get_current_pid_tgid() as u32;
    let now_ns = maps::now_ns();
    let (reason, error): (u32, i32) = (ctx.arg(0), ctx.arg(1));
    let Some(vcpu) = VCPUS.get_ptr_mut(thread) else {
        // It was in KVM before the tracing.
        let mut vcpu = Vcpu::new(tgid);
        vcpu.leave(now_ns, reason, error);
        return insert(thread, &vcpu);
    };
    // SAFETY: the map's value; only its own thread writes to it.
    let vcpu = unsafe { &mut *vcpu };
    let certain = match vcpu.leave(now_ns, reason, error) {
        Left::Run => return,
        Left::Void => 1,
        Left::Doubtful => 0,
    };
    maps::emit(GuestRunVoid {
        header: Header { at_ns: now_ns, kind: kind::GUEST_RUN_VOID, tgid },
        entered_ns: vcpu.entered_ns,
        certain,
    });
}

#[inline(always)]
fn insert(thread: u32, vcpu: &Vcpu) {
    if VCPUS.insert(thread, vcpu, u64::from(BPF_NOEXIST)).is_err() {
        maps::count_lost(lost::VCPUS);
    }
}

/// Tells user space if this run ends a stop of the VM; says whether it does.
#[inline(always)]
fn tell(tgid: u32, now_ns: u64) -> bool {
    let survey = look(tgid, now_ns);
    let stopped = survey.stopped(now_ns);
    if stopped {
        let header = Header { at_ns: now_ns, kind: kind::GUEST_RUN, tgid };
        maps::emit(GuestRun { header, vcpus: survey.vcpus });
    }
    stopped
}

/// The vCPUs of `tgid` now.
#[inline(always)]
pub(crate) fn survey(tgid: u32, now_ns: u64) -> Vcpus {
    look(tgid, now_ns).vcpus
}

/// What [`add_vcpu`] works on.
#[repr(C)]
struct Look {
    tgid: u64,
    now_ns: u64,
    survey: Survey,
}

#[inline(always)]
fn look(tgid: u32, now_ns: u64) -> Survey {
    let mut look = Look { tgid: u64::from(tgid), now_ns, survey: Survey::default() };
    // SAFETY: the callback has the type that the helper asks for, and the context outlives the call.
    unsafe {
        bpf_for_each_map_elem(
            (&raw const VCPUS).cast_mut().cast(),
            add_vcpu as *mut c_void,
            (&raw mut look).cast(),
            0,
        );
    }
    look.survey
}

extern "C" fn add_vcpu(_map: *mut c_void, _thread: *const u32, vcpu: *const Vcpu, look: *mut Look) -> i64 {
    // SAFETY: the kernel passes the map's value, and our own context.
    let (vcpu, look) = unsafe { (&*vcpu, &mut *look) };
    if u64::from(vcpu.tgid) == look.tgid {
        look.survey.add(vcpu, look.now_ns);
    }
    0
}
