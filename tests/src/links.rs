//! The eBPF links of another process: the programs that it has attached.

use crate::fd_info::FdInfo;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many links of each kind a process holds: `tcx`, `raw_tracepoint`, `perf`, as the kernel calls them.
///
/// # Errors
///
/// When there is no such process.
pub fn links(pid: u32) -> Result<BTreeMap<String, usize>> {
    let mut links = BTreeMap::new();
    for info in FdInfo::of_process(pid)? {
        if let Some(kind) = info.field("link_type:") {
            *links.entry(kind.to_owned()).or_default() += 1;
        }
    }
    Ok(links)
}

/// Waits until a process has this many links at interfaces (Linux 6.6 and later).
///
/// # Errors
///
/// When it has not within `patience`.
pub fn wait_for_tcx_links(pid: u32, wanted: usize, patience: Duration) -> Result<()> {
    let started = Instant::now();
    loop {
        let links = links(pid)?;
        if links.get("tcx").copied().unwrap_or(0) == wanted {
            return Ok(());
        }
        ensure!(started.elapsed() < patience, "not {wanted} links at interfaces: {links:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// How many descriptors a process has open.
///
/// # Errors
///
/// When there is no such process.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(FdInfo::of_process(pid)?.len())
}
