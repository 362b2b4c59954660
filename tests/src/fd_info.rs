//! What the kernel reports about the descriptors of another process.

use anyhow::{Context as _, Result};
use std::fs;

/// The report about one descriptor.
pub(crate) struct FdInfo(String);

impl FdInfo {
    /// The reports about all descriptors of a process. Of those that are closed meanwhile, they are empty.
    pub(crate) fn of_process(pid: u32) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).context("no such process")? {
            all.push(Self(fs::read_to_string(entry?.path()).unwrap_or_default()));
        }
        Ok(all)
    }

    /// The value after this name, if there is such a line.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
    }
}
