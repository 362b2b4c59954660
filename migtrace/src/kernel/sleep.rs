//! Sleep: between migrations nothing is attached where much happens.
//!
//! Detached are the TC programs at interfaces and taps, and the [instruments](super::instruments) that fire often. What
//! remains notices that a migration begins. The programs stay loaded, so that to wake up is only to attach them.

use migtrace_ebpf::abi::{EGRESS, FlowKey, GuestPort, INGRESS, Opening, waking};

use super::flows::flow_of;
use super::{Kernel, KernelError, maps, tc};
use crate::units::{Directions, Flow, MonotonicNs};

const WAKING: &str = "WAKING";
const BEGUN: &str = "BEGUN";
const OPENED: &str = "OPENED";

/// A connection that has opened during a sleep, or while migtrace woke up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Opened {
    pub(crate) flow: Flow,
    /// When its first packet crossed, at the latest: this host sent its SYN just after it, or had got the third packet.
    pub(crate) at_ns: MonotonicNs,
    /// When it was open at this end.
    pub(crate) opened_ns: MonotonicNs,
    /// Whether this host has opened it.
    pub(crate) by_this_host: bool,
    pub(crate) initial_sequences: Directions<u32>,
    /// The first bytes that a traced process has sent on it, if they say something.
    pub(crate) first_payload: Option<u32>,
}

impl Kernel {
    /// Whether a connection that opens would end a sleep, so that nothing is lost by one.
    pub(crate) const fn can_sleep(&self) -> bool {
        self.can_sleep
    }

    /// Whether it sleeps.
    pub(crate) const fn is_asleep(&self) -> bool {
        self.is_asleep
    }

    /// Notes from now on which connections open, and reports the first of them.
    pub(crate) fn begin_notes(&mut self) -> Result<(), KernelError> {
        self.forget_openings()?;
        self.set_waking(waking::NOTES, 1)?;
        self.set_waking(waking::ARMED, 1)
    }

    /// Falls asleep. What the programs know of the vCPUs of `traced` processes is forgotten: it will not be true any more.
    pub(crate) fn fall_asleep(&mut self, traced: &[u32]) -> Result<(), KernelError> {
        self.is_asleep = true;
        let Self { ebpf, interfaces, taps, attached, .. } = self;
        interfaces.values_mut().chain(taps.values_mut()).for_each(tc::Attached::rest);
        attached.iter_mut().for_each(|attached| attached.rest(ebpf));
        traced.iter().try_for_each(|pid| self.disown(*pid))
    }

    /// Attaches the programs that count again. Openings are noted until [`Self::end_notes`].
    pub(crate) fn count_again(&mut self) -> Result<(), KernelError> {
        self.is_asleep = false;
        self.set_waking(waking::ARMED, 0)?;
        let Self { ebpf, attacher, interfaces, .. } = self;
        Ok(interfaces.values_mut().try_for_each(|attached| attacher.resume(ebpf, attached))?)
    }

    /// Attaches the instruments and the programs at taps again. Returns the instruments that could not be attached, and why.
    pub(crate) fn observe_again(&mut self) -> Result<Vec<(&'static str, String)>, KernelError> {
        self.forget_frames()?;
        let Self { ebpf, attacher, taps, attached, .. } = self;
        let resumed = attached.iter_mut().map(|attached| (attached.name, attached.resume(ebpf)));
        let failed = resumed.filter_map(|(name, resumed)| Some((name, resumed.err()?))).collect();
        taps.values_mut().try_for_each(|tap| attacher.resume(ebpf, tap))?;
        Ok(failed)
    }

    /// The connections that have opened since the last sleep began.
    pub(crate) fn openings(&self) -> Result<Vec<Opened>, KernelError> {
        let entries = maps::entries::<FlowKey, Opening>(&self.ebpf, OPENED)?;
        let mut opened: Vec<Opened> = entries.iter().map(|(key, opening)| opened(key, opening)).collect();
        opened.sort_unstable_by_key(|opened| opened.flow);
        Ok(opened)
    }

    /// Notes no more openings: every connection that opens is counted from its first packet now.
    pub(crate) fn end_notes(&mut self) -> Result<(), KernelError> {
        self.set_waking(waking::ARMED, 0)?;
        self.set_waking(waking::NOTES, 0)?;
        self.forget_openings()
    }

    /// Which frame of a guest was the last before a sleep says nothing of those during it.
    fn forget_frames(&mut self) -> Result<(), KernelError> {
        for index in self.taps.keys().copied().collect::<Vec<_>>() {
            if let Some(GuestPort { awaited, .. }) = self.guest_port(index)? {
                self.set_guest_port(index, GuestPort { awaited, ..GuestPort::default() })?;
            }
        }
        Ok(())
    }

    fn set_waking(&mut self, index: u32, value: u64) -> Result<(), KernelError> {
        maps::set_element(&mut self.ebpf, WAKING, index, value)
    }

    fn forget_openings(&mut self) -> Result<(), KernelError> {
        maps::clear::<u64, u64>(&mut self.ebpf, BEGUN)?;
        maps::clear::<FlowKey, Opening>(&mut self.ebpf, OPENED)
    }
}

fn opened(key: &FlowKey, opening: &Opening) -> Opened {
    let [rx, tx] = opening.initial_sequences;
    const { assert!(INGRESS == 0 && EGRESS == 1) };
    let at_ns = if opening.began_ns == 0 { opening.opened_ns } else { opening.began_ns };
    Opened {
        flow: flow_of(key),
        at_ns: MonotonicNs(at_ns),
        opened_ns: MonotonicNs(opening.opened_ns),
        by_this_host: opening.by_this_host != 0,
        initial_sequences: Directions { tx, rx },
        first_payload: (opening.first_payload != 0).then_some(opening.first_payload),
    }
}
