//! Attaches the TC programs to interfaces: as TCX links where the kernel has them, as filters of the clsact qdisc
//! otherwise. Looks whether they are still there, and attaches again those that somebody else has removed.
//!
//! TCX links die with this process. Filters do not, so each says [whose it is](super::ownership): the next run and
//! [`cleanup`] remove those of processes that live no more. The clsact qdisc is never removed: it may hold filters of
//! others.
//!
//! A filter that says "pass" or "drop" ends the walk, so ours wants to be the first. All filters of one priority are
//! of one kind and one protocol (`tc_new_tfilter`, net/sched/cls_api.c): where somebody has filters of another kind
//! at the first one, ours goes to the next that is free, and says so.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use aya::Ebpf;
use aya::programs::tc::{self, SchedClassifierLink, TcAttachOptions, TcAttachType, TcError};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier};

use super::KernelError;
use super::loading;
use super::ownership::{FilterName, Owner};
use super::tcx;
use crate::errors::with_causes;
use crate::event::TcProgram;
use crate::host::clock;
use crate::host::filters::{Filter, Filters, News, Place, Touched, Way};
use crate::host::links;
use crate::units::MonotonicNs;
use crate::vocabulary::AttachMode;

#[cfg(test)]
mod tests;

pub(super) const INGRESS: &str = "migtrace_ingress";
pub(super) const EGRESS: &str = "migtrace_egress";

/// What the names of all our programs begin with.
const OURS: &str = "migtrace_";
/// The first one. Among filters of one priority the newest runs first.
const FIRST_PRIORITY: u16 = 1;
/// Where the search for a priority that takes our filter ends.
const LAST_PRIORITY: u16 = 64;

/// Programs that go together.
#[derive(Debug)]
pub(super) struct Programs {
    what: TcProgram,
    by_way: &'static [(&'static str, Way)],
}

/// Those that count the bytes of flows.
pub(super) const COUNT: Programs =
    Programs { what: TcProgram::Count, by_way: &[(INGRESS, Way::Ingress), (EGRESS, Way::Egress)] };

/// Those that follow echo requests and replies.
pub(super) const ECHO: Programs = Programs {
    what: TcProgram::Echo,
    by_way: &[("migtrace_echo_ingress", Way::Ingress), ("migtrace_echo_egress", Way::Egress)],
};

/// That which notices what comes from a guest through its tap.
pub(super) const GUEST: Programs =
    Programs { what: TcProgram::Guest, by_way: &[("migtrace_guest", Way::Ingress)] };

/// Which way of attaching to choose.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum AttachPreference {
    /// TCX, or clsact where there is no TCX.
    #[default]
    Auto,
    /// TCX or fail.
    Tcx,
    /// clsact, even where there is TCX.
    Clsact,
}

/// Why a TC program could not be attached.
#[derive(Debug, thiserror::Error)]
#[error("cannot count at {interface}: {why}")]
#[non_exhaustive]
pub struct TcAttachError {
    /// The interface.
    pub interface: String,
    /// What was tried, what happened, what to do.
    pub why: String,
}

/// A filter that an earlier run left at an interface.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Leftover {
    /// The interface.
    pub interface: String,
    /// The filter's name.
    pub filter: String,
}

/// Attaches in one network namespace.
pub(super) struct Attacher {
    preference: AttachPreference,
    /// What it takes to have filters; most hosts need none.
    clsact: Option<Clsact>,
}

/// Filters of the clsact qdisc, and who owns those that are added.
struct Clsact {
    owner: Arc<Owner>,
    filters: Filters,
    news: News,
}

/// Programs that are attached at an interface. Dropping it detaches them.
pub(super) struct Attached {
    programs: &'static Programs,
    index: u32,
    mode: AttachMode,
    hooks: Vec<Hook>,
    /// Programs of others run first, and may keep packets from ours; whether that was said.
    behind_others: bool,
    said_behind: bool,
    /// All of them were there at this instant, for the last time as far as is known.
    seen_ns: MonotonicNs,
    /// Some of them are gone, and it was said.
    is_missing: bool,
}

/// One program at its place.
struct Hook {
    name: &'static str,
    place: Place,
    /// None: somebody has removed it.
    link: Option<Link>,
}

