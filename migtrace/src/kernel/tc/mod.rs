//! Attaches the TC programs to interfaces: as TCX links where the kernel has them, otherwise as filters of
//! the clsact qdisc. Later checks whether they are still there, and attaches again those that somebody has
//! removed.
//!
//! Read [`Attacher`] first, then [`tcx`] and [`clsact`], the two ways of attaching.

mod change;
mod clsact;
mod filter_owner;
mod tcx;
#[cfg(test)]
mod tests;

use std::io;

use aya::Ebpf;
use aya::programs::ProgramError;

use super::{KernelError, programs};
use crate::errors::with_causes;
use crate::event::TcProgram;
use crate::host::clock;
use crate::host::filters::{Place, Touched, Way};
use crate::host::links;
use crate::units::MonotonicNs;
use crate::vocabulary::AttachMode;

use change::check_until_repaired;
pub(crate) use change::{Change, ChangeNews};
pub use clsact::Leftover;
pub(crate) use clsact::cleanup;
use clsact::{Clsact, OwnFilter};
use tcx::TcxLink;

pub(super) const INGRESS: &str = "migtrace_ingress";
pub(super) const EGRESS: &str = "migtrace_egress";

/// The names of all programs of migtrace begin with this.
const OURS: &str = "migtrace_";

/// Programs that are attached together.
#[derive(Debug)]
pub(super) struct ProgramSet {
    what: TcProgram,
    by_way: &'static [(&'static str, Way)],
}

/// The programs that count the bytes of flows.
pub(super) const COUNT: ProgramSet =
    ProgramSet { what: TcProgram::Count, by_way: &[(INGRESS, Way::Ingress), (EGRESS, Way::Egress)] };

/// The programs that follow echo requests and replies.
pub(super) const ECHO: ProgramSet = ProgramSet {
    what: TcProgram::Echo,
    by_way: &[("migtrace_echo_ingress", Way::Ingress), ("migtrace_echo_egress", Way::Egress)],
};

/// The program that observes a guest's frames on its tap.
pub(super) const GUEST: ProgramSet =
    ProgramSet { what: TcProgram::Guest, by_way: &[("migtrace_guest", Way::Ingress)] };

/// How to attach the TC programs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum AttachChoice {
    /// TCX, or clsact where the kernel has no TCX.
    #[default]
    Auto,
    /// TCX or fail.
    Tcx,
    /// clsact, even where the kernel has TCX.
    Clsact,
}

/// Why a TC program could not be attached.
#[derive(Debug, thiserror::Error)]
#[error("cannot attach to {interface}: {why}")]
#[non_exhaustive]
pub struct TcAttachError {
    /// The interface.
    pub interface: String,
    /// What was tried, what happened, what to do.
    pub why: String,
}

/// Attaches programs in one network namespace.
pub(super) struct Attacher {
    choice: AttachChoice,
    /// Opened with the first filter; most hosts need none.
    clsact: Option<Clsact>,
}

/// Programs that are attached to an interface. Dropping it detaches them.
pub(super) struct Attached {
    set: &'static ProgramSet,
    index: u32,
    mode: AttachMode,
    programs: Vec<AttachedProgram>,
    /// Somebody else's programs run first and may keep packets from these.
    behind_others: bool,
    reported_behind: bool,
    /// The last time at which all of them are known to have been attached.
    seen_ns: MonotonicNs,
    /// Some of them are gone, and that was reported.
    is_missing: bool,
}

/// One program at its place.
struct AttachedProgram {
    name: &'static str,
    place: Place,
    /// `None` before it is attached, and after somebody has removed it.
    attachment: Option<Attachment>,
}

enum Attachment {
    Tcx(TcxLink),
    Clsact(OwnFilter),
}

/// Loads the programs of a set.
pub(super) fn load(ebpf: &mut Ebpf, set: &ProgramSet) -> Result<(), KernelError> {
    set.by_way.iter().try_for_each(|&(name, _)| programs::load_tc(ebpf, name))
}

impl Attacher {
    pub(super) const fn new(choice: AttachChoice) -> Self {
        Self { choice, clsact: None }
    }

