//! The files of a queue. Others may write to the directory: no link is followed, and only files of this user are touched.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::files::{self, AtomicFile, PARTIAL, beside};

/// What a file begins with; the hash of the request follows, then the request.
const MAGIC: &[u8; 8] = b"migOTLP1";
const HASH: usize = 32;
const HEAD: u64 = (MAGIC.len() + HASH) as u64;

/// A file that is longer is none of ours.
const LONGEST: u64 = 256 << 20;

const LOCK: &str = "lock";
const SUFFIX: &str = ".otlp";

/// Nobody else may read what waits.
const MODE: u32 = 0o600;

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
        let lock = files::open_or_create(&within(&directory, LOCK), MODE);
        let lock = lock.map_err(|error| cannot(&format!("its file `{LOCK}` cannot be opened: {error}")))?;
        if !files::lock(&lock) {
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
        write(&within(&self.directory, &name_of(number)), request)
            .map_err(|error| QueueError { path: self.path.clone(), why: error.to_string() })
    }

    pub(super) fn read(&self, number: u64) -> Taken {
        let opened = files::open_regular(&within(&self.directory, &name_of(number)));
        let Ok(file) = opened else { return Taken::Gone };
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

/// Writes a file as a whole. What others have put in the way stays there.
fn write(path: &Path, request: &[u8]) -> io::Result<()> {
    if fs::symlink_metadata(beside(path, PARTIAL)).is_ok_and(|metadata| !is_ours(&metadata)) {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let mut atomic = AtomicFile::begin(path, MODE)?;
    let file = atomic.file();
    file.write_all(MAGIC)?;
    file.write_all(&Sha256::digest(request))?;
    file.write_all(request)?;
    atomic.commit_synced()
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
