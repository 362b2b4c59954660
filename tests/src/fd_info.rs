//! What the kernel says of the descriptors of another process.

use anyhow::{Context as _, Result};
use std::fs;

/// What it says of one of them.
pub(crate) struct FdInfo(String);

impl FdInfo {
    /// Of all that a process holds. What is closed meanwhile has nothing said of it.
    pub(crate) fn of_process(pid: u32) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).context("no such process")? {
            all.push(Self(fs::read_to_string(entry?.path()).unwrap_or_default()));
        }
        Ok(all)
    }

    /// What follows this name, if there is such a line.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
    }
}
