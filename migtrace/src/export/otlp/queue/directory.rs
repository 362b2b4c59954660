//! The files of a queue. Others may write to the directory: no link is followed, and only files of this user are touched.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// What a file begins with; the hash of the request follows, then the request.
const MAGIC: &[u8; 8] = b"migOTLP1";
const HASH: usize = 32;
const HEAD: u64 = (MAGIC.len() + HASH) as u64;

/// A file that is longer is none of ours.
const LONGEST: u64 = 256 << 20;

const LOCK: &str = "lock";
const SUFFIX: &str = ".otlp";
const PARTIAL: &str = ".partial";

/// Why a queue cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep what is to be sent in {}: {why}", path.display())]
pub struct QueueError {
    path: PathBuf,
    why: String,
}

/// An open directory. It stays the same, whatever its path leads to later.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    directory: File,
    _lock: File,
}

/// What a file has.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Taken {
    Request(Vec<u8>),
    /// It is not what was written.
    Damaged,
    /// It is not there any more, or not ours.
    Gone,
}

impl Directory {
    /// Opens the directory, and finds the numbers and lengths of its requests, the oldest first.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<(u64, u64)>), QueueError> {
        let cannot = |why: &dyn ToString| QueueError { path: path.to_owned(), why: why.to_string() };
        match DirBuilder::new().mode(0o700).recursive(true).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(cannot(&error)),
            _ => {}
        }
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let directory = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let directory = directory.map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP | libc::ENOTDIR) => cannot(&"it is not a directory"),
            _ => cannot(&error),
        })?;
        let lock = within(&directory, LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let lock = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(lock);
        let lock = lock.map_err(|error| cannot(&format!("its file `{LOCK}` cannot be opened: {error}")))?;
        // Where the file system has no locks, the directory is used without one.
        if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(cannot(&"another migtrace uses it"));
        }
        let opened = Self { path: path.to_owned(), directory, _lock: lock };
        let found = opened.scan().map_err(|error| cannot(&error))?;
        Ok((opened, found))
    }

    /// The requests that are there. What a killed process has not finished is removed.
    fn scan(&self) -> io::Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(within(&self.directory, "."))? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let Ok(metadata) = entry.metadata() else { continue };
            if !is_ours(&metadata) {
                continue;
            }
            if name.strip_suffix(PARTIAL).and_then(number_of).is_some() {
                let _ = fs::remove_file(within(&self.directory, name));
            } else if let Some(number) = number_of(name) {
                found.push((number, metadata.len().saturating_sub(HEAD)));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Writes a request. It has its name only once it is complete.
    pub(super) fn write(&self, number: u64, request: &[u8]) -> Result<(), QueueError> {
        let path = within(&self.directory, &name_of(number));
        let partial = within(&self.directory, &(name_of(number) + PARTIAL));
        let written = write_new(&partial, request).and_then(|()| fs::rename(&partial, &path));
        if written.is_err() {
            let _ = fs::remove_file(&partial);
        }
        written.map_err(|error| QueueError { path: self.path.clone(), why: error.to_string() })
    }

    pub(super) fn read(&self, number: u64) -> Taken {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let path = within(&self.directory, &name_of(number));
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let Ok(file) = file else { return Taken::Gone };
        if !file.metadata().is_ok_and(|metadata| is_ours(&metadata)) {
            return Taken::Gone;
        }
        let mut content = Vec::new();
        match (&file).take(LONGEST).read_to_end(&mut content) {
            Ok(_) => checked(&content).map_or(Taken::Damaged, |request| Taken::Request(request.to_vec())),
            Err(_) => Taken::Damaged,
        }
    }

    pub(super) fn remove(&self, number: u64) {
        let path = within(&self.directory, &name_of(number));
        if fs::symlink_metadata(&path).is_ok_and(|metadata| is_ours(&metadata)) {
            let _ = fs::remove_file(path);
        }
    }
}

/// A name in an open directory.
fn within(directory: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// `O_EXCL` follows no link and opens no existing file. What is in the way is removed, if it is ours.
fn write_new(path: &Path, request: &[u8]) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| is_ours(&metadata)) {
        fs::remove_file(path)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(MAGIC)?;
    file.write_all(&Sha256::digest(request))?;
    file.write_all(request)?;
    file.sync_data()
}

/// The request, if all of it is there as it was written.
fn checked(content: &[u8]) -> Option<&[u8]> {
    let (hash, request) = content.strip_prefix(MAGIC)?.split_at_checked(HASH)?;
    (Sha256::digest(request)[..] == *hash).then_some(request)
}

/// A file that this user has made. Links and what else has a name are not.
fn is_ours(metadata: &Metadata) -> bool {
    metadata.is_file() && metadata.uid() == nix::unistd::geteuid().as_raw()
}

fn name_of(number: u64) -> String {
    format!("{number:020}{SUFFIX}")
}

fn number_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(SUFFIX)?;
    let number = digits.parse().ok().filter(|number| *number < u64::MAX)?;
    (name_of(number) == name).then_some(number)
}
