//! Detaches the TCX links of another process, as `bpftool link detach` does.

use crate::bpf_syscall::{self, call};
use crate::fd_info::FdInfo;
use anyhow::{Context as _, Result};
use std::os::fd::AsRawFd as _;

const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Detaches every attached TCX link that a process holds. Returns how many that were.
///
/// # Errors
///
/// When there is no such process, or the kernel refuses.
pub fn detach_tcx_links(pid: u32) -> Result<usize> {
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
