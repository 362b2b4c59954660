//! Attaches the counting programs to interfaces: as TCX links where the kernel has them, as filters of the clsact
//! qdisc otherwise.
//!
//! TCX links die with this process. Filters do not, so they carry the programs' names, and [`cleanup`] removes
//! what a killed run left. The clsact qdisc is never removed: it may hold filters of others.
//!
//! A filter that says "pass" or "drop" ends the walk, so ours wants to be the first. All filters of one priority are
//! of one kind and one protocol (`tc_new_tfilter`, net/sched/cls_api.c): where somebody has filters of another kind
//! at the first one, ours goes to the next that is free, and says so.

use std::io;

use aya::Ebpf;
use aya::programs::tc::{
    self, NlOptions, SchedClassifierLink, SchedClassifierLinkId, TcAttachOptions, TcAttachType, TcError,
    TcHandle,
};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier};

use super::KernelError;
use super::probes::last_meaningful_lines;
use crate::errors::with_causes;
use crate::event::AttachMode;

pub(super) const INGRESS: &str = "migtrace_ingress";
pub(super) const EGRESS: &str = "migtrace_egress";

/// The first one. Among filters of one priority the newest runs first.
const FIRST_PRIORITY: u16 = 1;
/// Where the search for a priority that takes our filter ends.
const LAST_PRIORITY: u16 = 64;

/// Programs that go together.
pub(super) struct Programs {
    by_direction: &'static [(&'static str, TcAttachType)],
    /// Whether a run may take the filters that it finds for those of a killed one.
    alone: bool,
}

/// Those that count the bytes of flows.
pub(super) const COUNT: Programs = Programs {
    by_direction: &[(INGRESS, TcAttachType::Ingress), (EGRESS, TcAttachType::Egress)],
    alone: true,
};

/// Those that follow echo requests and replies. Several addresses may be probed at once.
pub(super) const ECHO: Programs = Programs {
    by_direction: &[
        ("migtrace_echo_ingress", TcAttachType::Ingress),
        ("migtrace_echo_egress", TcAttachType::Egress),
    ],
    alone: false,
};

/// That which notices what comes from a guest through its tap.
pub(super) const GUEST: Programs =
    Programs { by_direction: &[("migtrace_guest", TcAttachType::Ingress)], alone: true };

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
    pub filter: &'static str,
}

/// The links of one interface; dropping them detaches.
pub(super) struct Attached {
    mode: AttachMode,
    behind_others: bool,
    _links: Vec<SchedClassifierLink>,
}

impl Attached {
    pub(super) const fn mode(&self) -> AttachMode {
        self.mode
    }

    /// Whether filters of others run first, and may keep packets from ours.
    pub(super) const fn is_behind_others(&self) -> bool {
        self.behind_others
    }
}

/// Loads the programs.
pub(super) fn load(ebpf: &mut Ebpf, programs: &Programs) -> Result<(), KernelError> {
    programs.by_direction.iter().try_for_each(|&(name, _)| load_program(ebpf, name))
}

