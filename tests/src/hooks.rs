//! Where the instruments are to be.

/// Each instrument, and its hook on a kernel with kprobes and KVM. `wire` is missing: its hooks depend on the kernel.
pub const BEST_HOOKS: [(&str, &str); 10] = [
    ("qmp", "kprobe:__sys_sendmsg"),
    ("socket", "kretprobe:__sys_accept4"),
    ("retransmit", "raw_tracepoint:tcp_retransmit_skb"),
    ("vcpu-exit", "tracepoint:kvm:kvm_userspace_exit"),
    ("vcpu-run", "kprobe:kvm_vcpu_ioctl"),
    ("dirty-log", "kprobe:kvm_vm_ioctl"),
    ("connect", "raw_tracepoint:inet_sock_set_state"),
    ("exec", "raw_tracepoint:sched_process_exec"),
    ("fork", "raw_tracepoint:sched_process_fork"),
    ("exit", "raw_tracepoint:sched_process_exit"),
];

/// The same where the kernel refuses perf events: trampolines and raw tracepoints stand in.
#[must_use]
pub fn hooks_without_perf_events() -> [(&'static str, &'static str); 10] {
    BEST_HOOKS.map(|(name, hook)| match name {
        "qmp" => (name, "fentry:__sys_sendmsg"),
        "socket" => (name, "fexit:__sys_accept4"),
        "vcpu-exit" => (name, "raw_tracepoint:kvm_userspace_exit"),
        "vcpu-run" | "dirty-log" => (name, "fentry:security_file_ioctl"),
        _ => (name, hook),
    })
}
