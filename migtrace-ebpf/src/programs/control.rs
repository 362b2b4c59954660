//! What user space asks for: see [`Command`].

use aya_ebpf::programs::TcContext;
use migtrace_ebpf::abi::{Command, FlowKey, command, flags, shared};

use super::{
    flow,
    maps::{self, FLOWS},
    vcpu,
};

/// The command stands behind a header of Ethernet, without which nothing is a packet.
const COMMAND: usize = 14;

/// Does what the packet asks for; returns whether it could.
#[inline(always)]
pub(crate) fn obey(ctx: &TcContext) -> i32 {
    let Ok(command) = ctx.load::<Command>(COMMAND) else { return 0 };
    i32::from(done(&command))
}

#[inline(always)]
fn done(command: &Command) -> bool {
    let Command { command, tgid, opened_ns, key, .. } = command;
    match *command {
        command::ADOPT => flow::adopt(key, maps::now_ns()),
        command::OWN => {
            flow::own(key, *tgid, 1);
            true
        }
        command::SETTLE => {
            let Some(flow) = meant(key, *opened_ns) else { return false };
            flow::settle(flow);
            true
        }
        command::RETIRE => {
            let Some(flow) = meant(key, *opened_ns) else { return false };
            flow.set(flags::RETIRED);
            flow::settle(flow);
            flow::release(flow, key);
            true
        }
        command::REMOVE => meant(key, *opened_ns).is_some() && FLOWS.remove(key).is_ok(),
        command::DISOWN => {
            flow::disown_flows(*tgid);
            vcpu::disown_vcpus(*tgid);
            true
        }
        _ => false,
    }
}

/// The flow that user space means, unless another connection has taken its place since.
#[inline(always)]
fn meant(key: &FlowKey, opened_ns: u64) -> Option<&'static shared::FlowEntry> {
    maps::flow(key).filter(|flow| flow.opened_ns.get() == opened_ns)
}