/// Loads one program.
pub(super) fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<(), KernelError> {
    let refused = |why| KernelError::Refused { what: format!("program {name}"), why };
    program(ebpf, name).map_err(refused)?.load().map_err(|error| {
        refused(match error {
            ProgramError::LoadError { io_error, verifier_log } => {
                format!("{io_error}{}", last_meaningful_lines(&verifier_log.to_string()))
            }
            other => with_causes(&other),
        })
    })
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier, String> {
    let program = ebpf.program_mut(name).ok_or_else(|| format!("the object has no program {name}"))?;
    program.try_into().map_err(|error: ProgramError| with_causes(&error))
}

/// Attaches the programs to an interface of this network namespace.
pub(super) fn attach(
    ebpf: &mut Ebpf,
    programs: &Programs,
    interface: &str,
    preference: AttachPreference,
) -> Result<Attached, TcAttachError> {
    let failed = |why| TcAttachError { interface: interface.to_owned(), why };
    if preference != AttachPreference::Clsact {
        match attach_all(ebpf, programs, |program, direction| {
            let options = TcAttachOptions::TcxOrder(LinkOrder::first());
            program.attach_with_options(interface, direction, options)
        }) {
            Ok(links) => {
                return Ok(Attached { mode: AttachMode::Tcx, behind_others: false, _links: links });
            }
            // Before 6.6 the kernel does not know this kind of link.
            Err(error) if preference == AttachPreference::Auto && is_unknown_link_kind(&error) => {}
            Err(error) => return Err(failed(format!("TCX: {}", with_causes(&error)))),
        }
    }
    // Filters of a killed run still cost every packet its time, and nobody reads what they count.
    if programs.alone {
        let _ = remove_filters(interface, programs);
    }
    add_clsact(interface).map_err(failed)?;
    let mut behind_others = false;
    attach_all(ebpf, programs, |program, direction| {
        let (id, priority) = attach_filter(program, interface, direction)?;
        behind_others |= priority != FIRST_PRIORITY;
        Ok(id)
    })
    .map(|links| Attached { mode: AttachMode::Clsact, behind_others, _links: links })
    .map_err(|error| {
        failed(format!(
            "clsact: {}; an `ingress` qdisc in clsact's place (see `tc qdisc show dev {interface}`) or missing \
             modules (`modprobe sch_ingress cls_bpf`) cause this",
            with_causes(&error)
        ))
    })
}

fn attach_all(
    ebpf: &mut Ebpf,
    programs: &Programs,
    mut attach: impl FnMut(&mut SchedClassifier, TcAttachType) -> Result<SchedClassifierLinkId, ProgramError>,
) -> Result<Vec<SchedClassifierLink>, ProgramError> {
    let mut links = Vec::new();
    for &(name, direction) in programs.by_direction {
        let program: &mut SchedClassifier =
            ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()?;
        let id = attach(program, direction)?;
        links.push(program.take_link(id)?);
    }
    Ok(links)
}

/// Attaches at the first priority that takes a filter of this kind; returns it.
fn attach_filter(
    program: &mut SchedClassifier,
    interface: &str,
    direction: TcAttachType,
) -> Result<(SchedClassifierLinkId, u16), ProgramError> {
    let mut priority = FIRST_PRIORITY;
    loop {
        let options =
            TcAttachOptions::Netlink(NlOptions { priority, handle: TcHandle::AUTO_ASSIGN, classid: None });
        match program.attach_with_options(interface, direction, options) {
            Ok(id) => return Ok((id, priority)),
            Err(error) if priority < LAST_PRIORITY && is_priority_taken(&error) => priority += 1,
            Err(error) => return Err(error),
        }
    }
}

/// EINVAL, "Specified filter kind does not match existing one" or "Protocol mismatch for filter with specified
/// priority".
fn is_priority_taken(error: &ProgramError) -> bool {
    matches!(
        error,
        ProgramError::TcError(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EINVAL)
    )
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

/// Removes the filters named after our programs from an interface, and nothing else.
fn remove_filters(interface: &str, programs: &Programs) -> io::Result<Vec<Leftover>> {
    let mut removed = Vec::new();
    for &(name, direction) in programs.by_direction {
        match tc::qdisc_detach_program(interface, direction, name) {
            Ok(()) => removed.push(Leftover { interface: interface.to_owned(), filter: name }),
            Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
            // An interface without clsact has no filters.
            Err(TcError::NetlinkError(_)) => {}
            Err(TcError::IoError(error)) => return Err(error),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
    Ok(removed)
}

/// Removes what killed runs left at these interfaces: filters named `migtrace_ingress`, `migtrace_egress`,
/// `migtrace_echo_ingress`, `migtrace_echo_egress` and `migtrace_guest`.
///
/// # Errors
///
/// When an interface's filters cannot be listed or removed.
pub(crate) fn cleanup<'a>(interfaces: impl IntoIterator<Item = &'a str>) -> io::Result<Vec<Leftover>> {
    let mut removed = Vec::new();
    for interface in interfaces {
        for programs in [COUNT, ECHO, GUEST] {
            removed.extend(remove_filters(interface, &programs)?);
        }
    }
    Ok(removed)
}
