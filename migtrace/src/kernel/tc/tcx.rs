//! TCX links (Linux 6.6 and later). They die with the process.

use std::io;

use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier};

use super::{OURS, Order};
use crate::host::filters::{Place, Way};
use crate::host::links;
use crate::kernel::bpf_syscall::bpf;

/// The command and its attach types (include/uapi/linux/bpf.h).
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// The kernel attaches no more than these at one place (`BPF_MPROG_MAX`).
const MOST: usize = 64;

/// A program at a place. Dropping it detaches the program.
pub(super) struct TcxLink {
    program: u32,
    place: Place,
    _link: SchedClassifierLink,
}

impl TcxLink {
    /// Attaches a program before all others at its place.
    pub(super) fn attach(
        program: &mut SchedClassifier,
        interface: &str,
        place: Place,
    ) -> Result<Self, ProgramError> {
        let options = TcAttachOptions::TcxOrder(LinkOrder::first());
        let id = program.attach_with_options(interface, attach_type(place.way), options)?;
        let link = program.take_link(id)?;
        Ok(Self { program: program.info()?.id(), place, _link: link })
    }

    /// Where the program stands at its place.
    ///
    /// # Errors
    /// As [`programs_at`].
    pub(super) fn order(&self) -> io::Result<Order> {
        let position = programs_at(self.place)?.iter().position(|id| *id == self.program);
        let is_behind = |position| position > 0 && others_are_first(self.place, self.program);
        Ok(position.map_or(Order::Removed, |position| Order::behind_others(is_behind(position))))
    }
}

/// Whether the kernel does not know this kind of link.
pub(super) fn is_unknown(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::EINVAL))
}

const fn attach_type(way: Way) -> TcAttachType {
    match way {
        Way::Ingress => TcAttachType::Ingress,
        Way::Egress => TcAttachType::Egress,
    }
}

/// Whether somebody else's program runs before this one. To read the programs' names takes more privileges than migtrace
/// may have; without these, every program before this one counts as somebody else's.
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

/// `union bpf_attr`, as this command has it.
#[repr(C)]
#[derive(Default)]
struct Query {
    interface: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    padding: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// The ids of the programs at a place, in the order in which they run. One system call, without the privilege
/// (`CAP_SYS_ADMIN`) that it takes to learn more of a program than its id.
///
/// # Errors
/// `ENODEV` when there is no such interface in the calling thread's network namespace; `EINVAL` before Linux
/// 6.6.
fn programs_at(place: Place) -> io::Result<Vec<u32>> {
    let mut programs = [0_u32; MOST];
    let mut query = Query {
        interface: place.interface,
        attach_type: match place.way {
            Way::Ingress => BPF_TCX_INGRESS,
            Way::Egress => BPF_TCX_EGRESS,
        },
        programs: programs.as_mut_ptr() as u64,
        count: MOST as u32,
        ..Query::default()
    };
    // SAFETY: `Query` is laid out as the kernel expects for this command. `programs` outlives the call and
    // has room for `count` ids, and the kernel writes to nothing else.
    unsafe { bpf(BPF_PROG_QUERY, &mut query) }?;
    Ok(programs.into_iter().take(query.count as usize).collect())
}
