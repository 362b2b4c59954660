//! The taps of the traced QEMUs: what comes from their guests, and when.

use std::collections::BTreeMap;

use migtrace_ebpf::abi::{GuestPort, TAPS};

use crate::errors::with_causes;
use crate::event::{Fact, Qemu};
use crate::host::links;
use crate::kernel::Kernel;
use crate::tracer::base::Base;
use crate::tracer::error::TracerError;
use crate::tracer::queue::{EventQueue, now};
use crate::units::MonotonicNs;
use crate::vocabulary::Announcement;

/// The host's end of a guest's link.
#[derive(Clone, Debug)]
pub(in crate::tracer) struct Tap {
    /// The QEMU that holds it.
    pub(in crate::tracer) pid: u32,
    interface: String,
    /// The next frame that the programs report becomes an event: it is the first of all, or the first after a stop. The
    /// programs report one frame after each QMP event, whichever it is.
    awaits_frame: bool,
}

/// The taps that are watched, by interface index.
#[derive(Debug, Default)]
pub(in crate::tracer) struct Taps(BTreeMap<u32, Tap>);

impl Taps {
    /// The name of a tap.
    pub(super) fn name(&self, ifindex: u32) -> Option<&str> {
        self.0.get(&ifindex).map(|tap| tap.interface.as_str())
    }

    /// The network was informed where a guest is, through its tap.
    pub(in crate::tracer) fn announced(
        &self,
        events: &mut EventQueue,
        at_ns: MonotonicNs,
        ifindex: u32,
        kind: Announcement,
    ) {
        if let Some(Tap { pid, interface, .. }) = self.0.get(&ifindex).cloned() {
            events.add(at_ns, Fact::Announcement { pid, interface, kind });
        }
    }

    /// A frame came from a guest through its tap.
    pub(in crate::tracer) fn guest_frame(
        &mut self,
        events: &mut EventQueue,
        at_ns: MonotonicNs,
        ifindex: u32,
    ) {
        let Some(tap) = self.0.get_mut(&ifindex) else { return };
        if std::mem::take(&mut tap.awaits_frame) {
            events.add(at_ns, Fact::GuestFrame { pid: tap.pid, interface: tap.interface.clone() });
        }
    }

    /// A guest has stopped. It sends nothing until it runs again, and the first frame after that is awaited.
    pub(in crate::tracer) fn rearm(&mut self, base: &mut Base, pid: u32) -> Result<(), TracerError> {
        self.0.values_mut().filter(|tap| tap.pid == pid).for_each(|tap| tap.awaits_frame = true);
        self.count_frames(base, |tap| tap.pid == pid)
    }

    /// Reports how many frames have come from guests through these taps.
    pub(in crate::tracer) fn count_frames(
        &self,
        base: &mut Base,
        which: impl Fn(&Tap) -> bool,
    ) -> Result<(), TracerError> {
        let now = now()?;
        for (index, tap) in self.0.iter().filter(|(_, tap)| which(tap)) {
            if let Some(port) = base.kernel.guest_port(*index)? {
                let Tap { pid, interface, .. } = tap.clone();
                let last_ns = (port.frames > 0).then_some(MonotonicNs(port.last_frame_ns));
                let GuestPort { frames, announcements, .. } = port;
                base.events.add(now, Fact::GuestFrames { pid, interface, frames, last_ns, announcements });
            }
        }
        Ok(())
    }

    /// Watches those taps of a QEMU that are not watched yet.
    pub(super) fn watch(&mut self, base: &mut Base, now: MonotonicNs, qemu: &Qemu) {
        if qemu.taps.iter().all(|name| self.0.values().any(|tap| tap.interface == *name)) {
            return;
        }
        let links = match links::list() {
            Ok(links) => links,
            Err(error) => {
                return base.events.not_measured(now, "the guest on its tap", format!("{error}"));
            }
        };
        for link in links.iter().filter(|link| qemu.taps.contains(&link.name)) {
            if self.0.contains_key(&link.index) {
                continue;
            }
            let why_not = match base.kernel.attach_tap(qemu.pid, &link.name, link.index) {
                Ok(true) => {
                    let tap = Tap { pid: qemu.pid, interface: link.name.clone(), awaits_frame: true };
                    self.0.insert(link.index, tap);
                    continue;
                }
                Ok(false) => format!("no more than {TAPS} taps of a VM are watched"),
                Err(error) => with_causes(&error),
            };
            let what = format!("the guest's frames on its tap {}", link.name);
            base.events.not_measured(now, &what, why_not);
        }
    }

    /// Stops watching the taps that `which` picks by index and tap.
    pub(in crate::tracer) fn unwatch(
        &mut self,
        kernel: &mut Kernel,
        which: impl Fn(u32, &Tap) -> bool,
    ) -> Result<(), TracerError> {
        let gone = self.0.iter().filter(|(index, tap)| which(**index, tap));
        for (index, pid) in gone.map(|(index, tap)| (*index, tap.pid)).collect::<Vec<_>>() {
            kernel.detach_tap(pid, index)?;
            self.0.remove(&index);
        }
        Ok(())
    }
}
