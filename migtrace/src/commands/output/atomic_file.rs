//! A file that is written under a temporary name and takes its own name when it is complete.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::path::beside;

/// Written to prove that there is room. The record of a long migration is of this order.
const ROOM_BYTES: usize = 256 * 1024;

/// The file `NAME.partial` beside `NAME`. Dropping it before [`AtomicFile::commit`] removes it.
///
/// It never opens an existing file: in a folder that others can write to, `NAME.partial` could be a link to `/etc/passwd`, or
/// a pipe.
#[derive(Debug)]
pub(in crate::commands) struct AtomicFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    is_committed: bool,
}

impl AtomicFile {
    /// Creates the temporary file, and proves that there is room for what will be written.
    pub(in crate::commands) fn create(path: &Path) -> io::Result<Self> {
        let mut atomic = Self::begin(path)?;
        atomic.prove_room()?;
        Ok(atomic)
    }

    /// Creates the temporary file, for what is written at once.
    pub(in crate::commands) fn begin(path: &Path) -> io::Result<Self> {
        let temporary = beside(path, ".partial");
        let file = match create_new(&temporary) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                remove_stale(&temporary)?;
                create_new(&temporary)?
            }
            created => created?,
        };
        // Where the file system has no locks, the file is used without one.
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(in_use(&temporary));
        }
        Ok(Self { file, temporary, path: path.to_owned(), is_committed: false })
    }

    /// Writes as much as will be needed, and truncates the file again.
    fn prove_room(&mut self) -> io::Result<()> {
        self.file.write_all(&vec![0; ROOM_BYTES])?;
        self.file.sync_all()?;
        self.file.set_len(0)?;
        self.file.rewind()
    }

    /// The name that it will take.
    pub(in crate::commands) fn path(&self) -> &Path {
        &self.path
    }

    /// The file itself.
    pub(in crate::commands) const fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives the file its name, replacing whatever has that name. A link is replaced, not followed.
    pub(in crate::commands) fn commit(&mut self) -> io::Result<()> {
        if !self.is_still_there() {
            return Err(io::Error::other(format!(
                "{} was removed or replaced meanwhile",
                self.temporary.display()
            )));
        }
        fs::rename(&self.temporary, &self.path)?;
        self.is_committed = true;
        Ok(())
    }

    fn is_still_there(&self) -> bool {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let named = fs::symlink_metadata(&self.temporary).map(identity);
        named.is_ok_and(|named| self.file.metadata().map(identity).is_ok_and(|own| own == named))
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.is_committed && self.is_still_there() {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// With `create_new` (`O_EXCL`) the kernel follows no link and opens no existing file.
fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Removes what a killed run left.
fn remove_stale(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_file() {
        let why = format!("{} is in the way and was not made by migtrace: remove it", path.display());
        return Err(io::Error::new(ErrorKind::AlreadyExists, why));
    }
    // It may have become a link or a pipe since then.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    if let Ok(stale) = OpenOptions::new().read(true).custom_flags(flags).open(path)
        && matches!(stale.try_lock(), Err(TryLockError::WouldBlock))
    {
        return Err(in_use(path));
    }
    fs::remove_file(path)
}

fn in_use(path: &Path) -> io::Error {
    let why = format!("another migtrace is writing {}", path.display());
    io::Error::new(ErrorKind::ResourceBusy, why)
}

/// The names in a folder, sorted.
#[cfg(test)]
pub(in crate::commands) fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn it_takes_its_name_when_complete_or_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        fs::write(&path, "old").unwrap();
        drop(AtomicFile::create(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        let mut atomic = AtomicFile::create(&path).unwrap();
        atomic.file().write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        atomic.commit().unwrap();
        drop(atomic);
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(names(folder.path()), ["record"]);
    }

    #[test]
    fn a_leftover_is_replaced_without_writing_through_its_hard_links() {
        let folder = tempfile::tempdir().unwrap();
        let (secret, path) = (folder.path().join("secret"), folder.path().join("record"));
        fs::write(&secret, "secret").unwrap();
        fs::hard_link(&secret, folder.path().join("record.partial")).unwrap();
        let mut atomic = AtomicFile::create(&path).unwrap();
        atomic.file().write_all(b"new").unwrap();
        atomic.commit().unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn links_and_pipes_under_the_temporary_name_are_refused_and_never_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (secret, in_the_way) = (folder.path().join("secret"), folder.path().join("record.partial"));
        fs::write(&secret, "secret").unwrap();
        let refused = || {
            let error = AtomicFile::create(&folder.path().join("record")).unwrap_err().to_string();
            assert!(error.contains("record.partial is in the way"), "{error}");
            fs::remove_file(&in_the_way).unwrap();
        };
        symlink(&secret, &in_the_way).unwrap();
        refused();
        symlink(folder.path().join("nothing"), &in_the_way).unwrap();
        refused();
        // Opening it would block: nobody reads from it.
        nix::unistd::mkfifo(&in_the_way, Mode::S_IRWXU).unwrap();
        refused();
        assert_eq!(names(folder.path()), ["secret"]);
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    }

    #[test]
    fn a_link_under_its_name_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (secret, path) = (folder.path().join("secret"), folder.path().join("record"));
        fs::write(&secret, "secret").unwrap();
        symlink(&secret, &path).unwrap();
        AtomicFile::create(&path).unwrap().commit().unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn two_writers_of_one_file_do_not_overwrite_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        let mut first = AtomicFile::create(&path).unwrap();
        let error = AtomicFile::create(&path).unwrap_err().to_string();
        assert!(error.contains("another migtrace is writing"), "{error}");
        first.commit().unwrap();
    }

    #[test]
    fn a_file_put_under_the_temporary_name_is_not_committed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        let mut atomic = AtomicFile::create(&path).unwrap();
        let temporary = folder.path().join("record.partial");
        fs::remove_file(&temporary).unwrap();
        fs::write(&temporary, "forged").unwrap();
        assert!(atomic.commit().unwrap_err().to_string().contains("replaced meanwhile"));
        drop(atomic);
        assert_eq!(names(folder.path()), ["record.partial"]);
    }
}
