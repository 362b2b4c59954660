//! A file that is written under a temporary name and takes its own name when it is complete.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use super::{PARTIAL, beside, create_new, is_still, lock, open_regular};

/// Written to prove that there is room. The record of a long migration is of this order.
const ROOM_BYTES: usize = 256 * 1024;

/// The file `NAME.partial` beside `NAME`. Dropping it before it has got its name removes it.
///
/// It never opens an existing file: in a folder that others can write to, `NAME.partial` could be a link to `/etc/passwd`, or
/// a pipe.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    is_committed: bool,
}

impl AtomicFile {
    /// Creates the temporary file, with this mode less the umask. What a killed process has left under its name is removed, and
    /// a link, too; anything else is in the way.
    ///
    /// # Errors
    /// When something is in the way, another process is writing the same file, or it cannot be created.
    pub fn begin(path: &Path, mode: u32) -> io::Result<Self> {
        let temporary = beside(path, PARTIAL);
        let file = match create_new(&temporary, mode) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                remove_stale(&temporary)?;
                create_new(&temporary, mode)?
            }
            created => created?,
        };
        if !lock(&file) {
            return Err(in_use(&temporary));
        }
        Ok(Self { file, temporary, path: path.to_owned(), is_committed: false })
    }

    /// The same, for what is written much later: proves that there is room.
    ///
    /// # Errors
    /// Also when there is no room.
    pub fn begin_with_room(path: &Path, mode: u32) -> io::Result<Self> {
        let mut atomic = Self::begin(path, mode)?;
        atomic.file.write_all(&vec![0; ROOM_BYTES])?;
        atomic.file.sync_all()?;
        atomic.file.set_len(0)?;
        atomic.file.rewind()?;
        Ok(atomic)
    }

    /// The name that it will take.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file itself.
    pub const fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives the file its name, replacing whatever has that name. A link is replaced, not followed.
    ///
    /// # Errors
    /// When it cannot be renamed, or the temporary file is another one by now.
    pub fn commit(&mut self) -> io::Result<()> {
        if !is_still(&self.temporary, &self.file) {
            return Err(io::Error::other(format!(
                "{} was removed or replaced meanwhile",
                self.temporary.display()
            )));
        }
        fs::rename(&self.temporary, &self.path)?;
        self.is_committed = true;
        Ok(())
    }

    /// The same, once its content is on the disk. Otherwise a loss of power could leave an empty file under its name.
    ///
    /// # Errors
    /// Also when the content cannot be written.
    pub fn commit_synced(&mut self) -> io::Result<()> {
        self.file.sync_all()?;
        self.commit()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.is_committed && is_still(&self.temporary, &self.file) {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Removes what a killed process has left, or a link. Removing a link touches nothing but the link.
fn remove_stale(path: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?.file_type();
    if !kind.is_file() && !kind.is_symlink() {
        let why = format!("{} is in the way and was not made by migtrace: remove it", path.display());
        return Err(io::Error::new(ErrorKind::AlreadyExists, why));
    }
    // It may have become a pipe since then.
    if open_regular(path).is_ok_and(|stale| !lock(&stale)) {
        return Err(in_use(path));
    }
    fs::remove_file(path)
}

fn in_use(path: &Path) -> io::Error {
    let why = format!("another migtrace is writing {}", path.display());
    io::Error::new(ErrorKind::ResourceBusy, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;

    use super::super::names;
    use super::*;

    #[test]
    fn it_takes_its_name_when_complete_or_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        fs::write(&path, "old").unwrap();
        drop(AtomicFile::begin_with_room(&path, 0o666).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        let mut atomic = AtomicFile::begin_with_room(&path, 0o666).unwrap();
        atomic.file().write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        atomic.commit().unwrap();
        drop(atomic);
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(names(folder.path()).unwrap(), ["record"]);
    }

    #[test]
    fn a_leftover_is_replaced_without_writing_through_its_hard_links() {
        let folder = tempfile::tempdir().unwrap();
        let (secret, path) = (folder.path().join("secret"), folder.path().join("record"));
        fs::write(&secret, "secret").unwrap();
        fs::hard_link(&secret, folder.path().join("record.partial")).unwrap();
        let mut atomic = AtomicFile::begin_with_room(&path, 0o666).unwrap();
        atomic.file().write_all(b"new").unwrap();
        atomic.commit().unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn a_link_under_the_temporary_name_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (secret, path) = (folder.path().join("secret"), folder.path().join("record"));
        fs::write(&secret, "secret").unwrap();
        for target in ["secret", "nothing", "/dev/full"] {
            symlink(target, folder.path().join("record.partial")).unwrap();
            super::super::write(&path, 0o666, target.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), target);
        }
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(names(folder.path()).unwrap(), ["record", "secret"]);
    }

    #[test]
    fn pipes_and_folders_under_the_temporary_name_are_refused_and_never_opened() {
        let folder = tempfile::tempdir().unwrap();
        let in_the_way = folder.path().join("record.partial");
        let refused = || {
            let error = AtomicFile::begin(&folder.path().join("record"), 0o666).unwrap_err().to_string();
            assert!(error.contains("record.partial is in the way"), "{error}");
        };
        // Opening it would block: nobody reads from it.
        nix::unistd::mkfifo(&in_the_way, Mode::S_IRWXU).unwrap();
        refused();
        fs::remove_file(&in_the_way).unwrap();
        fs::create_dir(&in_the_way).unwrap();
        refused();
        assert_eq!(names(folder.path()).unwrap(), ["record.partial"]);
    }

    #[test]
    fn a_link_under_its_name_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (secret, path) = (folder.path().join("secret"), folder.path().join("record"));
        fs::write(&secret, "secret").unwrap();
        symlink(&secret, &path).unwrap();
        AtomicFile::begin_with_room(&path, 0o666).unwrap().commit().unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn two_writers_of_one_file_do_not_overwrite_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        let mut first = AtomicFile::begin_with_room(&path, 0o666).unwrap();
        let error = AtomicFile::begin_with_room(&path, 0o666).unwrap_err().to_string();
        assert!(error.contains("another migtrace is writing"), "{error}");
        first.commit().unwrap();
    }

    #[test]
    fn a_file_put_under_the_temporary_name_is_not_committed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        let mut atomic = AtomicFile::begin_with_room(&path, 0o666).unwrap();
        let temporary = folder.path().join("record.partial");
        fs::remove_file(&temporary).unwrap();
        fs::write(&temporary, "forged").unwrap();
        assert!(atomic.commit().unwrap_err().to_string().contains("replaced meanwhile"));
        drop(atomic);
        assert_eq!(names(folder.path()).unwrap(), ["record.partial"]);
    }
}
