//! Carries out the requests of user space: see [`Command`].

use aya_ebpf::programs::TcContext;
use migtrace_ebpf::abi::{Command, FlowKey, command, flags, shared};

use super::{
    flow,
    maps::{self, FLOWS},
    ownership, vcpu,
};

/// Offset of the command: it follows an Ethernet header, without which the kernel accepts no packet.
const COMMAND: usize = 14;

/// Carries out the command in the packet; returns 1 on success, else 0.
#[inline(always)]
pub(crate) fn obey(ctx: &TcContext) -> i32 {
    let Ok(command) = ctx.load::<Command>(COMMAND) else { return 0 };
    i32::from(carry_out(&command))
}

#[inline(always)]
fn carry_out(command: &Command) -> bool {
    let Command { command, tgid, opened_ns, key, initial_sequences, positions, .. } = command;
    match *command {
        command::ADOPT => flow::adopt(key, maps::now_ns()),
        command::OWN => {
            ownership::own(key, *tgid, 1);
            true
        }
        command::SETTLE => {
            let Some(flow) = meant(key, *opened_ns) else { return false };
            ownership::settle(flow);
            true
        }
        command::RETIRE => {
            let Some(flow) = meant(key, *opened_ns) else { return false };
            flow.set(flags::RETIRED);
            ownership::settle(flow);
            ownership::release(flow, key);
            true
        }
        command::REMOVE => meant(key, *opened_ns).is_some() && FLOWS.remove(key).is_ok(),
        command::DISOWN => {
            ownership::disown_flows(*tgid);
            vcpu::disown_vcpus(*tgid);
            true
        }
        command::BEGIN_MILESTONES => {
            let Some(flow) = meant(key, *opened_ns) else { return false };
            flow.begin_milestones_late(*initial_sequences, *positions)
        }
        _ => false,
    }
}

/// The flow that user space means, unless another connection has taken its place meanwhile.
#[inline(always)]
fn meant(key: &FlowKey, opened_ns: u64) -> Option<&'static shared::FlowEntry> {
    maps::flow(key).filter(|flow| flow.opened_ns.get() == opened_ns)
}
