//! The instrument table. Operators read its texts in `migtrace doctor` and in a record's `not_measured`.
//!
//! A new instrument needs an entry here, and its program in the eBPF object.

/// What can be observed in the kernel, and how.
pub(super) struct Definition {
    pub(super) name: &'static str,
    /// What it observes; completes "not measured: ...".
    pub(super) observes: &'static str,
    /// What the kernel must have for any of the hooks.
    pub(super) needs: &'static [Need],
    /// The hooks to try in this order; the first is the best.
    pub(super) hooks: &'static [Hook],
    /// What is lost when no hook works.
    pub(super) lost: &'static str,
    /// What becomes of it while migtrace sleeps.
    pub(super) asleep: Asleep,
}

/// What becomes of an instrument while migtrace sleeps. A hook that slows every system call is detached then, unless the
/// instrument is one that always stays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Asleep {
    /// Without it, the beginning of a migration would be missed.
    AlwaysStays,
    /// It fires rarely.
    Stays,
    /// It fires often.
    Detached,
}

/// The category of tracepoints at system calls.
const SYSTEM_CALLS: &str = "syscalls";

/// A place in the kernel, and the program that is attached there.
pub(super) struct Hook {
    pub(super) point: AttachPoint,
    pub(super) program: &'static str,
    /// What is worse about this hook than about the first one.
    pub(super) note: Option<&'static str>,
}

/// A place in the kernel where a program can be attached.
#[derive(Clone, Copy)]
pub(super) enum AttachPoint {
    Kprobe {
        function: &'static str,
    },
    Kretprobe {
        function: &'static str,
    },
    /// As a kprobe, but no perf event. Only functions of the kernel itself, none of its modules.
    Fentry {
        function: &'static str,
    },
    Fexit {
        function: &'static str,
    },
    Tracepoint {
        category: &'static str,
        name: &'static str,
    },
    RawTracepoint {
        name: &'static str,
    },
}

/// What not every kernel has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::kernel) enum Need {
    Kvm,
    SocketOffsets,
    RetransmitOffsets,
    OpeningOffsets,
    TaskTgid,
}

