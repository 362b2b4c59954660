//! One process of a host at a time writes to a directory.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use migtrace::files;

use crate::commands::names;

/// Held while this process writes to a directory.
pub(super) struct DirectoryLock(File);

impl DirectoryLock {
    /// Locks the directory for the processes of a host: others may share it, as on NFS.
    pub(super) fn take(directory: &Path, host: &str) -> Result<Self> {
        let path = directory.join(names::lock(host));
        let cannot = || format!("cannot write to the directory {}", directory.display());
        let mut file = files::open_or_create(&path, 0o640).with_context(cannot)?;
        if !files::lock(&file) {
            let mut pid = String::new();
            let _ = (&mut file).take(20).read_to_string(&mut pid);
            let who = pid.trim().parse::<u32>().map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            bail!(
                "another migtrace{who} watches into {}: give each its own directory, or end that one",
                directory.display()
            );
        }
        let written = file.set_len(0).and_then(|()| file.rewind());
        let written = written.and_then(|()| writeln!(file, "{}", std::process::id()));
        written.with_context(cannot)?;
        Ok(Self(file))
    }

    /// Takes the lock anew if the directory was replaced by another one.
    pub(super) fn renew(&mut self, directory: &Path, host: &str) -> Result<()> {
        if !files::is_still(&directory.join(names::lock(host)), &self.0) {
            *self = Self::take(directory, host)?;
        }
        Ok(())
    }
}
