//! The program that observes guests' frames on their taps: attaches it, reads what it found.

use migtrace_ebpf::abi::{GUEST_PORTS_MAX, GuestPort, GuestTaps};

use super::{Kernel, KernelError, maps, tc};

#[cfg(test)]
mod tests;

const PORTS: &str = "GUEST_PORTS";
const TAPS_OF: &str = "GUEST_TAPS";

impl Kernel {
    /// Watches a guest's tap from now on; its first frame is reported. False when no more taps of this QEMU
    /// can be watched.
    pub(crate) fn attach_tap(&mut self, pid: u32, name: &str, index: u32) -> Result<bool, KernelError> {
        if !self.watch_port(pid, index)? {
            return Ok(false);
        }
        let attached = self.attacher.attach(&mut self.ebpf, &tc::GUEST, name, index);
        match attached {
            Ok(mut attached) => {
                if self.is_asleep {
                    attached.rest();
                }
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
        let mut taps = self.taps_of(pid)?;
        let Some(free) = taps.interfaces.iter_mut().find(|interface| [0, index].contains(*interface)) else {
            return Ok(false);
        };
        *free = index;
        // Set before the program is attached: a program must not see its entry replaced.
        let port = GuestPort { awaited: 1, ..GuestPort::default() };
        maps::set(&mut self.ebpf, PORTS, index, port).map_err(|error| {
            if error.is_full() {
                return KernelError::Full { what: "watched taps", room: GUEST_PORTS_MAX };
            }
            error
        })?;
        self.set_taps_of(pid, taps)?;
        Ok(true)
    }

    fn taps_of(&self, pid: u32) -> Result<GuestTaps, KernelError> {
        Ok(maps::get(&self.ebpf, TAPS_OF, pid)?.unwrap_or_default())
    }

    fn set_taps_of(&mut self, pid: u32, taps: GuestTaps) -> Result<(), KernelError> {
        if taps == GuestTaps::default() {
            return maps::remove::<_, GuestTaps>(&mut self.ebpf, TAPS_OF, pid).map(drop);
        }
        maps::set(&mut self.ebpf, TAPS_OF, pid, taps)
    }

    /// The guest's frames on its tap so far; `None` for a tap that is not watched.
    pub(crate) fn guest_port(&self, index: u32) -> Result<Option<GuestPort>, KernelError> {
        maps::get(&self.ebpf, PORTS, index)
    }

    /// Sets that. No program may be attached to the tap: it must not see its entry replaced.
    pub(super) fn set_guest_port(&mut self, index: u32, port: GuestPort) -> Result<(), KernelError> {
        maps::set(&mut self.ebpf, PORTS, index, port)
    }

    /// Stops watching a tap of a process.
    pub(crate) fn detach_tap(&mut self, pid: u32, index: u32) -> Result<(), KernelError> {
        self.taps.remove(&index);
        let mut rest = GuestTaps::default();
        let others = self.taps_of(pid)?.interfaces.into_iter().filter(|other| ![0, index].contains(other));
        rest.interfaces.iter_mut().zip(others).for_each(|(place, other)| *place = other);
        self.set_taps_of(pid, rest)?;
        maps::remove::<_, GuestPort>(&mut self.ebpf, PORTS, index).map(drop)
    }
}
