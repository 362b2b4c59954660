//! The program that notices what comes from guests through their taps: attaches it, reads what it found.

use aya::maps::{HashMap, MapError};
use migtrace_ebpf::abi::{GUEST_PORTS_MAX, GuestPort};

use super::{Kernel, KernelError, fails_with, missing, tc};

#[cfg(test)]
mod tests;

const PORTS: &str = "GUEST_PORTS";

fn failed(source: MapError) -> KernelError {
    KernelError::Map { name: PORTS, source }
}

impl Kernel {
    /// Notices from now on what comes from a guest through its tap, and tells of the first frame.
    pub(crate) fn attach_tap(&mut self, name: &str, index: u32) -> Result<(), KernelError> {
        self.await_frame(index, GuestPort::default())?;
        let attached = tc::attach(&mut self.ebpf, &tc::GUEST, name, self.attach)?;
        self.taps.insert(index, attached);
        Ok(())
    }

    /// Tells of the next frame that comes from a guest.
    pub(crate) fn await_next_frame(&mut self, index: u32) -> Result<(), KernelError> {
        let port = self.guest_port(index)?.unwrap_or_default();
        self.await_frame(index, port)
    }

    fn await_frame(&mut self, index: u32, port: GuestPort) -> Result<(), KernelError> {
        let mut ports = self.map_mut::<u32, GuestPort>(PORTS)?;
        ports.insert(index, GuestPort { awaited: 1, ..port }, 0).map_err(|source| {
            if fails_with(&source, libc::E2BIG) {
                return KernelError::Full { what: "watched taps", room: GUEST_PORTS_MAX };
            }
            failed(source)
        })
    }

    /// What came from a guest through its tap so far; `None` for a tap that is not watched.
    pub(crate) fn guest_port(&self, index: u32) -> Result<Option<GuestPort>, KernelError> {
        let map = self.ebpf.map(PORTS).ok_or_else(|| missing(PORTS))?;
        let ports: HashMap<_, u32, GuestPort> = HashMap::try_from(map).map_err(failed)?;
        match ports.get(&index, 0) {
            Ok(port) => Ok(Some(port)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(failed(source)),
        }
    }

    /// Forgets a tap.
    pub(crate) fn detach_tap(&mut self, index: u32) -> Result<(), KernelError> {
        self.taps.remove(&index);
        match self.map_mut::<u32, GuestPort>(PORTS)?.remove(&index) {
            Ok(()) => Ok(()),
            Err(error) if fails_with(&error, libc::ENOENT) => Ok(()),
            Err(source) => Err(failed(source)),
        }
    }
}