    /// Attaches a set to an interface of this network namespace.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        set: &'static ProgramSet,
        interface: &str,
        index: u32,
    ) -> Result<Attached, TcAttachError> {
        let failed = |why| TcAttachError { interface: interface.to_owned(), why };
        let now = clock::now().map_err(|error| failed(format!("cannot read the clock: {error}")))?;
        let mut attached = Attached::nothing_yet(set, index, now);
        if self.choice != AttachChoice::Clsact {
            match attached.link(ebpf, interface) {
                Ok(()) => return Ok(attached),
                // Before 6.6 the kernel does not know this kind of link.
                Err(error) if self.choice == AttachChoice::Auto && tcx::is_unknown(&error) => {}
                Err(error) => return Err(failed(format!("TCX: {}", with_causes(&error)))),
            }
        }
        attached.mode = AttachMode::Clsact;
        self.add_filters(ebpf, &mut attached, interface).map_err(failed)?;
        Ok(attached)
    }

    /// Adds the filters that are missing.
    fn add_filters(
        &mut self,
        ebpf: &mut Ebpf,
        attached: &mut Attached,
        interface: &str,
    ) -> Result<(), String> {
        let clsact = match &mut self.clsact {
            Some(clsact) => clsact,
            none => none.insert(Clsact::open()?),
        };
        clsact::add_qdisc(interface)?;
        for program in attached.programs.iter_mut().filter(|program| program.attachment.is_none()) {
            let filter = clsact.add(ebpf, program.name, program.place).map_err(|error| {
                format!(
                    "clsact: {}; possible causes: an `ingress` qdisc in the place of clsact (see `tc qdisc show dev \
                     {interface}`), or missing modules (try `modprobe sch_ingress cls_bpf`)",
                    with_causes(&error)
                )
            })?;
            attached.behind_others |= !filter.has_first_preference();
            program.attachment = Some(Attachment::Clsact(filter));
        }
        Ok(())
    }

    /// Checks whether programs are still attached and still run before those of others. Attaches again what
    /// was removed.
    pub(super) fn check<'a>(
        &mut self,
        ebpf: &mut Ebpf,
        all: impl Iterator<Item = &'a mut Attached>,
    ) -> io::Result<Vec<Change>> {
        let mut all: Vec<_> = all.collect();
        check_until_repaired(|| self.check_once(ebpf, &mut all))
    }

    fn check_once(&mut self, ebpf: &mut Ebpf, all: &mut [&mut Attached]) -> io::Result<Vec<Change>> {
        let now = clock::now()?;
        let touched = match &mut self.clsact {
            Some(clsact) => clsact.news.touched()?,
            None => Touched::Some(Default::default()),
        };
        let mut changes = Vec::new();
        for attached in all {
            let is_worth_a_check =
                attached.mode == AttachMode::Tcx || attached.is_missing || touched.contains(attached.index);
            if is_worth_a_check && !attached.check(self.clsact.as_mut())? {
                // The interface itself is gone, which is reported elsewhere.
                continue;
            }
            if attached.programs.iter().all(|program| program.attachment.is_some()) {
                attached.seen_ns = now;
            } else {
                changes.extend(self.repair(ebpf, attached)?);
            }
            if attached.behind_others && !attached.reported_behind {
                attached.reported_behind = true;
                changes.push(attached.change(ChangeNews::Behind));
            }
        }
        Ok(changes)
    }

    /// Attaches again what was removed. A failure is reported once, and tried again with each check.
    fn repair(&mut self, ebpf: &mut Ebpf, attached: &mut Attached) -> io::Result<Option<Change>> {
        let again = match self.attach_again(ebpf, attached) {
            Ok(()) => Ok(clock::now()?),
            Err(why) => Err(why),
        };
        let is_news = again.is_ok() || !attached.is_missing;
        attached.is_missing = again.is_err();
        // This is kept: others may be gone by now, and only the next check sees all of them.
        let last_seen_ns = attached.seen_ns;
        Ok(is_news.then(|| attached.change(ChangeNews::Removed { last_seen_ns, again })))
    }

    /// Attaches programs again after a sleep. A failure is found, reported and tried again by the next check.
    pub(super) fn resume(&mut self, ebpf: &mut Ebpf, attached: &mut Attached) -> io::Result<()> {
        attached.is_missing = self.attach_again(ebpf, attached).is_err();
        attached.seen_ns = clock::now()?;
        Ok(())
    }

    fn attach_again(&mut self, ebpf: &mut Ebpf, attached: &mut Attached) -> Result<(), String> {
        // It may have another name by now.
        let interface = links::name_of(attached.index).ok_or("the interface is gone")?;
        match attached.mode {
            AttachMode::Tcx => attached.link(ebpf, &interface).map_err(|error| with_causes(&error)),
            AttachMode::Clsact => self.add_filters(ebpf, attached, &interface),
        }
    }
}

impl Attached {
    fn nothing_yet(set: &'static ProgramSet, index: u32, now: MonotonicNs) -> Self {
        let program = |&(name, way)| {
            let place = Place { interface: index, way };
            AttachedProgram { name, place, attachment: None }
        };
        Self {
            set,
            index,
            mode: AttachMode::Tcx,
            programs: set.by_way.iter().map(program).collect(),
            behind_others: false,
            reported_behind: false,
            seen_ns: now,
            is_missing: false,
        }
    }

    pub(super) const fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Detaches the programs for a sleep.
    pub(super) fn rest(&mut self) {
        self.programs.iter_mut().for_each(|program| program.attachment = None);
        (self.behind_others, self.reported_behind) = (false, false);
    }

    const fn change(&self, news: ChangeNews) -> Change {
        Change { interface: self.index, what: self.set.what, mode: self.mode, news }
    }

    /// Attaches the missing programs as TCX links.
    fn link(&mut self, ebpf: &mut Ebpf, interface: &str) -> Result<(), ProgramError> {
        for program in self.programs.iter_mut().filter(|program| program.attachment.is_none()) {
            let link = TcxLink::attach(programs::tc_mut(ebpf, program.name)?, interface, program.place)?;
            program.attachment = Some(Attachment::Tcx(link));
        }
        Ok(())
    }

    /// Looks for each program at its place; false when the interface is gone.
    fn check(&mut self, mut clsact: Option<&mut Clsact>) -> io::Result<bool> {
        for program in &mut self.programs {
            let order = match (&program.attachment, &mut clsact) {
                (Some(Attachment::Tcx(link)), _) => match link.order() {
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
                    order => order?,
                },
                (Some(Attachment::Clsact(filter)), Some(clsact)) => clsact.order(filter)?,
                _ => continue,
            };
            self.behind_others |= order == Order::BehindOthers;
            if order == Order::Removed {
                if links::name_of(self.index).is_none() {
                    return Ok(false);
                }
                program.attachment = None;
            }
        }
        Ok(true)
    }
}

/// Where a program stands among those at its place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Order {
    /// Nothing but programs of migtrace runs before it.
    First,
    /// Somebody else's program runs before it.
    BehindOthers,
    /// It is not there.
    Removed,
}

impl Order {
    const fn behind_others(is_behind: bool) -> Self {
        if is_behind { Self::BehindOthers } else { Self::First }
    }
}
