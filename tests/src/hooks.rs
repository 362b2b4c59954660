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
