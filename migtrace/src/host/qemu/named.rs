//! The executables that a person named as QEMU's.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::process::Process;

/// How many bytes the kernel keeps of a process' name (`TASK_COMM_LEN`), the final zero included.
const COMM_LENGTH: usize = 16;

/// A file: device and inode.
type FileId = (u64, u64);

fn id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// The executables that a person named as QEMU's.
#[derive(Debug, Default)]
pub(crate) struct Binaries {
    named: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    id: FileId,
    comm: [u8; COMM_LENGTH],
    /// As long as it is open, no other file gets its inode.
    _open: File,
}

impl Binaries {
    /// The executables at these paths as they are now; or the first path that cannot be one, and why.
    pub(crate) fn named(paths: &[PathBuf]) -> Result<Self, (PathBuf, io::Error)> {
        let named = paths.iter().map(|path| Named::at(path).map_err(|error| (path.clone(), error)));
        Ok(Self { named: named.collect::<Result<_, _>>()? })
    }

    /// What the kernel calls a process that executes one of them by the name that the person gave.
    pub(crate) fn names(&self) -> impl Iterator<Item = [u8; COMM_LENGTH]> {
        self.named.iter().map(|named| named.comm)
    }

    /// Whether a process runs one of them.
    pub(super) fn have(&self, process: Process) -> bool {
        // Costs a system call a process, so only where there is something to compare with.
        !self.named.is_empty()
            && fs::metadata(process.path("exe"))
                .is_ok_and(|metadata| self.named.iter().any(|named| named.id == id(&metadata)))
    }
}

impl Named {
    fn at(path: &Path) -> io::Result<Self> {
        let open = File::open(path)?;
        let metadata = open.metadata()?;
        if !metadata.is_file() || metadata.mode() & 0o111 == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not an executable file"));
        }
        let mut comm = [0; COMM_LENGTH];
        let name = path.file_name().unwrap_or_default().as_bytes();
        let length = name.len().min(COMM_LENGTH - 1);
        comm[..length].copy_from_slice(&name[..length]);
        Ok(Self { id: id(&metadata), comm, _open: open })
    }
}
