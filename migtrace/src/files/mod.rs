//! Files in directories that others may write to, too: no link is followed, nothing that is in the way is opened, and a file
//! has its name only once it is complete.

mod atomic;

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

pub use atomic::AtomicFile;

/// The end of the name of a file that is being written.
pub const PARTIAL: &str = ".partial";

/// The path with a suffix appended to its file name.
#[must_use]
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.file_name().unwrap_or_default().to_owned();
    name.push(suffix);
    path.with_file_name(name)
}

/// Replaces a file as a whole. After a loss of power it may be the earlier one, or empty.
///
/// # Errors
/// When it cannot be written. The earlier file stays.
pub fn write(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut file = AtomicFile::begin(path, mode)?;
    file.file().write_all(content)?;
    file.commit()
}

/// Replaces a file as a whole. After a loss of power it is the earlier or the new one.
///
/// # Errors
/// When it cannot be written. The earlier file stays.
pub fn write_synced(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut file = AtomicFile::begin(path, mode)?;
    file.file().write_all(content)?;
    file.commit_synced()
}

/// Makes a file. With `O_EXCL` the kernel follows no link and opens no existing file.
///
/// # Errors
/// When anything has that name, or it cannot be made.
pub fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(mode).open(path)
}

/// Opens a regular file for reading. It follows no link, and waits for no pipe.
///
/// # Errors
/// When it cannot be opened, or is something else.
pub fn open_regular(path: &Path) -> io::Result<File> {
    only_regular(OpenOptions::new().read(true), path)
}

/// Opens a regular file for reading and writing, or makes it. It follows no link, and waits for no pipe.
///
/// # Errors
/// When it cannot be opened, or is something else.
pub fn open_or_create(path: &Path, mode: u32) -> io::Result<File> {
    only_regular(OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(mode), path)
}

fn only_regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// Locks a file or a directory until it is closed, unless another process has locked it: then the answer is `false`. Where the
/// file system has no locks, it is used without one.
#[must_use]
pub fn lock(file: &File) -> bool {
    !matches!(file.try_lock(), Err(TryLockError::WouldBlock))
}

/// Whether a path still leads to an open file. A link never does.
#[must_use]
pub fn is_still(path: &Path, file: &File) -> bool {
    let (named, open) = (path.symlink_metadata(), file.metadata());
    named.is_ok_and(|named| open.is_ok_and(|open| (named.dev(), named.ino()) == (open.dev(), open.ino())))
}

/// The names in a directory, sorted. Those that are no UTF-8 are none of ours.
///
/// # Errors
/// When it cannot be read.
pub fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in directory.read_dir()? {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn only_regular_files_are_opened_and_none_through_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "text").unwrap();
        symlink("file", path("link")).unwrap();
        symlink("nothing", path("dangling")).unwrap();
        fs::create_dir(path("folder")).unwrap();
        // Opening it would block: nobody writes to it.
        nix::unistd::mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
        assert!(open_regular(&path("file")).is_ok() && open_or_create(&path("file"), 0o600).is_ok());
        for other in ["link", "dangling", "folder", "pipe", "/dev/null"] {
            assert!(open_regular(&path(other)).is_err(), "{other}");
            assert!(open_or_create(&path(other), 0o600).is_err(), "{other}");
        }
        assert!(open_regular(&path("absent")).is_err());
        assert_eq!(names(folder.path()).unwrap(), ["dangling", "file", "folder", "link", "pipe"]);
    }

    #[test]
    fn what_is_made_has_the_mode_that_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        create_new(&path("new"), 0o600).unwrap();
        open_or_create(&path("lock"), 0o600).unwrap();
        write(&path("written"), 0o600, b"text").unwrap();
        write_synced(&path("synced"), 0o600, b"text").unwrap();
        for name in names(folder.path()).unwrap() {
            let mode = fs::metadata(path(&name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(names(folder.path()).unwrap(), ["lock", "new", "synced", "written"]);
    }

    #[test]
    fn a_file_is_locked_by_one_at_a_time_and_known_whatever_replaces_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = open_or_create(&path, 0o600).unwrap();
        assert!(lock(&first));
        assert!(!lock(&open_or_create(&path, 0o600).unwrap()));
        assert!(is_still(&path, &first));
        fs::rename(&path, folder.path().join("moved")).unwrap();
        assert!(!is_still(&path, &first));
        symlink("moved", &path).unwrap();
        assert!(!is_still(&path, &first));
        drop(first);
        assert!(lock(&open_regular(&folder.path().join("moved")).unwrap()));
    }
}
