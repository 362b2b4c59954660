//! One process of a host at a time writes to a directory.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::names;

/// Held while this process writes to a directory.
pub(super) struct DirectoryLock(File);

impl DirectoryLock {
    /// Locks the directory for the processes of a host: others may share it, as on NFS.
    pub(super) fn take(directory: &Path, host: &str) -> Result<Self> {
        let path = directory.join(names::lock(host));
        let cannot = || format!("cannot write to the directory {}", directory.display());
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW);
        let mut file = options.open(&path).with_context(cannot)?;
        // Where the file system has no locks, the directory is used without one.
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
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
        let named = fs::symlink_metadata(directory.join(names::lock(host)));
        let held = self.0.metadata().context("cannot look at the lock")?;
        if !named.is_ok_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino())) {
            *self = Self::take(directory, host)?;
        }
        Ok(())
    }
}
