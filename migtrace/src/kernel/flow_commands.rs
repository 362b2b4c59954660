//! Commands about flows. Only the programs write to the flow table, so user space asks one of them for each
//! change, by a test run.

use aya::Ebpf;
use aya::programs::{TestRun as _, TestRunOptions};
use bytes::BufMut as _;
use migtrace_ebpf::abi::{Command, FlowEntry, FlowKey, command};
use zerocopy::IntoBytes as _;

use super::flows::{self, FlowState};
use super::{FLOWS, FlowId, Kernel, KernelError, maps, programs};
use crate::errors::with_causes;
use crate::units::{Directions, Flow};

/// The program that takes commands.
pub(super) const PROGRAM: &str = "migtrace_control";

/// A test run needs a packet, and a packet an Ethernet header.
const ETHERNET_HEADER: usize = 14;

impl Kernel {
    /// Counts a connection that is already open; false when the table is full.
    pub(crate) fn adopt(&self, flow: Flow) -> Result<bool, KernelError> {
        adopt(&self.ebpf, flow)
    }

    /// Makes a process the owner of a flow. The programs report it like an owner that they found themselves.
    pub(crate) fn own(&self, flow: Flow, pid: u32) -> Result<(), KernelError> {
        run(&self.ebpf, Command { command: command::OWN, tgid: pid, key: flows::key_of(flow), ..NOTHING })
            .map(drop)
    }

    /// Stops the search for a flow's owner.
    pub(crate) fn settle(&self, flow: FlowId) -> Result<(), KernelError> {
        run(&self.ebpf, about(command::SETTLE, flow)).map(drop)
    }

    /// Stops counting a flow; returns its final counters. `None` when it is gone, or replaced by a later one.
    ///
    /// Its entry stays in the table until [`Self::remove`]: a program that is running on another CPU may
    /// still count a packet there.
    pub(crate) fn retire(&self, flow: FlowId) -> Result<Option<FlowState>, KernelError> {
        if !run(&self.ebpf, about(command::RETIRE, flow))? {
            return Ok(None);
        }
        let key = flows::key_of(flow.flow);
        let entry = maps::get::<_, FlowEntry>(&self.ebpf, FLOWS, key)?;
        Ok(entry.map(|entry| self.final_state(&key, &entry)))
    }

    /// Removes the entry of a flow whose retirement is a [`GracePeriod`](super::GracePeriod) ago.
    pub(crate) fn remove(&self, flow: FlowId) -> Result<(), KernelError> {
        run(&self.ebpf, about(command::REMOVE, flow)).map(drop)
    }

    /// Begins the milestones of a flow whose opening was noted during a sleep; returns whether both its streams have some now.
    /// `carried`: the payload that its socket had sent and received when the programs had begun to count it, or later.
    pub(crate) fn begin_milestones(
        &self,
        flow: FlowId,
        initial_sequences: Directions<u32>,
        carried: Directions<u64>,
    ) -> Result<bool, KernelError> {
        // The SYN comes before the first byte.
        let positions = [carried.rx, carried.tx].map(|payload_bytes| payload_bytes + 1);
        let initial_sequences = [initial_sequences.rx, initial_sequences.tx];
        let command = about(command::BEGIN_MILESTONES, flow);
        run(&self.ebpf, Command { initial_sequences, positions, ..command })
    }

    /// Takes all flows and vCPUs from a process.
    pub(super) fn disown(&self, pid: u32) -> Result<(), KernelError> {
        run(&self.ebpf, Command { command: command::DISOWN, tgid: pid, ..NOTHING }).map(drop)
    }
}

/// See [`Kernel::adopt`].
pub(super) fn adopt(ebpf: &Ebpf, flow: Flow) -> Result<bool, KernelError> {
    run(ebpf, Command { command: command::ADOPT, key: flows::key_of(flow), ..NOTHING })
}

/// Runs a command; returns whether the program carried it out.
fn run(ebpf: &Ebpf, command: Command) -> Result<bool, KernelError> {
    let program = programs::tc(ebpf, PROGRAM)?;
    let frame = frame_of(&command);
    let options = TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
    let result =
        program.test_run(options).map_err(|error| programs::refused(PROGRAM, with_causes(&error)))?;
    Ok(result.return_value == 1)
}

const NOTHING: Command = Command {
    command: 0,
    tgid: 0,
    opened_ns: 0,
    key: FlowKey { local: [0; 4], remote: [0; 4], local_port: 0, remote_port: 0 },
    padding: 0,
    initial_sequences: [0; 2],
    positions: [0; 2],
};

fn about(command: u32, FlowId { flow, opened_ns }: FlowId) -> Command {
    Command { command, opened_ns: opened_ns.0, key: flows::key_of(flow), ..NOTHING }
}

fn frame_of(command: &Command) -> Vec<u8> {
    let mut frame = vec![0; ETHERNET_HEADER];
    frame.put_slice(command.as_bytes());
    frame
}
