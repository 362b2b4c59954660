//! Whether only root can have put an executable where it is.
//!
//! The link `/proc/PID/exe` names a file in the mount namespace of the process. Only root can make that name lie, unless
//! the process is in a user namespace of its own.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};

use super::process::Process;
use crate::terminal::clean;

/// As much is shown of a path.
const SHOWN_LENGTH: usize = 120;

/// Why an executable is not known to be QEMU's.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Distrust {
    /// Only the process' first argument is QEMU's.
    Name,
    /// Another user than root owns the file, or can write to it.
    File,
    /// Whoever mounted its file system decides who seems to own it.
    Fuse,
    /// Another user than root can put files into this directory; or it is not a directory, or no longer there.
    Directory(PathBuf),
    /// Whoever made the process' user namespace can mount any file at any place.
    UserNamespace,
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("which does not have the name of a QEMU"),
            Self::File => f.write_str("which users other than root own or can write to"),
            Self::Fuse => f.write_str("which lies on a FUSE file system, where its owner can be anybody"),
            Self::Directory(path) => {
                write!(f, "below {}, which does not (or no longer) belong to root alone", shown(path))
            }
            Self::UserNamespace => {
                f.write_str("in a user namespace of its own, where anybody can mount any file at that place")
            }
        }
    }
}

/// A path as it may be shown.
pub(crate) fn shown(path: &Path) -> String {
    let path = path.to_string_lossy();
    let path = clean(&path);
    if path.chars().count() <= SHOWN_LENGTH {
        return format!("`{path}`");
    }
    format!("`{}...`", path.chars().take(SHOWN_LENGTH).collect::<String>())
}

/// Why an executable of this process, which has a QEMU's name, may not be QEMU's; `None` when only root can have put it
/// there.
pub(super) fn distrust(process: Process, executable: &Path) -> io::Result<Option<Distrust>> {
    if fs::read_link(process.path("ns/user"))? != fs::read_link("/proc/self/ns/user")? {
        return Ok(Some(Distrust::UserNamespace));
    }
    // Before the file itself, so that a user's file system is not asked about what lies behind a user's directory.
    if let Some(why) = distrust_of_directories(&root_of(process)?, executable) {
        return Ok(Some(why));
    }
    if is_on_fuse(&process.path("exe"))? {
        return Ok(Some(Distrust::Fuse));
    }
    let is_trusted = is_roots_alone(&fs::metadata(process.path("exe"))?);
    Ok((!is_trusted).then_some(Distrust::File))
}

/// The directory at which the name of a process' executable begins.
fn root_of(process: Process) -> io::Result<PathBuf> {
    // Within this mount namespace it begins at this process' root, also for a process in a `chroot`.
    let is_ours = fs::read_link(process.path("ns/mnt"))? == fs::read_link("/proc/thread-self/ns/mnt")?;
    Ok(if is_ours { PathBuf::from("/") } else { process.path("root") })
}

/// Why another user than root may have put a file where it is, or replaced a directory of its path. The path begins at
/// `root`. It has no symbolic links, since the kernel named it.
pub(super) fn distrust_of_directories(root: &Path, file: &Path) -> Option<Distrust> {
    let last = file.parent()?;
    let mut directories: Vec<_> = last.ancestors().collect();
    directories.reverse();
    directories.into_iter().find_map(|directory| {
        // The dot follows the link of `/proc/PID/root`.
        let path = root.join(".").join(directory.strip_prefix("/").unwrap_or(directory));
        if is_on_fuse(&path).is_ok_and(|is_fuse| is_fuse) {
            return Some(Distrust::Fuse);
        }
        let is_roots = fs::symlink_metadata(&path).is_ok_and(|metadata| {
            // In a sticky directory, other users can add a directory, but cannot replace one of root's.
            let is_sticky = metadata.uid() == 0 && metadata.mode() & 0o1000 != 0;
            metadata.is_dir() && (is_roots_alone(&metadata) || (is_sticky && directory != last))
        });
        (!is_roots).then(|| Distrust::Directory(directory.to_owned()))
    })
}

/// Whether root owns a file or a directory, and nobody else can write to it.
pub(super) fn is_roots_alone(metadata: &Metadata) -> bool {
    metadata.uid() == 0 && metadata.mode() & 0o022 == 0
}

/// Whether a user's program may be what answers questions about a file.
pub(super) fn is_on_fuse(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == FUSE_SUPER_MAGIC)
}