/// Every instrument but `wire`, whose hooks are at interfaces.
pub(super) static TABLE: [Definition; 10] = [
    Definition {
        name: "qmp",
        observes: "QEMU's migration events, each with the flow counters at that instant",
        needs: &[],
        hooks: &[
            kprobe("__sys_sendmsg", "sendmsg_kprobe"),
            Hook {
                note: Some(
                    "newer kernels can preempt the program: if another QEMU sends on that CPU meanwhile, that \
                     event is lost (and counted as lost)",
                ),
                ..fentry("__sys_sendmsg", "sendmsg_fentry")
            },
            system_call("sys_enter_sendmsg", "sendmsg_tracepoint"),
        ],
        lost: "phases: only the first and the last packet of each flow are known",
        asleep: Asleep::AlwaysStays,
    },
    Definition {
        name: "socket",
        observes: "which QEMU accepts a flow (with `qmp`, also which QEMU sends on it)",
        needs: &[Need::SocketOffsets],
        hooks: &[
            kretprobe("__sys_accept4", "accept_kretprobe"),
            Hook {
                point: AttachPoint::Fexit { function: "__sys_accept4" },
                program: "accept_fexit",
                note: Some(
                    "newer kernels can preempt the program: an owner that is not seen therefore is known some \
                     milliseconds later",
                ),
            },
            system_call("sys_exit_accept4", "accept_tracepoint"),
        ],
        lost: "the exact time from which a flow's owner is known: sock_diag and /proc show the owner some \
               milliseconds later",
        asleep: Asleep::Stays,
    },
    Definition {
        name: "retransmit",
        observes: "segments and bytes that this host retransmits",
        needs: &[Need::SocketOffsets, Need::RetransmitOffsets],
        hooks: &[raw_tracepoint("tcp_retransmit_skb")],
        lost: "retransmissions: they are included in the bytes but not counted separately",
        asleep: Asleep::Stays,
    },
    Definition {
        name: "vcpu-exit",
        observes: "when each vCPU leaves KVM",
        needs: &[Need::Kvm],
        hooks: &[
            // No kernel preempts a program at a tracepoint.
            tracepoint("kvm", "kvm_userspace_exit", "vcpu_exit_tracepoint"),
            Hook {
                // A program that is preempted is skipped for everybody else who reaches it on that CPU
                // meanwhile.
                note: Some(
                    "newer kernels can preempt the program of a raw tracepoint: if another vCPU exits \
                     meanwhile, that exit is lost (and counted as lost)",
                ),
                ..raw_tracepoint("kvm_userspace_exit")
            },
        ],
        lost: "when the vCPUs stop: QEMU's STOP event comes up to some milliseconds later",
        asleep: Asleep::Detached,
    },
    Definition {
        name: "vcpu-run",
        observes: "when a vCPU enters KVM after a stop",
        needs: &[Need::Kvm],
        hooks: &[
            kprobe("kvm_vcpu_ioctl", "vcpu_ioctl_kprobe"),
            ioctl("vcpu_ioctl_fentry"),
            system_call("sys_enter_ioctl", "vcpu_ioctl_tracepoint"),
        ],
        lost: "when the first vCPU runs again: QEMU's RESUME event comes some milliseconds earlier",
        asleep: Asleep::Detached,
    },
    Definition {
        name: "dirty-log",
        observes: "where a pass ends when QEMU emits no event",
        needs: &[Need::Kvm],
        hooks: &[
            kprobe("kvm_vm_ioctl", "vm_ioctl_kprobe"),
            ioctl("vm_ioctl_fentry"),
            system_call("sys_enter_ioctl", "vm_ioctl_tracepoint"),
        ],
        lost: "the passes of a QEMU whose migration capability `events` is off",
        asleep: Asleep::Detached,
    },
    Definition {
        name: "connect",
        observes: "connections that open while migtrace sleeps",
        needs: &[Need::SocketOffsets, Need::OpeningOffsets],
        hooks: &[raw_tracepoint("inet_sock_set_state")],
        lost: "sleep: between migrations `migtrace watch` costs as much as while it waits for one",
        asleep: Asleep::AlwaysStays,
    },
    Definition {
        name: "exec",
        observes: "QEMUs that start while migtrace traces",
        needs: &[],
        hooks: &[raw_tracepoint("sched_process_exec")],
        lost: "up to a second of a QEMU that starts while migtrace traces: /proc is read once a second instead",
        asleep: Asleep::Stays,
    },
    Definition {
        name: "fork",
        observes: "QEMUs that go into the background (`-daemonize`)",
        needs: &[Need::TaskTgid],
        hooks: &[raw_tracepoint("sched_process_fork")],
        lost: "up to a second of a QEMU that goes into the background while migtrace traces: /proc is read once \
               a second instead",
        asleep: Asleep::Stays,
    },
    Definition {
        name: "exit",
        observes: "the end of a traced QEMU",
        needs: &[],
        hooks: &[raw_tracepoint("sched_process_exit")],
        lost: "the exact time at which a QEMU ends: /proc is read once a second instead",
        asleep: Asleep::Stays,
    },
];

impl Hook {
    /// Whether every system call of every task is slower while it is attached.
    pub(super) fn slows_system_calls(&self) -> bool {
        matches!(self.point, AttachPoint::Tracepoint { category, .. } if category == SYSTEM_CALLS)
    }
}

const fn kprobe(function: &'static str, program: &'static str) -> Hook {
    Hook { point: AttachPoint::Kprobe { function }, program, note: None }
}

const fn kretprobe(function: &'static str, program: &'static str) -> Hook {
    Hook { point: AttachPoint::Kretprobe { function }, program, note: None }
}

const fn fentry(function: &'static str, program: &'static str) -> Hook {
    Hook { point: AttachPoint::Fentry { function }, program, note: None }
}

/// The function of the kernel that every ioctl passes: those of KVM are in a module.
const fn ioctl(program: &'static str) -> Hook {
    let note = Some(
        "while migtrace traces, every ioctl on this host is slightly slower; newer kernels can preempt the \
         program: what others ask of KVM on that CPU meanwhile is lost (and counted as lost)",
    );
    Hook { note, ..fentry("security_file_ioctl", program) }
}

const fn tracepoint(category: &'static str, name: &'static str, program: &'static str) -> Hook {
    Hook { point: AttachPoint::Tracepoint { category, name }, program, note: None }
}

/// The program has the tracepoint's name.
const fn raw_tracepoint(name: &'static str) -> Hook {
    Hook { point: AttachPoint::RawTracepoint { name }, program: name, note: None }
}

/// A tracepoint of `syscalls`. It puts every task of the host on the slow path of every system call.
const fn system_call(name: &'static str, program: &'static str) -> Hook {
    let note = Some("while migtrace traces, every system call on this host is slightly slower");
    Hook { note, ..tracepoint(SYSTEM_CALLS, name, program) }
}
