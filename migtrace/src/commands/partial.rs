//! A file that is written beside its place and put there as a whole.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::place::beside;

/// What is written to prove that there is room; a record of a long migration is of this order.
const ROOM_BYTES: usize = 256 * 1024;

/// The file `NAME.partial` beside `NAME`. It goes with this unless it is put in its place.
///
/// Nobody else's file is ever opened for it: in a folder where others may write too, its name can be a link to
/// `/etc/passwd`, or a pipe.
#[derive(Debug)]
pub(super) struct Partial {
    file: File,
    at: PathBuf,
    place: PathBuf,
    is_placed: bool,
}

impl Partial {
    /// Makes it, and proves that there is room for what will be written.
    pub(super) fn create(place: &Path) -> io::Result<Self> {
        let at = beside(place, ".partial");
        let file = match create_new(&at) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                remove_stale(&at)?;
                create_new(&at)?
            }
            created => created?,
        };
        // A file system that has no locks gets on without.
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(in_use(&at));
        }
        let mut partial = Self { file, at, place: place.to_owned(), is_placed: false };
        partial.prove_room()?;
        Ok(partial)
    }

    /// Writes as much as will be needed, and takes it back.
    fn prove_room(&mut self) -> io::Result<()> {
        self.file.write_all(&vec![0; ROOM_BYTES])?;
        self.file.sync_all()?;
        self.file.set_len(0)?;
        self.file.rewind()
    }

    /// Where it goes.
    pub(super) fn place(&self) -> &Path {
        &self.place
    }

    /// The file itself.
    pub(super) const fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Puts it in its place, instead of whatever has that name; a link is replaced and not followed.
    pub(super) fn put(&mut self) -> io::Result<()> {
        if !self.is_still_there() {
            return Err(io::Error::other(format!("{} was removed or replaced meanwhile", self.at.display())));
        }
        fs::rename(&self.at, &self.place)?;
        self.is_placed = true;
        Ok(())
    }

    fn is_still_there(&self) -> bool {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let named = fs::symlink_metadata(&self.at).map(identity);
        named.is_ok_and(|named| self.file.metadata().map(identity).is_ok_and(|own| own == named))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_placed && self.is_still_there() {
            let _ = fs::remove_file(&self.at);
        }
    }
}

/// With these flags the kernel follows no link and opens nothing that is there.
fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// Removes what a killed run has left.
fn remove_stale(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.is_file() {
        let why = format!("{} is in the way, and no file of migtrace's: remove it", path.display());
        return Err(io::Error::new(ErrorKind::AlreadyExists, why));
    }
    // Between the two it may have become a link or a pipe.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    if let Ok(stale) = OpenOptions::new().read(true).custom_flags(flags).open(path)
        && matches!(stale.try_lock(), Err(TryLockError::WouldBlock))
    {
        return Err(in_use(path));
    }
    fs::remove_file(path)
}

fn in_use(path: &Path) -> io::Error {
    let why = format!("another migtrace writes {}", path.display());
    io::Error::new(ErrorKind::ResourceBusy, why)
}

/// What is in a folder, in order.
#[cfg(test)]
pub(super) fn names(folder: &Path) -> Vec<String> {
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
    fn it_goes_to_its_place_whole_or_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("record");
        fs::write(&place, "old").unwrap();
        drop(Partial::create(&place).unwrap());
        assert_eq!(fs::read_to_string(&place).unwrap(), "old");
        let mut partial = Partial::create(&place).unwrap();
        partial.file().write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "old");
        partial.put().unwrap();
        drop(partial);
        assert_eq!(fs::read_to_string(&place).unwrap(), "new");
        assert_eq!(names(folder.path()), ["record"]);
    }

    #[test]
    fn what_a_killed_run_left_is_replaced_and_a_hard_link_of_somebody_else_stays_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let (secret, place) = (folder.path().join("secret"), folder.path().join("record"));
        fs::write(&secret, "secret").unwrap();
        fs::hard_link(&secret, folder.path().join("record.partial")).unwrap();
        let mut partial = Partial::create(&place).unwrap();
        partial.file().write_all(b"new").unwrap();
        partial.put().unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(fs::read_to_string(&place).unwrap(), "new");
    }

    #[test]
    fn links_and_pipes_in_its_way_are_named_and_never_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (secret, in_the_way) = (folder.path().join("secret"), folder.path().join("record.partial"));
        fs::write(&secret, "secret").unwrap();
        let refused = || {
            let error = Partial::create(&folder.path().join("record")).unwrap_err().to_string();
            assert!(error.contains("record.partial is in the way"), "{error}");
            fs::remove_file(&in_the_way).unwrap();
        };
        symlink(&secret, &in_the_way).unwrap();
        refused();
        symlink(folder.path().join("nothing"), &in_the_way).unwrap();
        refused();
        // Nobody reads from it: who opened it would wait.
        nix::unistd::mkfifo(&in_the_way, Mode::S_IRWXU).unwrap();
        refused();
        assert_eq!(names(folder.path()), ["secret"]);
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    }

    #[test]
    fn a_link_in_its_place_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (secret, place) = (folder.path().join("secret"), folder.path().join("record"));
        fs::write(&secret, "secret").unwrap();
        symlink(&secret, &place).unwrap();
        Partial::create(&place).unwrap().put().unwrap();
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert!(fs::symlink_metadata(&place).unwrap().is_file());
    }

    #[test]
    fn two_at_once_do_not_write_over_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("record");
        let mut first = Partial::create(&place).unwrap();
        let error = Partial::create(&place).unwrap_err().to_string();
        assert!(error.contains("another migtrace writes"), "{error}");
        first.put().unwrap();
    }

    #[test]
    fn what_somebody_put_under_its_name_is_not_taken_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("record");
        let mut partial = Partial::create(&place).unwrap();
        let at = folder.path().join("record.partial");
        fs::remove_file(&at).unwrap();
        fs::write(&at, "forged").unwrap();
        assert!(partial.put().unwrap_err().to_string().contains("replaced meanwhile"));
        drop(partial);
        assert_eq!(names(folder.path()), ["record.partial"]);
    }
}
