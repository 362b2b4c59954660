//! Detaches the TCX links of another process, as `bpftool link detach` does.

use crate::bpf_syscall::{self, call};
use crate::fd_info::FdInfo;
use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::os::fd::AsRawFd as _;

const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Detaches every attached TCX link that a child process holds. Returns how many that were.
///
/// The process is stopped meanwhile: it finds all of them gone at once, however busy the machine is.
///
/// # Errors
///
/// When there is no such child, or the kernel refuses.
pub fn detach_tcx_links(pid: u32) -> Result<usize> {
    let child = Pid::from_raw(pid.cast_signed());
    kill(child, Signal::SIGSTOP).context("cannot stop the process")?;
    // A stop or an end is left for others to wait for.
    let stopped_or_ended = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(child), stopped_or_ended).context("cannot wait until the process stops")?;
    let detached = detach_all(pid);
    kill(child, Signal::SIGCONT).context("cannot continue the process")?;
    detached
}

fn detach_all(pid: u32) -> Result<usize> {
    let mut detached = 0;
    for info in FdInfo::of_process(pid)? {
        if info.field("link_type:") != Some("tcx") || info.field("ifindex:") == Some("0") {
            continue;
        }
        let id: u32 = info.field("link_id:").context("a link without an id")?.parse()?;
        let link = bpf_syscall::open(BPF_LINK_GET_FD_BY_ID, &id).context("cannot open a link by its id")?;
        call(BPF_LINK_DETACH, &link.as_raw_fd().cast_unsigned()).context("cannot detach a link")?;
        detached += 1;
    }
    Ok(detached)
}
