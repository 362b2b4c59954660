//! The QEMUs of this network namespace: who has come, is traced, and has gone.

use std::collections::{BTreeMap, BTreeSet};

use migtrace_ebpf::abi::TRACED_MAX;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pretenders::{self, Pretenders};
use super::scans::Scans;
use super::taps::Taps;
use crate::event::{Fact, Qemu};
use crate::host::qemu::{self, Binaries, Found};
use crate::tracer::base::Base;
use crate::tracer::error::{TracerError, host};
use crate::tracer::queue::{EventQueue, now};
use crate::units::MonotonicNs;

/// How long after a look at the taps of a QEMU its next event leads to another one. A look reads every file that the
/// process has open, and whoever can write events can also open very many files.
const LOOK_EVERY_NS: u64 = 100_000_000;

/// The QEMUs of this network namespace.
pub(in crate::tracer) struct Qemus {
    binaries: Binaries,
    by_pid: BTreeMap<u32, Qemu>,
    /// Those that found no room among the ones that are traced.
    untraced: BTreeSet<u32>,
    pub(in crate::tracer) taps: Taps,
    /// When an event of a QEMU last led to a look at its taps.
    looked_ns: BTreeMap<u32, MonotonicNs>,
    /// Binaries that are being asked for their version. That takes long, and the ring buffer must be read meanwhile.
    versions: JoinSet<()>,
    pretenders: Pretenders,
    scans: Scans,
}

impl Qemus {
    pub(in crate::tracer) fn new(binaries: Binaries, scans: Scans) -> Self {
        Self {
            binaries,
            by_pid: BTreeMap::new(),
            untraced: BTreeSet::new(),
            taps: Taps::default(),
            looked_ns: BTreeMap::new(),
            versions: JoinSet::new(),
            pretenders: Pretenders::default(),
            scans,
        }
    }

    pub(in crate::tracer) fn iter(&self) -> impl Iterator<Item = &Qemu> {
        self.by_pid.values()
    }

    pub(in crate::tracer) fn pids(&self) -> Vec<u32> {
        self.by_pid.keys().copied().collect()
    }

    pub(in crate::tracer) fn contains(&self, pid: u32) -> bool {
        self.by_pid.contains_key(&pid)
    }

    /// Whether a process is a QEMU that was started to be migrated to.
    pub(in crate::tracer) fn is_incoming(&self, pid: u32) -> bool {
        self.by_pid.get(&pid).is_some_and(|qemu| qemu.incoming)
    }

    /// Looks at a process that may have become a QEMU. Returns whether it is one.
    pub(in crate::tracer) fn examine(
        &mut self,
        base: &mut Base,
        at_ns: MonotonicNs,
        pid: u32,
    ) -> Result<bool, TracerError> {
        match qemu::identify(pid, &self.binaries) {
            qemu::Kind::Qemu => {
                // Before anything else: describing it takes long enough for it to write an event.
                self.trace(base, at_ns, pid)?;
                match qemu::read(pid, &self.binaries) {
                    Some(qemu) => {
                        self.seen(base, at_ns, qemu)?;
                        return Ok(true);
                    }
                    None => base.kernel.untrace(pid)?,
                }
            }
            qemu::Kind::Pretender(pretender) => {
                self.pretenders.report(&mut base.events, at_ns, vec![pretender]);
            }
            qemu::Kind::Other => {}
        }
        Ok(false)
    }

    /// A QEMU runs: traces it, and reports it; again whenever more is known of it.
    fn seen(&mut self, base: &mut Base, at_ns: MonotonicNs, qemu: Qemu) -> Result<(), TracerError> {
        if qemu.version.is_none()
            && let Some(question) = qemu::unasked_version(qemu.pid, &self.binaries)
        {
            self.versions.spawn_blocking(|| question.ask());
        }
        if !self.by_pid.contains_key(&qemu.pid) || self.untraced.contains(&qemu.pid) {
            self.trace(base, at_ns, qemu.pid)?;
        }
        if self.by_pid.get(&qemu.pid) == Some(&qemu) {
            return Ok(());
        }
        self.follow_change();
        self.taps.watch(base, at_ns, &qemu);
        self.by_pid.insert(qemu.pid, qemu.clone());
        base.events.add(at_ns, Fact::QemuSeen(qemu));
        Ok(())
    }

    /// Makes the programs follow a process, as soon as there is room for it.
    fn trace(&mut self, base: &mut Base, at_ns: MonotonicNs, pid: u32) -> Result<(), TracerError> {
        if base.kernel.trace(pid)? {
            self.untraced.remove(&pid);
        } else {
            self.untraced.insert(pid);
            base.events.not_measured(
                at_ns,
                &format!("what QEMU {pid} does"),
                format!(
                    "{TRACED_MAX} other QEMUs are traced, which is the most: it waits until one of them ends"
                ),
            );
        }
        Ok(())
    }

