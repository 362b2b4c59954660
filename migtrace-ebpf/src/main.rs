//! The kernel programs of migtrace: where each one enters. The work is in `programs`, the arithmetic in the library.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch, stmt_expr_attributes))]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        clippy::multiple_unsafe_ops_per_block,
        reason = "a field behind a map's pointer is a dereference and an access, both under the same promise"
    )
)]

#[cfg(target_arch = "bpf")]
mod programs;

/// On any other target there is no program: `cargo build --workspace` still works.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

/// One function for each hook.
#[cfg(target_arch = "bpf")]
mod hooks {
    use aya_ebpf::{
        macros::{classifier, fentry, fexit, kprobe, kretprobe, raw_tracepoint, tracepoint},
        programs::{
            FEntryContext, FExitContext, ProbeContext, RawTracePointContext, RetProbeContext, TcContext,
            TracePointContext,
        },
    };
    use migtrace_ebpf::abi::{EGRESS, INGRESS};

    use super::programs::{control, dirty_log, echo, opening, process, qmp, retransmission, tap, vcpu, wire};

    /// Lets the next program decide, as if this one were not there: `TC_ACT_OK` would end the chain.
    const TC_ACT_UNSPEC: i32 = -1;

    #[classifier]
    fn migtrace_ingress(ctx: TcContext) -> i32 {
        wire::count(&ctx, INGRESS);
        TC_ACT_UNSPEC
    }

    #[classifier]
    fn migtrace_egress(ctx: TcContext) -> i32 {
        wire::count(&ctx, EGRESS);
        TC_ACT_UNSPEC
    }

    #[classifier]
    fn migtrace_echo_ingress(ctx: TcContext) -> i32 {
        echo::follow(&ctx);
        TC_ACT_UNSPEC
    }

    #[classifier]
    fn migtrace_echo_egress(ctx: TcContext) -> i32 {
        echo::follow(&ctx);
        TC_ACT_UNSPEC
    }

    /// Ingress of a tap: what comes in there comes from the guest.
    #[classifier]
    fn migtrace_guest(ctx: TcContext) -> i32 {
        tap::notice(&ctx);
        TC_ACT_UNSPEC
    }

    /// Attached nowhere: user space runs it by `BPF_PROG_TEST_RUN`.
    #[classifier]
    fn migtrace_control(ctx: TcContext) -> i32 {
        control::obey(&ctx)
    }

    // __sys_sendmsg(int fd, struct user_msghdr *msg, unsigned int flags, bool forbid_cmsg_compat)
    #[kprobe]
    fn sendmsg_kprobe(ctx: ProbeContext) -> u32 {
        if let (Some(fd), Some(message)) = (ctx.arg(0), ctx.arg(1)) {
            qmp::sendmsg(fd, message);
        }
        0
    }

    #[fentry]
    fn sendmsg_fentry(ctx: FEntryContext) -> i32 {
        qmp::sendmsg(ctx.arg(0), ctx.arg(1));
        0
    }

    #[tracepoint]
    fn sendmsg_tracepoint(ctx: TracePointContext) -> u32 {
        if let Some((fd, message)) = qmp::tracepoint_arguments(&ctx) {
            qmp::sendmsg(fd, message);
        }
        0
    }

    // int __sys_accept4(int fd, struct sockaddr *addr, int *addrlen, int flags)
    #[kretprobe]
    fn accept_kretprobe(ctx: RetProbeContext) -> u32 {
        qmp::accepted(ctx.ret());
        0
    }

    #[fexit]
    fn accept_fexit(ctx: FExitContext) -> i32 {
        // What the function returns follows its four arguments; a helper gives it only from Linux 5.17 on.
        qmp::accepted(ctx.arg(4));
        0
    }

    #[tracepoint]
    fn accept_tracepoint(ctx: TracePointContext) -> u32 {
        if let Some(fd) = qmp::tracepoint_result(&ctx) {
            qmp::accepted(fd);
        }
        0
    }

    // (const struct sock *sk, const struct sk_buff *skb[, int err])
    #[raw_tracepoint(tracepoint = "tcp_retransmit_skb")]
    fn tcp_retransmit_skb(ctx: RawTracePointContext) -> i32 {
        retransmission::count(&ctx);
        0
    }

    // (const struct sock *sk, const int oldstate, const int newstate)
    #[raw_tracepoint(tracepoint = "inet_sock_set_state")]
    fn inet_sock_set_state(ctx: RawTracePointContext) -> i32 {
        opening::state_changed(&ctx);
        0
    }

    // (__u32 reason, int errno)
    #[raw_tracepoint(tracepoint = "kvm_userspace_exit")]
    fn kvm_userspace_exit(ctx: RawTracePointContext) -> i32 {
        vcpu::leave(ctx.arg(0), ctx.arg(1));
        0
    }

    #[tracepoint]
    fn vcpu_exit_tracepoint(ctx: TracePointContext) -> u32 {
        if let Some((reason, error)) = vcpu::exit_arguments(&ctx) {
            vcpu::leave(reason, error);
        }
        0
    }

    // long kvm_vcpu_ioctl(struct file *, unsigned int request, unsigned long argument)
    #[kprobe]
    fn vcpu_ioctl_kprobe(ctx: ProbeContext) -> u32 {
        if let Some(request) = ctx.arg(1) {
            vcpu::ioctl(request);
        }
        0
    }

    // int security_file_ioctl(struct file *, unsigned int request, unsigned long argument)
    #[fentry]
    fn vcpu_ioctl_fentry(ctx: FEntryContext) -> i32 {
        vcpu::ioctl(ctx.arg(1));
        0
    }

    #[tracepoint]
    fn vcpu_ioctl_tracepoint(ctx: TracePointContext) -> u32 {
        if let Some((request, _)) = process::ioctl_arguments(&ctx) {
            vcpu::ioctl(request);
        }
        0
    }

    // long kvm_vm_ioctl(struct file *, unsigned int request, unsigned long argument)
    #[kprobe]
    fn vm_ioctl_kprobe(ctx: ProbeContext) -> u32 {
        if let (Some(request), Some(argument)) = (ctx.arg(1), ctx.arg(2)) {
            dirty_log::ioctl(request, argument);
        }
        0
    }

    #[fentry]
    fn vm_ioctl_fentry(ctx: FEntryContext) -> i32 {
        dirty_log::ioctl(ctx.arg(1), ctx.arg(2));
        0
    }

    #[tracepoint]
    fn vm_ioctl_tracepoint(ctx: TracePointContext) -> u32 {
        if let Some((request, argument)) = process::ioctl_arguments(&ctx) {
            dirty_log::ioctl(request, argument);
        }
        0
    }

    #[raw_tracepoint(tracepoint = "sched_process_exec")]
    fn sched_process_exec(_ctx: RawTracePointContext) -> i32 {
        process::exec();
        0
    }

    // (struct task_struct *parent, struct task_struct *child)
    #[raw_tracepoint(tracepoint = "sched_process_fork")]
    fn sched_process_fork(ctx: RawTracePointContext) -> i32 {
        process::fork(&ctx);
        0
    }

    #[raw_tracepoint(tracepoint = "sched_process_exit")]
    fn sched_process_exit(_ctx: RawTracePointContext) -> i32 {
        process::exit();
        0
    }
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// Several helpers are for GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
