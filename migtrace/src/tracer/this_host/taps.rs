//! The taps of the traced QEMUs: what comes from their guests, and when.

use crate::errors::with_causes;
use crate::event::{Fact, Qemu};
use crate::host::links;
use crate::host::{clock, qemu};
use crate::tracer::{Tracer, TracerError, host};
use crate::units::MonotonicNs;
use migtrace_ebpf::abi::{GuestPort, TAPS};

/// The host's end of a guest's link.
#[derive(Clone, Debug)]
pub(in crate::tracer) struct Tap {
    /// The QEMU that holds it.
    pub(in crate::tracer) pid: u32,
    pub(in crate::tracer) interface: String,
    /// The next frame that the programs tell of is one to tell: the first of all, or the first after a stop. They tell of
    /// one after whatever QEMU says.
    pub(in crate::tracer) awaits_frame: bool,
}

impl Tracer {
    /// Tells a fact about the QEMU at a tap.
    pub(in crate::tracer) fn tell_of_tap(
        &mut self,
        at_ns: MonotonicNs,
        ifindex: u32,
        fact: impl FnOnce(Tap) -> Fact,
    ) {
        if let Some(tap) = self.taps.get(&ifindex).cloned() {
            self.tell(at_ns, fact(tap));
        }
    }

    /// Tells of the frame that was awaited at a tap.
    pub(in crate::tracer) fn take_guest_frame(&mut self, at_ns: MonotonicNs, ifindex: u32) {
        if self.taps.get_mut(&ifindex).is_some_and(|tap| std::mem::take(&mut tap.awaits_frame)) {
            self.tell_of_tap(at_ns, ifindex, |Tap { pid, interface, .. }| Fact::GuestFrame {
                pid,
                interface,
            });
        }
    }

    /// The guest has stopped: nothing more comes from it until it runs again, and that frame is awaited.
    pub(in crate::tracer) fn rearm_taps(&mut self, pid: u32) -> Result<(), TracerError> {
        self.taps.values_mut().filter(|tap| tap.pid == pid).for_each(|tap| tap.awaits_frame = true);
        self.tell_guest_frames(|tap| tap.pid == pid)
    }

    /// Tells what has come from guests through these taps.
    pub(in crate::tracer) fn tell_guest_frames(
        &mut self,
        which: impl Fn(&Tap) -> bool,
    ) -> Result<(), TracerError> {
        let now = clock::now().map_err(host("read the clock"))?;
        for (index, tap) in self.taps.clone() {
            if let (true, Some(port)) = (which(&tap), self.kernel.guest_port(index)?) {
                let Tap { pid, interface, .. } = tap;
                let last_ns = (port.frames > 0).then_some(MonotonicNs(port.last_frame_ns));
                let GuestPort { frames, announcements, .. } = port;
                self.tell(now, Fact::GuestFrames { pid, interface, frames, last_ns, announcements });
            }
        }
        Ok(())
    }

    /// Looks again for the taps of a QEMU that had none when it was met, which was before it could open them.
    pub(in crate::tracer) fn look_for_taps(&mut self, now: MonotonicNs, pid: u32) -> Result<(), TracerError> {
        if self.qemus.get(&pid).is_some_and(|known| known.taps.is_empty()) {
            self.look_at_taps(now, pid)?;
        }
        Ok(())
    }

    /// Looks which taps a QEMU has now.
    pub(in crate::tracer) fn look_at_taps(&mut self, now: MonotonicNs, pid: u32) -> Result<(), TracerError> {
        match qemu::read(pid, &self.binaries).filter(|_| self.qemus.contains_key(&pid)) {
            Some(qemu) => self.meet(now, qemu),
            None => Ok(()),
        }
    }

    /// Watches the taps of a QEMU that are not watched yet.
    pub(in crate::tracer) fn watch_taps(&mut self, now: MonotonicNs, qemu: &Qemu) {
        if qemu.taps.iter().all(|name| self.taps.values().any(|tap| tap.interface == *name)) {
            return;
        }
        let links = match links::list() {
            Ok(links) => links,
            Err(error) => {
                return self.tell_not_measured(now, "the guest on its tap", format!("{error}"));
            }
        };
        for link in links.iter().filter(|link| qemu.taps.contains(&link.name)) {
            if self.taps.contains_key(&link.index) {
                continue;
            }
            let not_watched = match self.kernel.attach_tap(qemu.pid, &link.name, link.index) {
                Ok(true) => {
                    let tap = Tap { pid: qemu.pid, interface: link.name.clone(), awaits_frame: true };
                    self.taps.insert(link.index, tap);
                    continue;
                }
                Ok(false) => format!("no more than {TAPS} taps of a VM are watched"),
                Err(error) => with_causes(&error),
            };
            self.tell_not_measured(now, &format!("the guest's frames on its tap {}", link.name), not_watched);
        }
    }

    pub(in crate::tracer) fn unwatch_taps(
        &mut self,
        which: impl Fn(u32, &Tap) -> bool,
    ) -> Result<(), TracerError> {
        let gone = self.taps.iter().filter(|(index, tap)| which(**index, tap));
        for (index, pid) in gone.map(|(index, tap)| (*index, tap.pid)).collect::<Vec<_>>() {
            self.kernel.detach_tap(pid, index)?;
            self.taps.remove(&index);
        }
        Ok(())
    }
}
