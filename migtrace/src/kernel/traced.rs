//! The processes that the programs follow.

use aya::maps::{HashMap, MapError};
use migtrace_ebpf::abi::Process;

use super::{Kernel, KernelError, OnCpu, fails_with, missing};

const TRACED: &str = "TRACED";

/// include/uapi/linux/bpf.h: an entry that is there stays as it is.
const BPF_NOEXIST: u64 = 1;

fn failed(source: MapError) -> KernelError {
    KernelError::Map { name: TRACED, source }
}

impl Kernel {
    /// Reads the QMP events of a process and its sockets from now on; false when there is no room for one more.
    pub(crate) fn trace(&mut self, pid: u32) -> Result<bool, KernelError> {
        let _on_cpu = OnCpu::stay();
        let mut traced = self.map_mut::<u32, Process>(TRACED)?;
        match traced.insert(pid, Process::default(), BPF_NOEXIST) {
            Ok(()) => Ok(true),
            Err(error) if fails_with(&error, libc::EEXIST) => Ok(true),
            Err(error) if fails_with(&error, libc::E2BIG) => Ok(false),
            Err(source) => Err(failed(source)),
        }
    }

    /// Forgets a process.
    pub(crate) fn untrace(&mut self, pid: u32) -> Result<(), KernelError> {
        let _on_cpu = OnCpu::stay();
        match self.map_mut::<u32, Process>(TRACED)?.remove(&pid) {
            Ok(()) => self.disown(pid),
            Err(error) if fails_with(&error, libc::ENOENT) => Ok(()),
            Err(source) => Err(failed(source)),
        }
    }

    /// What the programs know of a traced process; `None` for one that is not traced.
    pub(crate) fn process(&self, pid: u32) -> Result<Option<Process>, KernelError> {
        let _on_cpu = OnCpu::stay();
        let map = self.ebpf.map(TRACED).ok_or_else(|| missing(TRACED))?;
        let traced: HashMap<_, u32, Process> = HashMap::try_from(map).map_err(failed)?;
        match traced.get(&pid, 0) {
            Ok(process) => Ok(Some(process)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(failed(source)),
        }
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
            kernel.map_mut(TRACED).unwrap().insert(42_u32, known, 0).unwrap();
            assert!(kernel.trace(42).unwrap());
            assert_eq!(kernel.process(42).unwrap(), Some(known));
            kernel.untrace(42).unwrap();
            assert!(kernel.trace(42).unwrap());
            assert_eq!(kernel.process(42).unwrap(), Some(Process::default()));
        });
    }
}
