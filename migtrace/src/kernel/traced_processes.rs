//! The processes that the programs trace.

use migtrace_ebpf::abi::Process;

use super::{Kernel, KernelError, maps};

const TRACED: &str = "TRACED";

impl Kernel {
    /// Traces the QMP events and the sockets of a process from now on; false when the table is full.
    pub(crate) fn trace(&mut self, pid: u32) -> Result<bool, KernelError> {
        match maps::add(&mut self.ebpf, TRACED, pid, Process::default()) {
            Ok(()) => Ok(true),
            Err(error) if error.is_full() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Stops tracing a process.
    pub(crate) fn untrace(&mut self, pid: u32) -> Result<(), KernelError> {
        if maps::remove::<_, Process>(&mut self.ebpf, TRACED, pid)? { self.disown(pid) } else { Ok(()) }
    }

    /// What the programs know of a traced process; `None` for one that is not traced.
    pub(crate) fn process(&self, pid: u32) -> Result<Option<Process>, KernelError> {
        maps::get(&self.ebpf, TRACED, pid)
    }
}

#[cfg(test)]
mod tests {
    use migtrace_ebpf::abi::TRACED_MAX;

    use super::*;
    use crate::kernel::Settings;
    use crate::kernel::testing::with_kernel;

    #[test]
    fn a_full_table_takes_another_process_once_one_is_untraced() {
        with_kernel(&Settings::default(), |kernel| {
            let room = u32::try_from(TRACED_MAX).unwrap();
            for pid in 1..=room {
                assert!(kernel.trace(pid).unwrap(), "{pid}");
            }
            assert!(!kernel.trace(room + 1).unwrap());
            assert!(kernel.trace(1).unwrap(), "it is traced already");
            assert_eq!(kernel.process(room + 1).unwrap(), None);
            kernel.untrace(1).unwrap();
            kernel.untrace(1).unwrap();
            assert!(kernel.trace(room + 1).unwrap());
        });
    }

    #[test]
    fn tracing_a_traced_process_again_keeps_what_is_known_of_it() {
        with_kernel(&Settings::default(), |kernel| {
            let known = Process { dropped_lines: 7, ..Process::default() };
            maps::set(&mut kernel.ebpf, TRACED, 42_u32, known).unwrap();
            assert!(kernel.trace(42).unwrap());
            assert_eq!(kernel.process(42).unwrap(), Some(known));
            kernel.untrace(42).unwrap();
            assert!(kernel.trace(42).unwrap());
            assert_eq!(kernel.process(42).unwrap(), Some(Process::default()));
        });
    }
}