    /// A QEMU has ended.
    pub(in crate::tracer) fn gone(
        &mut self,
        base: &mut Base,
        at_ns: MonotonicNs,
        pid: u32,
    ) -> Result<(), TracerError> {
        self.by_pid.remove(&pid);
        self.untraced.remove(&pid);
        self.looked_ns.remove(&pid);
        base.kernel.untrace(pid)?;
        self.taps.count_frames(base, |tap| tap.pid == pid)?;
        self.taps.unwatch(&mut base.kernel, |_, tap| tap.pid == pid)?;
        base.events.add(at_ns, Fact::QemuGone { pid });
        Ok(())
    }

    /// Looks at the taps of a QEMU that had none so far: it is often seen before it can open them.
    pub(in crate::tracer) fn look_for_taps(
        &mut self,
        base: &mut Base,
        at_ns: MonotonicNs,
        pid: u32,
    ) -> Result<(), TracerError> {
        let has_none = self.by_pid.get(&pid).is_some_and(|qemu| qemu.taps.is_empty());
        if has_none { self.look_at_taps(base, at_ns, pid) } else { Ok(()) }
    }

    /// Likewise, but not too often.
    pub(in crate::tracer) fn look_for_taps_now_and_then(
        &mut self,
        base: &mut Base,
        at_ns: MonotonicNs,
        pid: u32,
    ) -> Result<(), TracerError> {
        let looked = self.looked_ns.get(&pid);
        let is_due = looked.is_none_or(|looked| at_ns.0.saturating_sub(looked.0) >= LOOK_EVERY_NS);
        if !is_due || !self.contains(pid) {
            return Ok(());
        }
        self.looked_ns.insert(pid, at_ns);
        self.look_for_taps(base, at_ns, pid)
    }

    /// Looks which taps a QEMU has now.
    pub(in crate::tracer) fn look_at_taps(
        &mut self,
        base: &mut Base,
        at_ns: MonotonicNs,
        pid: u32,
    ) -> Result<(), TracerError> {
        match qemu::read(pid, &self.binaries).filter(|_| self.contains(pid)) {
            Some(qemu) => self.seen(base, at_ns, qemu),
            None => Ok(()),
        }
    }

    /// Waits until a binary has been asked for its version; `None` when none is being asked. Cancel-safe.
    pub(in crate::tracer) async fn version_answered(&mut self) -> Option<()> {
        self.versions.join_next().await.map(drop)
    }

    /// Something has changed that may lead to more: `/proc` is read often for a while.
    pub(in crate::tracer) fn follow_change(&mut self) {
        self.scans.follow_change(Instant::now());
    }

    /// Whether nothing has to be looked for soon.
    pub(in crate::tracer) fn are_settled(&self) -> bool {
        self.versions.is_empty() && self.scans.is_rare(Instant::now())
    }

    /// Whether `/proc` is to be read now. If so, it counts as read.
    pub(in crate::tracer) fn is_scan_due(&mut self) -> bool {
        self.scans.is_due(Instant::now())
    }

    /// Reads `/proc`.
    pub(in crate::tracer) fn find(&self) -> Result<Found, TracerError> {
        qemu::find(&self.binaries).map_err(host("find the QEMU processes in /proc"))
    }

    /// The QEMUs that are not among those that were found.
    pub(in crate::tracer) fn missing_from(&self, found: &Found) -> Vec<u32> {
        let is_missing = |pid: &u32| !found.qemus.iter().any(|qemu| qemu.pid == *pid);
        self.by_pid.keys().copied().filter(is_missing).collect()
    }

    /// Takes in what was found in `/proc`.
    pub(in crate::tracer) fn take_found(
        &mut self,
        base: &mut Base,
        now: MonotonicNs,
        found: Found,
    ) -> Result<(), TracerError> {
        found.qemus.into_iter().try_for_each(|qemu| self.seen(base, now, qemu))?;
        self.pretenders.report(&mut base.events, now, found.pretenders);
        Ok(())
    }

    /// Reports how many pretenders there were in the end.
    pub(in crate::tracer) fn count_pretenders(&mut self, events: &mut EventQueue) -> Result<(), TracerError> {
        self.pretenders.report_rest(events, now()?, true);
        Ok(())
    }

    /// Why a process that calls itself a QEMU is not traced; `None` when it does not, or is traced.
    pub(in crate::tracer) fn why_not_traced(&self, pid: u32) -> Option<String> {
        match qemu::identify(pid, &self.binaries) {
            qemu::Kind::Pretender(pretender) => Some(pretenders::why_not_traced(&pretender)),
            qemu::Kind::Qemu | qemu::Kind::Other => None,
        }
    }
}