enum Link {
    Tcx { program: u32, _link: SchedClassifierLink },
    Clsact(OwnFilter),
}

/// A filter that goes with this. Its owner stays for as long.
struct OwnFilter {
    place: Place,
    priority: u16,
    name: String,
    _owner: Arc<Owner>,
}

/// What has become of programs that were attached.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Change {
    /// Index of the interface.
    pub(crate) interface: u32,
    pub(crate) what: TcProgram,
    pub(crate) mode: AttachMode,
    pub(crate) news: ChangeNews,
}

/// See [`Change`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum ChangeNews {
    /// Somebody has removed some of them; or those are attached again.
    Removed {
        /// When all of them were there for the last time, as far as is known.
        last_seen_ns: MonotonicNs,
        /// When all of them were there again, or why they cannot be attached.
        again: Result<MonotonicNs, String>,
    },
    /// A program of somebody else runs before one of them, and may keep packets from it.
    Behind,
}

impl Attached {
    pub(super) const fn mode(&self) -> AttachMode {
        self.mode
    }

    const fn change(&self, news: ChangeNews) -> Change {
        Change { interface: self.index, what: self.programs.what, mode: self.mode, news }
    }
}

/// Loads the programs.
pub(super) fn load(ebpf: &mut Ebpf, programs: &Programs) -> Result<(), KernelError> {
    programs.by_way.iter().try_for_each(|&(name, _)| load_program(ebpf, name))
}

/// Loads one program.
pub(super) fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<(), KernelError> {
    classifier(ebpf, name)
        .and_then(|program| loading::retry(|| program.load()))
        .map_err(|error| refused(name, loading::why(&error)))
}

pub(super) fn refused(program: &str, why: String) -> KernelError {
    KernelError::Refused { what: format!("program {program}"), why }
}

/// A program of the object.
pub(super) fn program<'a>(ebpf: &'a Ebpf, name: &str) -> Result<&'a SchedClassifier, KernelError> {
    let program = ebpf.program(name).ok_or_else(|| refused(name, "the object does not have it".into()))?;
    program.try_into().map_err(|error: ProgramError| refused(name, with_causes(&error)))
}

impl Attacher {
    pub(super) const fn new(preference: AttachPreference) -> Self {
        Self { preference, clsact: None }
    }

    /// Attaches the programs to an interface of this network namespace.
    pub(super) fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        programs: &'static Programs,
        interface: &str,
        index: u32,
    ) -> Result<Attached, TcAttachError> {
        let failed = |why| TcAttachError { interface: interface.to_owned(), why };
        let seen_ns = clock::now().map_err(|error| failed(format!("cannot read the clock: {error}")))?;
        let hooks = programs.by_way.iter();
        let hooks =
            hooks.map(|&(name, way)| Hook { name, place: Place { interface: index, way }, link: None });
        let mut attached = Attached {
            programs,
            index,
            mode: AttachMode::Tcx,
            hooks: hooks.collect(),
            behind_others: false,
            said_behind: false,
            seen_ns,
            is_missing: false,
        };
        if self.preference != AttachPreference::Clsact {
            match attached.link(ebpf, interface) {
                Ok(()) => return Ok(attached),
                // Before 6.6 the kernel does not know this kind of link.
                Err(error) if self.preference == AttachPreference::Auto && is_unknown_link_kind(&error) => {}
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
        add_clsact(interface)?;
        for hook in attached.hooks.iter_mut().filter(|hook| hook.link.is_none()) {
            let added = clsact.add(ebpf, hook).map_err(|error| {
                format!(
                    "clsact: {}; an `ingress` qdisc in clsact's place (see `tc qdisc show dev {interface}`) or \
                     missing modules (`modprobe sch_ingress cls_bpf`) cause this",
                    with_causes(&error)
                )
            })?;
            attached.behind_others |= added.priority != FIRST_PRIORITY;
            hook.link = Some(Link::Clsact(added));
        }
        Ok(())
    }

    /// Looks whether programs are still there and before those of others. Attaches again what was removed.
    pub(super) fn look<'a>(
        &mut self,
        ebpf: &mut Ebpf,
        all: impl Iterator<Item = &'a mut Attached>,
    ) -> io::Result<Vec<Change>> {
        let now = clock::now()?;
        let touched = match &mut self.clsact {
            Some(clsact) => clsact.news.touched()?,
            None => Touched::Some(Default::default()),
        };
        let mut changes = Vec::new();
        for attached in all {
            let is_worth_a_look =
                attached.mode == AttachMode::Tcx || attached.is_missing || touched.contains(attached.index);
            if is_worth_a_look && !attached.look(self.clsact.as_mut())? {
                // The interface itself is gone, and others tell of that.
                continue;
            }
            if attached.hooks.iter().all(|hook| hook.link.is_some()) {
                attached.seen_ns = now;
            } else {
                let again = match self.attach_again(ebpf, attached) {
                    Ok(()) => Ok(clock::now()?),
                    Err(why) => Err(why),
                };
                let is_news = again.is_ok() || !attached.is_missing;
                attached.is_missing = again.is_err();
                let last_seen_ns = attached.seen_ns;
                attached.seen_ns = *again.as_ref().unwrap_or(&last_seen_ns);
                if is_news {
                    changes.push(attached.change(ChangeNews::Removed { last_seen_ns, again }));
                }
            }
            if attached.behind_others && !attached.said_behind {
                attached.said_behind = true;
                changes.push(attached.change(ChangeNews::Behind));
            }
        }
        Ok(changes)
    }

    fn attach_again(&mut self, ebpf: &mut Ebpf, attached: &mut Attached) -> Result<(), String> {
        // It may have another name now.
        let interface = links::name_of(attached.index).ok_or("the interface is gone")?;
        match attached.mode {
            AttachMode::Tcx => attached.link(ebpf, &interface).map_err(|error| with_causes(&error)),
            AttachMode::Clsact => self.add_filters(ebpf, attached, &interface),
        }
    }
}

