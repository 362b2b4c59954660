//! The instrument table: what each instrument observes, the hooks to try in order, and what is lost without it.

use std::path::Path;

use aya::Ebpf;
use aya::programs::{KProbe, RawTracePoint, TracePoint};

use super::btf::{Btf, BtfError};
use super::loading;
use crate::event::{Instrument, InstrumentStatus};

/// A kernel hook and the program for it.
#[derive(Clone, Copy)]
enum Hook {
    Kprobe { program: &'static str, function: &'static str },
    Kretprobe { program: &'static str, function: &'static str },
    Tracepoint { program: &'static str, category: &'static str, name: &'static str },
    RawTracepoint { program: &'static str },
}

/// A hook that may be chosen, and what is worse about it than about the first.
struct Choice {
    hook: Hook,
    lost: Option<&'static str>,
    note: Option<&'static str>,
}

struct Row {
    name: &'static str,
    observes: &'static str,
    /// The first is the best.
    choices: &'static [Choice],
    /// What is lost when no hook works.
    lost: &'static str,
}

const fn best(hook: Hook) -> Choice {
    Choice { hook, lost: None, note: None }
}

/// A tracepoint of `syscalls` puts every task of the host on the slow path of every system call.
const SLOWER: Option<&str> = Some("every system call of this host is a little slower while tracing");
const SENDMSG: Hook = Hook::Kprobe { program: "sendmsg_kprobe", function: "__sys_sendmsg" };
const SENDMSG_TRACEPOINT: Hook =
    Hook::Tracepoint { program: "sendmsg_tracepoint", category: "syscalls", name: "sys_enter_sendmsg" };
const ACCEPT: Hook = Hook::Kretprobe { program: "accept_kretprobe", function: "__sys_accept4" };
const ACCEPT_TRACEPOINT: Hook =
    Hook::Tracepoint { program: "accept_tracepoint", category: "syscalls", name: "sys_exit_accept4" };

const QMP: Row = Row {
    name: "qmp",
    observes: "QEMU's migration events, with the flows' counters at each",
    choices: &[best(SENDMSG), Choice { hook: SENDMSG_TRACEPOINT, lost: None, note: SLOWER }],
    lost: "phases: only the flows' first and last packets are known",
};

const SOCKET: Row = Row {
    name: "socket",
    observes: "which QEMU accepts a flow (and, with qmp, which one sends on it)",
    choices: &[best(ACCEPT), Choice { hook: ACCEPT_TRACEPOINT, lost: None, note: SLOWER }],
    lost: "the instant at which a flow's owner is known: sock_diag and /proc tell it some milliseconds later",
};

const RETRANSMIT: Row = Row {
    name: "retransmit",
    observes: "segments and bytes that this host sends again",
    choices: &[best(Hook::RawTracepoint { program: "tcp_retransmit_skb" })],
    lost: "retransmissions: they are in the bytes, but not told apart",
};

const VCPU_EXIT: Row = Row {
    name: "vcpu-exit",
    observes: "when each vCPU leaves KVM",
    choices: &[
        best(VCPU_EXIT_TRACEPOINT),
        Choice { hook: Hook::RawTracepoint { program: "kvm_userspace_exit" }, lost: None, note: PREEMPTED },
    ],
    lost: "when the vCPUs stop: QEMU's STOP tells of it, up to some milliseconds later",
};

/// Programs of a tracepoint's events run without being preempted on every kernel.
const VCPU_EXIT_TRACEPOINT: Hook =
    Hook::Tracepoint { program: "vcpu_exit_tracepoint", category: "kvm", name: "kvm_userspace_exit" };
/// A program that is preempted is skipped, on the same CPU, by whoever reaches it meanwhile.
const PREEMPTED: Option<&str> = Some(
    "newer kernels preempt the program of a raw tracepoint: the exit of another vCPU meanwhile is lost, and counted",
);

const VCPU_RUN: Row = Row {
    name: "vcpu-run",
    observes: "when a vCPU enters KVM after a stop",
    choices: &[
        best(Hook::Kprobe { program: "vcpu_ioctl_kprobe", function: "kvm_vcpu_ioctl" }),
        Choice { hook: VCPU_IOCTL_TRACEPOINT, lost: None, note: SLOWER },
    ],
    lost: "when the first vCPU runs again: QEMU's RESUME tells of it, some milliseconds before",
};

const VCPU_IOCTL_TRACEPOINT: Hook =
    Hook::Tracepoint { program: "vcpu_ioctl_tracepoint", category: "syscalls", name: "sys_enter_ioctl" };

const DIRTY_LOG: Row = Row {
    name: "dirty-log",
    observes: "where a round of copying ends, when QEMU does not tell",
    choices: &[
        best(Hook::Kprobe { program: "vm_ioctl_kprobe", function: "kvm_vm_ioctl" }),
        Choice { hook: VM_IOCTL_TRACEPOINT, lost: None, note: SLOWER },
    ],
    lost: "the rounds of copying of a QEMU whose capability `events` is off",
};

const VM_IOCTL_TRACEPOINT: Hook =
    Hook::Tracepoint { program: "vm_ioctl_tracepoint", category: "syscalls", name: "sys_enter_ioctl" };

/// It is there while a module of KVM is loaded, and exists from the boot on where KVM is not a module.
const KVM_DEVICE: &str = "/sys/class/misc/kvm";

/// Instruments of KVM can only be attached while KVM is there.
const NO_KVM: &str = "this kernel has no KVM now (`modprobe kvm_intel` or `kvm_amd` before tracing)";

const EXEC: Row = Row {
    name: "exec",
    observes: "QEMUs that start while tracing",
    choices: &[best(Hook::RawTracepoint { program: "sched_process_exec" })],
    lost: "up to a second of a QEMU that starts while tracing: /proc is read once a second instead",
};

const FORK: Row = Row {
    name: "fork",
    observes: "QEMUs that go into the background (`-daemonize`)",
    choices: &[best(Hook::RawTracepoint { program: "sched_process_fork" })],
    lost: "up to a second of a QEMU that goes into the background while tracing: /proc is read once a second instead",
};

const EXIT: Row = Row {
    name: "exit",
    observes: "the end of a traced QEMU",
    choices: &[best(Hook::RawTracepoint { program: "sched_process_exit" })],
    lost: "the instant at which a QEMU ends: /proc is read once a second instead",
};

/// Something resolved from the kernel's BTF, or all zeros and the reason.
pub(super) struct Resolved<T> {
    pub(super) value: T,
    pub(super) why_not: Option<String>,
}

pub(super) fn resolve<T: Default>(
    btf: &Result<Btf, BtfError>,
    read: impl Fn(&Btf) -> Result<T, BtfError>,
) -> Resolved<T> {
    let failed = |error: &BtfError| Resolved { value: T::default(), why_not: Some(error.to_string()) };
    match btf {
        Ok(btf) => read(btf).map_or_else(|error| failed(&error), |value| Resolved { value, why_not: None }),
        Err(error) => failed(error),
    }
}

/// Loads and attaches every instrument. A instrument that cannot be attached is a row that says so, not an error.
pub(super) fn attach_all<S, R, T>(
    ebpf: &mut Ebpf,
    socket_offsets: &Resolved<S>,
    retransmit_offsets: &Resolved<R>,
    task_tgid: &Resolved<T>,
) -> Vec<Instrument> {
    let no_kvm = (!Path::new(KVM_DEVICE).exists()).then_some(NO_KVM);
    let needs_both = socket_offsets.why_not.as_deref().or(retransmit_offsets.why_not.as_deref());
    vec![
        attach(ebpf, &QMP, None),
        attach(ebpf, &SOCKET, socket_offsets.why_not.as_deref()),
        attach(ebpf, &RETRANSMIT, needs_both),
        attach(ebpf, &VCPU_EXIT, no_kvm),
        attach(ebpf, &VCPU_RUN, no_kvm),
        attach(ebpf, &DIRTY_LOG, no_kvm),
        attach(ebpf, &EXEC, None),
        attach(ebpf, &FORK, task_tgid.why_not.as_deref()),
        attach(ebpf, &EXIT, None),
    ]
}

fn attach(ebpf: &mut Ebpf, row: &Row, impossible: Option<&str>) -> Instrument {
    let mut instrument = Instrument {
        name: row.name.into(),
        observes: row.observes.into(),
        status: InstrumentStatus::Missing,
        hook: None,
        lost: Some(row.lost.into()),
        note: None,
        why: None,
    };
    let mut refused: Vec<String> = impossible.map(str::to_owned).into_iter().collect();
    let choices = if impossible.is_some() { &[] } else { row.choices };
    for (index, choice) in choices.iter().enumerate() {
        match choice.hook.attach(ebpf) {
            Ok(()) => {
                instrument.hook = Some(choice.hook.name());
                instrument.status =
                    if index == 0 { InstrumentStatus::Ok } else { InstrumentStatus::Fallback };
                instrument.lost = choice.lost.map(Into::into);
                instrument.note = choice.note.map(Into::into);
                break;
            }
            Err(why) => refused.push(format!("{}: {why}", choice.hook.name())),
        }
    }
    instrument.why = (!refused.is_empty()).then(|| refused.join("; "));
    instrument
}

impl Hook {
    fn name(self) -> String {
        match self {
            Self::Kprobe { function, .. } => format!("kprobe:{function}"),
            Self::Kretprobe { function, .. } => format!("kretprobe:{function}"),
            Self::Tracepoint { category, name, .. } => format!("tracepoint:{category}:{name}"),
            Self::RawTracepoint { program } => format!("raw_tracepoint:{program}"),
        }
    }

    fn attach(self, ebpf: &mut Ebpf) -> Result<(), String> {
        let name = match self {
            Self::Kprobe { program, .. }
            | Self::Kretprobe { program, .. }
            | Self::Tracepoint { program, .. }
            | Self::RawTracepoint { program } => program,
        };
        let program = ebpf.program_mut(name).ok_or_else(|| format!("the object has no program {name}"))?;
        let attached = match self {
            Self::Kprobe { function, .. } | Self::Kretprobe { function, .. } => {
                <&mut KProbe>::try_from(program).and_then(|program| {
                    loading::retry(|| program.load())?;
                    program.attach(function, 0).map(drop)
                })
            }
            Self::Tracepoint { category, name, .. } => {
                <&mut TracePoint>::try_from(program).and_then(|program| {
                    loading::retry(|| program.load())?;
                    program.attach(category, name).map(drop)
                })
            }
            Self::RawTracepoint { program: tracepoint } => {
                <&mut RawTracePoint>::try_from(program).and_then(|program| {
                    loading::retry(|| program.load())?;
                    program.attach(tracepoint).map(drop)
                })
            }
        };
        attached.map_err(|error| loading::why(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_type_is_a_reason_and_no_error() {
        let resolved = resolve::<u32>(&Err(BtfError::NoType("struct file".into())), |_| Ok(1));
        assert_eq!(resolved.value, 0);
        assert_eq!(resolved.why_not.as_deref(), Some("this kernel's BTF has no struct file"));
    }
}
