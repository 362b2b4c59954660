//! A process by its id.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// A process' first argument is read as far as this.
const LONGEST_NAME_BYTES: u64 = 4096;

/// A process by its id. Any of its files may vanish at any moment.
#[derive(Clone, Copy)]
pub(super) struct Process(pub(super) u32);

impl Process {
    pub(super) fn path(self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.0.to_string()).join(name)
    }

    /// Its command line. A kernel thread, and a process that has ended but still has its entry, has one empty argument.
    pub(super) fn arguments(self) -> Option<Vec<String>> {
        let argv = fs::read(self.path("cmdline")).ok()?;
        let arguments = argv.strip_suffix(&[0]).unwrap_or(&argv).split(|&byte| byte == 0);
        Some(arguments.map(|argument| String::from_utf8_lossy(argument).into_owned()).collect())
    }

    /// What it calls itself: its first argument.
    pub(super) fn name(self) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        File::open(self.path("cmdline")).ok()?.take(LONGEST_NAME_BYTES).read_to_end(&mut name).ok()?;
        let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        name.truncate(length);
        Some(name)
    }

    /// Its effective user.
    pub(super) fn uid(self) -> Option<u32> {
        let status = fs::read_to_string(self.path("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
    }
}
