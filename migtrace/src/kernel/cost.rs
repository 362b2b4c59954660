//! Measures what a TC program costs: runs it on one packet many times over (`BPF_PROG_TEST_RUN`), attached to
//! nothing.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use migtrace_ebpf::abi::{ANY_IDENTIFIER, EchoTarget, GuestPort};
use nix::time::{ClockId, clock_gettime};

use super::bpf_syscall::bpf;
use super::messages::Message;
use super::offsets::Offsets;
use super::{KernelError, Settings, address, drain, flow_commands, maps, object, programs, tc};
use crate::errors::with_causes;
use crate::units::Flow;

/// Which program to run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Program {
    /// A program that returns at once, for comparison.
    Empty,
    /// Counts outgoing packets.
    Egress,
    /// Observes a guest's frames on its tap.
    Guest,
    /// Follows echo requests and replies.
    Echo,
}

/// Test runs happen at the loopback interface of the caller's network namespace.
const LOOPBACK: u32 = 1;

/// The programs, loaded and attached to nothing.
pub struct Trial {
    ebpf: Ebpf,
    events: RingBuf<MapData>,
    empty: OwnedFd,
    flow_capacity: usize,
}

impl Trial {
    /// Loads the programs. The one at taps watches the packets of test runs, the one for echoes watches
    /// requests to `target`.
    ///
    /// # Errors
    /// The kernel refused a program or a map.
    pub fn load(settings: &Settings, target: IpAddr) -> Result<Self, KernelError> {
        let mut ebpf = object::load(settings, &Offsets::default())?;
        tc::load(&mut ebpf, &tc::ECHO)?;
        maps::set(&mut ebpf, "GUEST_PORTS", LOOPBACK, GuestPort::default())?;
        maps::set(
            &mut ebpf,
            "ECHO_TARGETS",
            address::words(target),
            EchoTarget { identifier: ANY_IDENTIFIER, padding: 0, socket: 0 },
        )?;
        let events = maps::unpolled_ring(&mut ebpf, "EVENTS")?;
        let empty = load_empty().map_err(|error| KernelError::Refused {
            what: "program that returns at once".into(),
            why: error.to_string(),
        })?;
        Ok(Self { ebpf, events, empty, flow_capacity: settings.flow_capacity as usize })
    }

    /// Counts a connection from now on.
    ///
    /// # Errors
    /// The flow table is full.
    pub fn watch(&self, flow: Flow) -> Result<(), KernelError> {
        if flow_commands::adopt(&self.ebpf, flow)? {
            return Ok(());
        }
        Err(KernelError::Full { what: "flows", room: self.flow_capacity })
    }

    /// Runs a program `repeat` times on `frame` (14 to about 3500 bytes, from the Ethernet header on).
    /// Returns the CPU time of this thread for that, without anything else that ran on this CPU meanwhile.
    ///
    /// # Errors
    /// The kernel cannot make a packet from the frame.
    pub fn run(&self, program: Program, frame: &[u8], repeat: u32) -> io::Result<Duration> {
        let fd = match program {
            Program::Empty => self.empty.as_raw_fd(),
            Program::Egress => self.program(tc::EGRESS).map_err(io::Error::other)?,
            Program::Guest => self.program("migtrace_guest").map_err(io::Error::other)?,
            Program::Echo => self.program("migtrace_echo_ingress").map_err(io::Error::other)?,
        };
        let before = thread_time()?;
        test_run(fd, frame, repeat)?;
        Ok(thread_time()? - before)
    }

    /// How many messages the programs have put into the ring buffer since the last call.
    pub fn messages(&mut self) -> usize {
        drain(&mut self.events, Message::decode).len()
    }

    fn program(&self, name: &str) -> Result<RawFd, String> {
        let program = programs::tc(&self.ebpf, name).map_err(|error| with_causes(&error))?;
        let fd = program.fd().map_err(|error| with_causes(&error))?;
        Ok(fd.as_fd().as_raw_fd())
    }
}

/// The CPU time of this thread. The kernel's own figure for a test run is in whole nanoseconds a run, which
/// is too coarse.
fn thread_time() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

/// The part of `union bpf_attr` (include/uapi/linux/bpf.h) that `BPF_PROG_LOAD` reads here.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// The part that `BPF_PROG_TEST_RUN` reads here.
#[repr(C)]
#[derive(Default)]
struct TestRunAttributes {
    program: u32,
    return_value: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration_ns: u32,
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;

fn load_empty() -> io::Result<OwnedFd> {
    // r0 = -1 (TC_ACT_UNSPEC); exit
    const INSTRUCTIONS: [u64; 2] = [0xffff_ffff_0000_00b7, 0x95];
    let mut attributes = LoadAttributes {
        program_type: BPF_PROG_TYPE_SCHED_CLS,
        instruction_count: 2,
        instructions: INSTRUCTIONS.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    // SAFETY: `LoadAttributes` is laid out as the kernel expects for this command, and both pointers are to
    // constants of the lengths that the kernel reads: two instructions and a string that ends with 0.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attributes) }?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just opened this descriptor for this call, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn test_run(program: RawFd, frame: &[u8], repeat: u32) -> io::Result<()> {
    let data_size_in = u32::try_from(frame.len()).map_err(io::Error::other)?;
    let mut attributes = TestRunAttributes {
        program: program.cast_unsigned(),
        data_size_in,
        data_in: frame.as_ptr() as u64,
        repeat,
        ..TestRunAttributes::default()
    };
    // SAFETY: `TestRunAttributes` is laid out as the kernel expects for this command. The only pointer is to
    // `frame`, which outlives the call, has `data_size_in` bytes and is only read.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing;

    #[test]
    fn a_program_runs_as_often_as_asked_and_reports_no_unwatched_packet() {
        if !testing::may_load() {
            return;
        }
        let mut trial = Trial::load(&Settings::default(), [192, 0, 2, 1].into()).unwrap();
        let mut frame = [0; 60];
        frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
        frame[14] = 0x45;
        for program in [Program::Empty, Program::Egress, Program::Guest, Program::Echo] {
            let once = trial.run(program, &frame, 1).unwrap();
            let often = trial.run(program, &frame, 100_000).unwrap();
            assert!(often > once, "{program:?}: {once:?}, {often:?}");
        }
        assert_eq!(trial.messages(), 0);
        assert!(trial.run(Program::Empty, &frame[..13], 1).is_err(), "no Ethernet header");
    }
}
