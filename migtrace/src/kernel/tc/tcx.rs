//! Which programs are attached as TCX links, in their order: asked of the kernel with one system call, and without the
//! privilege (`CAP_SYS_ADMIN`) that it takes to learn more of a program than its number.

use std::io;

use crate::host::filters::{Place, Way};
use crate::kernel::bpf_syscall::bpf;

/// The command and its attach types (include/uapi/linux/bpf.h).
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// The kernel attaches no more at one place (`BPF_MPROG_MAX`).
const MOST: usize = 64;

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

/// The numbers of the programs at a place, the first to run first.
///
/// # Errors
/// `ENODEV` when there is no such interface in the calling thread's network namespace; `EINVAL` before Linux 6.6.
pub(super) fn programs(place: Place) -> io::Result<Vec<u32>> {
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
    // SAFETY: `query` has room for `count` numbers where it says, and the kernel writes to nothing else.
    unsafe { bpf(BPF_PROG_QUERY, &mut query) }?;
    Ok(programs.into_iter().take(query.count as usize).collect())
}