impl Attached {
    /// Attaches as TCX links what is not attached.
    fn link(&mut self, ebpf: &mut Ebpf, interface: &str) -> Result<(), ProgramError> {
        for hook in self.hooks.iter_mut().filter(|hook| hook.link.is_none()) {
            let program = classifier(ebpf, hook.name)?;
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            let id = program.attach_with_options(interface, attach_type(hook.place.way), options)?;
            let link = program.take_link(id)?;
            hook.link = Some(Link::Tcx { program: program.info()?.id(), _link: link });
        }
        Ok(())
    }

    /// Looks for each program at its place; false when the interface is gone.
    fn look(&mut self, clsact: Option<&mut Clsact>) -> io::Result<bool> {
        let mut filters = clsact.map(|clsact| &mut clsact.filters);
        for hook in &mut self.hooks {
            let before = match (&hook.link, &mut filters) {
                (Some(Link::Tcx { program, .. }), _) => match tcx::programs(hook.place) {
                    Ok(programs) => {
                        let position = programs.iter().position(|id| id == program);
                        position.map(|position| position > 0 && others_are_first(hook.place, *program))
                    }
                    Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(false),
                    Err(error) => return Err(error),
                },
                (Some(Link::Clsact(own)), Some(filters)) => {
                    let all = filters.list(own.place, Some(own.priority))?;
                    let position = all.iter().position(|filter| filter.name == own.name);
                    position
                        .map(|position| all[..position].iter().any(|filter| !filter.name.starts_with(OURS)))
                }
                _ => continue,
            };
            self.behind_others |= before == Some(true);
            if before.is_none() {
                if links::name_of(self.index).is_none() {
                    return Ok(false);
                }
                hook.link = None;
            }
        }
        Ok(true)
    }
}

impl Clsact {
    fn open() -> Result<Self, String> {
        let cannot = |what: &str, error: &io::Error| format!("clsact: cannot {what}: {error}");
        let owner = Owner::new();
        let owner =
            owner.map_err(|error| cannot("open the Unix socket that says whose filters are", &error))?;
        // Listen first: what changes after a look is then news.
        let news = News::listen().map_err(|error| cannot("listen for changes of filters", &error))?;
        let filters = Filters::open().map_err(|error| cannot("open a netlink socket", &error))?;
        // Filters of a killed run still cost every packet its time, and nobody reads what they count. If they cannot be
        // removed they do no harm otherwise, and `cleanup` says why.
        let _ = links::list()
            .and_then(|links| cleanup(links.iter().map(|link| (link.index, link.name.as_str()))));
        Ok(Self { owner: Arc::new(owner), filters, news })
    }

