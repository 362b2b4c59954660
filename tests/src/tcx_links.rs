//! The TCX links of another process, and how somebody else breaks them (`bpftool link detach` does it so).

use crate::fd_info::FdInfo;
use crate::packet_counter::{bpf, call};
use anyhow::{Context as _, Result};
use std::os::fd::AsRawFd as _;

const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Breaks every TCX link that a process holds; returns how many there were that were whole.
///
/// # Errors
///
/// When there is no such process, or the kernel refuses.
pub fn break_tcx_links(pid: u32) -> Result<usize> {
    let mut broken = 0;
    for info in FdInfo::of_process(pid)? {
        if info.field("link_type:") != Some("tcx") || info.field("ifindex:") == Some("0") {
            continue;
        }
        let id: u32 = info.field("link_id:").context("a link without a number")?.parse()?;
        let link = bpf(BPF_LINK_GET_FD_BY_ID, &id).context("cannot open a link by its number")?;
        call(BPF_LINK_DETACH, &link.as_raw_fd().cast_unsigned()).context("cannot break a link")?;
        broken += 1;
    }
    Ok(broken)
}
