//! The QEMU processes of this network namespace, from `/proc` alone: no monitor is opened, no guest is touched.

mod command_line;
mod description;
mod kind;
mod named;
mod process;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod trust;
mod version;

use std::fs;
use std::io;

pub(crate) use kind::{Kind, Pretender};
pub(crate) use named::Binaries;
pub(crate) use trust::{Distrust, shown};
pub(crate) use version::Question;

use crate::event::Qemu;
use process::Process;

/// What [`find`] has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In the order of their process ids.
    pub(crate) qemus: Vec<Qemu>,
    /// Processes that call themselves QEMU, and are not known to be one.
    pub(crate) pretenders: Vec<Pretender>,
}

/// Every QEMU process of the calling thread's network namespace.
///
/// # Errors
/// `/proc` cannot be listed, or a process that calls itself QEMU cannot be examined. In the second case `CAP_SYS_PTRACE`
/// is missing, and leaving the process out would hide a VM.
pub(crate) fn find(binaries: &Binaries) -> io::Result<Found> {
    let namespace = fs::read_link("/proc/thread-self/ns/net").map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot read this process's network namespace from /proc: {error}"),
        )
    })?;
    let mut found = Found::default();
    let processes = fs::read_dir("/proc").map_err(|error| {
        io::Error::new(error.kind(), format!("cannot list /proc for QEMU processes: {error}"))
    })?;
    for entry in processes {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match Process(pid).kind_in(&namespace, binaries)? {
            Kind::Qemu => found.qemus.extend(Process(pid).describe()),
            Kind::Pretender(pretender) => found.pretenders.push(pretender),
            Kind::Other => {}
        }
    }
    found.qemus.sort_unstable_by_key(|qemu| qemu.pid);
    Ok(found)
}

/// One QEMU process; `None` when `pid` is not a QEMU of the calling thread's network namespace, has ended, or may not be
/// read.
///
/// - `taps` are those that the process holds open, `accelerator` is the one that it really uses. Both need the right to
///   read its `/proc/PID/fd` (`CAP_SYS_PTRACE` and, for another user's process, `CAP_DAC_READ_SEARCH`). Without it there
///   are no taps, and the accelerator is the command line's first choice.
/// - `version` is what the binary has answered to an [`unasked_version`] question. It is `None` before that, and for a
///   binary that an unprivileged user or a container could have placed there: such a binary must not be run.
#[must_use]
pub(crate) fn read(pid: u32, binaries: &Binaries) -> Option<Qemu> {
    match identify(pid, binaries) {
        Kind::Qemu => Process(pid).describe(),
        Kind::Pretender(_) | Kind::Other => None,
    }
}

/// The question for the version of the binary that `pid` runs; `None` when the binary has been asked, is being asked, or
/// is not a QEMU that may be run.
#[must_use]
pub(crate) fn unasked_version(pid: u32, binaries: &Binaries) -> Option<Question> {
    let process = Process(pid);
    if process.runs_qemu(binaries) { Question::to(process) } else { None }
}

/// What `pid` is in the calling thread's network namespace. Takes some microseconds, [`read`] takes longer.
#[must_use]
pub(crate) fn identify(pid: u32, binaries: &Binaries) -> Kind {
    let Ok(namespace) = fs::read_link("/proc/thread-self/ns/net") else { return Kind::Other };
    Process(pid).kind_in(&namespace, binaries).unwrap_or(Kind::Other)
}
