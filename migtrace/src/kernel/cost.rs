//! What the counting programs cost: runs them on a packet many times over (`BPF_PROG_TEST_RUN`), attached to nothing.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use migtrace_ebpf::abi::{ANY_IDENTIFIER, EchoTarget, GuestPort, RetransmitOffsets, SocketOffsets};
use nix::time::{ClockId, clock_gettime};

use super::bpf_syscall::bpf;
use super::{KernelError, Settings, drain, flow_commands, flows, load_object, maps, tc};
use crate::errors::with_causes;
use crate::units::Flow;

/// Which program to run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Program {
    /// One that returns at once: what a program costs that does nothing.
    Empty,
    /// The one that counts what leaves.
    Egress,
    /// The one that notices what comes from a guest through its tap.
    Guest,
    /// The one that follows echo requests and replies.
    Echo,
}

/// Test runs see the loopback interface of whoever runs them.
const LOOPBACK: u32 = 1;

/// The programs, loaded and attached to nothing.
pub struct Trial {
    ebpf: Ebpf,
    events: RingBuf<MapData>,
    empty: OwnedFd,
}

impl Trial {
    /// Loads the programs, the last two of which watch all packets of test runs and the echo requests to `target`.
    ///
    /// # Errors
    /// The kernel refuses one.
    pub fn load(settings: &Settings, target: IpAddr) -> Result<Self, KernelError> {
        let mut ebpf = load_object(settings, &SocketOffsets::default(), &RetransmitOffsets::default(), 0)?;
        tc::load(&mut ebpf, &tc::ECHO)?;
        maps::set(&mut ebpf, "GUEST_PORTS", LOOPBACK, GuestPort::default())?;
        maps::set(
            &mut ebpf,
            "ECHO_TARGETS",
            flows::words(target),
            EchoTarget { identifier: ANY_IDENTIFIER, padding: 0, socket: 0 },
        )?;
        let events = maps::unpolled_ring(&mut ebpf, "EVENTS")?;
        let empty = load_empty().map_err(|error| KernelError::Refused {
            what: "program of two instructions".into(),
            why: error.to_string(),
        })?;
        Ok(Self { ebpf, events, empty })
    }

    /// Counts a connection from now on.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn watch(&self, flow: Flow) -> Result<(), KernelError> {
        if flow_commands::adopt(&self.ebpf, flow)? {
            return Ok(());
        }
        Err(KernelError::Refused { what: format!("flow {flow}"), why: "the flow table is full".into() })
    }

    /// Runs a program on `frame` (14 to about 3500 bytes, from the Ethernet header on) `repeat` times and returns
    /// the CPU time that this took; what else ran meanwhile on this CPU is not in it.
    ///
    /// # Errors
    /// The kernel cannot make a packet of the frame.
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
        drain(&mut self.events).len()
    }

    fn program(&self, name: &str) -> Result<RawFd, String> {
        let program = tc::program(&self.ebpf, name).map_err(|error| with_causes(&error))?;
        let fd = program.fd().map_err(|error| with_causes(&error))?;
        Ok(fd.as_fd().as_raw_fd())
    }
}

/// The CPU time of this thread: unlike the kernel's own figure, which is in whole nanoseconds a run.
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
    // SAFETY: both pointers are to constants.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attributes) }?;
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it for us.
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
    // SAFETY: the pointer is to `frame`, which is only read.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attributes) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_run_as_often_as_asked_and_say_nothing_of_what_is_not_watched() {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: loading eBPF programs needs root");
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