    /// Adds a filter at the first priority that takes one of this kind.
    fn add(&mut self, ebpf: &mut Ebpf, hook: &Hook) -> Result<OwnFilter, ProgramError> {
        let program = classifier(ebpf, hook.name)?;
        let place = hook.place;
        let name = self.owner.filter(hook.name).to_string();
        let mut priority = FIRST_PRIORITY;
        loop {
            match self.filters.add(place, priority, &name, program.fd()?.as_fd()) {
                Ok(()) => break,
                // "Specified filter kind does not match existing one" or "Protocol mismatch for filter with specified
                // priority".
                Err(error) if priority < LAST_PRIORITY && error.raw_os_error() == Some(libc::EINVAL) => {
                    priority += 1;
                }
                Err(error) => return Err(ProgramError::IOError(error)),
            }
        }
        let added = OwnFilter { place, priority, name, _owner: self.owner.clone() };
        // The `ingress` qdisc has one place only, and takes every filter for one of that.
        let ingress = Place { way: Way::Ingress, ..place };
        if place.way == Way::Egress
            && self.filters.list(ingress, Some(priority))?.iter().any(|filter| filter.name == added.name)
        {
            return Err(ProgramError::IOError(io::Error::other("the qdisc sees no packets that go out")));
        }
        Ok(added)
    }
}

impl Drop for OwnFilter {
    fn drop(&mut self) {
        // By its name: somebody may have removed it, and another filter may have its handle now. Without its owner it
        // will be known for what is left.
        let _ = Filters::open().and_then(|mut filters| {
            let all = filters.list(self.place, Some(self.priority))?;
            all.iter().filter(|filter| filter.name == self.name).try_for_each(|own| filters.remove(own))
        });
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, ProgramError> {
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
}

const fn attach_type(way: Way) -> TcAttachType {
    match way {
        Way::Ingress => TcAttachType::Ingress,
        Way::Egress => TcAttachType::Egress,
    }
}

/// Whether a program that is not migtrace's runs before this one. Where it takes more privileges to learn whose they are
/// than migtrace has, they are taken for others'.
fn others_are_first(place: Place, program: u32) -> bool {
    let Some(name) = links::name_of(place.interface) else { return false };
    match SchedClassifier::query_tcx(&name, attach_type(place.way)) {
        Ok((_, programs)) => programs
            .iter()
            .take_while(|other| other.id() != program)
            .any(|other| !other.name().starts_with(OURS.as_bytes())),
        Err(_) => true,
    }
}

fn is_unknown_link_kind(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::EINVAL))
}

fn add_clsact(interface: &str) -> Result<(), String> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => Ok(()),
        // There already: ours of an earlier run, or somebody else's.
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        Err(error) => Err(format!(
            "cannot add the clsact qdisc: {}; try `modprobe sch_ingress cls_bpf`",
            with_causes(&error)
        )),
    }
}

/// Whether a filter runs one of our programs, and nobody uses it any more.
fn is_left(filter: &Filter) -> bool {
    let name = FilterName::parse(&filter.name);
    let mut programs = [COUNT, ECHO, GUEST].into_iter().flat_map(|programs| programs.by_way);
    programs.any(|(program, _)| *program == name.program) && name.is_left()
}

/// Removes what killed runs left at these interfaces (index and name): filters that run `migtrace_ingress`,
/// `migtrace_egress`, `migtrace_echo_ingress`, `migtrace_echo_egress` or `migtrace_guest`, and whose owner lives no more.
///
/// # Errors
///
/// When an interface's filters cannot be listed or removed.
pub(crate) fn cleanup<'a>(interfaces: impl IntoIterator<Item = (u32, &'a str)>) -> io::Result<Vec<Leftover>> {
    let mut kernel = Filters::open()?;
    let mut removed = Vec::new();
    for (interface, name) in interfaces {
        for way in [Way::Ingress, Way::Egress] {
            for filter in kernel.list(Place { interface, way }, None)?.iter().filter(|filter| is_left(filter))
            {
                kernel.remove(filter)?;
                removed.push(Leftover { interface: name.to_owned(), filter: filter.name.clone() });
            }
        }
    }
    Ok(removed)
}
