//! The processes that the programs follow.

use migtrace_ebpf::abi::Process;

use super::{Kernel, KernelError, maps};

const TRACED: &str = "TRACED";

impl Kernel {
    /// Reads the QMP events of a process and its sockets from now on; false when there is no room for one more.
    pub(crate) fn trace(&mut self, pid: u32) -> Result<bool, KernelError> {
        match maps::add(&mut self.ebpf, TRACED, pid, Process::default()) {
            Ok(()) => Ok(true),
            Err(error) if error.is_full() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Forgets a process.
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

    /// Runs `test` with freshly loaded programs; says so and does nothing without root.
    fn with_kernel(test: impl FnOnce(&mut Kernel)) {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: loading eBPF programs needs root");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        test(&mut Kernel::load_detached(&Settings::default()).unwrap());
    }

    #[test]
    fn a_full_table_has_no_room_until_a_process_is_forgotten() {
        with_kernel(|kernel| {
            let room = u32::try_from(TRACED_MAX).unwrap();
            for pid in 1..=room {
                assert!(kernel.trace(pid).unwrap(), "{pid}");
            }
            assert!(!kernel.trace(room + 1).unwrap());
            assert!(kernel.trace(1).unwrap(), "it is there");
            assert_eq!(kernel.process(room + 1).unwrap(), None);
            kernel.untrace(1).unwrap();
            kernel.untrace(1).unwrap();
            assert!(kernel.trace(room + 1).unwrap());
        });
    }

    #[test]
    fn what_is_known_of_a_process_outlives_that_it_is_met_again() {
        with_kernel(|kernel| {
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
