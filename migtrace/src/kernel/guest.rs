//! The program that notices what comes from guests through their taps: attaches it, reads what it found.

use aya::maps::{HashMap, MapError};
use migtrace_ebpf::abi::{GUEST_PORTS_MAX, GuestPort, GuestTaps};

use super::{Kernel, KernelError, OnCpu, fails_with, missing, tc};

#[cfg(test)]
mod tests;

const PORTS: &str = "GUEST_PORTS";
const TAPS_OF: &str = "GUEST_TAPS";

const fn failed(source: MapError) -> KernelError {
    KernelError::Map { name: PORTS, source }
}

impl Kernel {
    /// Notices from now on what comes from a guest through its tap, and tells of the first frame. False when as many taps
    /// of its QEMU are watched as can be.
    pub(crate) fn attach_tap(&mut self, pid: u32, name: &str, index: u32) -> Result<bool, KernelError> {
        if !self.watch_port(pid, index)? {
            return Ok(false);
        }
        let attached = self.attacher.attach(&mut self.ebpf, &tc::GUEST, name, index);
        match attached {
            Ok(attached) => {
                self.taps.insert(index, attached);
                Ok(true)
            }
            Err(error) => {
                self.detach_tap(pid, index)?;
                Err(error.into())
            }
        }
    }

    fn watch_port(&mut self, pid: u32, index: u32) -> Result<bool, KernelError> {
        let _on_cpu = OnCpu::stay();
        let mut taps = self.taps_of(pid)?;
        let Some(free) = taps.interfaces.iter_mut().find(|interface| [0, index].contains(*interface)) else {
            return Ok(false);
        };
        *free = index;
        // No program may see the entry of a tap that is attached already replaced.
        let port = GuestPort { awaited: 1, ..GuestPort::default() };
        self.map_mut::<u32, GuestPort>(PORTS)?.insert(index, port, 0).map_err(|source| {
            if fails_with(&source, libc::E2BIG) {
                return KernelError::Full { what: "watched taps", room: GUEST_PORTS_MAX };
            }
            failed(source)
        })?;
        self.set_taps_of(pid, taps)?;
        Ok(true)
    }

    fn taps_of(&mut self, pid: u32) -> Result<GuestTaps, KernelError> {
        match self.map_mut::<u32, GuestTaps>(TAPS_OF)?.get(&pid, 0) {
            Ok(taps) => Ok(taps),
            Err(MapError::KeyNotFound) => Ok(GuestTaps::default()),
            Err(source) => Err(KernelError::Map { name: TAPS_OF, source }),
        }
    }

    fn set_taps_of(&mut self, pid: u32, taps: GuestTaps) -> Result<(), KernelError> {
        let mut map = self.map_mut::<u32, GuestTaps>(TAPS_OF)?;
        let set = if taps == GuestTaps::default() { map.remove(&pid) } else { map.insert(pid, taps, 0) };
        match set {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(source) => Err(KernelError::Map { name: TAPS_OF, source }),
        }
    }

    /// What came from a guest through its tap so far; `None` for a tap that is not watched.
    pub(crate) fn guest_port(&self, index: u32) -> Result<Option<GuestPort>, KernelError> {
        let _on_cpu = OnCpu::stay();
        let map = self.ebpf.map(PORTS).ok_or_else(|| missing(PORTS))?;
        let ports: HashMap<_, u32, GuestPort> = HashMap::try_from(map).map_err(failed)?;
        match ports.get(&index, 0) {
            Ok(port) => Ok(Some(port)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(failed(source)),
        }
    }

    /// Forgets a tap of a process.
    pub(crate) fn detach_tap(&mut self, pid: u32, index: u32) -> Result<(), KernelError> {
        let _on_cpu = OnCpu::stay();
        self.taps.remove(&index);
        let mut rest = GuestTaps::default();
        let others = self.taps_of(pid)?.interfaces.into_iter().filter(|other| ![0, index].contains(other));
        rest.interfaces.iter_mut().zip(others).for_each(|(place, other)| *place = other);
        self.set_taps_of(pid, rest)?;
        match self.map_mut::<u32, GuestPort>(PORTS)?.remove(&index) {
            Ok(()) => Ok(()),
            Err(error) if fails_with(&error, libc::ENOENT) => Ok(()),
            Err(source) => Err(failed(source)),
        }
    }
}
