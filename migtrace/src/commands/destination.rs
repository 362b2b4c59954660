//! Where a report goes, opened before there is one: a full disk is better known before the wait than after.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What is written to prove that there is room; a record of a long migration is of this order.
const PROBE_BYTES: usize = 256 * 1024;

/// Standard output or a file.
pub(super) enum Destination {
    Stdout,
    /// A regular file is replaced as a whole, so an earlier report is not lost to a failed one.
    File {
        partial: PathBuf,
        file: File,
        path: PathBuf,
    },
    /// A pipe or a device.
    Special {
        file: File,
        path: PathBuf,
    },
}

impl Destination {
    /// Opens a file for a report, and proves that it can be written.
    pub(super) fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::Stdout) };
        Self::open_file(path).with_context(|| format!("cannot write to {}", path.display()))
    }

    fn open_file(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        if fs::metadata(&path).is_ok_and(|metadata| !metadata.is_file()) {
            let file = OpenOptions::new().write(true).open(&path)?;
            return Ok(Self::Special { file, path });
        }
        let mut name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?.to_owned();
        name.push(".partial");
        let partial = path.with_file_name(name);
        let mut file = File::create(&partial)?;
        let proven = prove_room(&mut file);
        if proven.is_err() {
            let _ = fs::remove_file(&partial);
        }
        proven.map(|()| Self::File { partial, file, path })
    }

    /// Writes the report; to standard output when it cannot be written where it should be, so that it is not lost.
    pub(super) fn write(self, text: &str) -> Result<()> {
        let is_file = !matches!(self, Self::Stdout);
        let written = self.try_write(text);
        if written.is_err() && is_file {
            Self::Stdout.try_write(text)?;
            return written.context("the report is on standard output instead");
        }
        written
    }

    fn try_write(self, text: &str) -> Result<()> {
        match self {
            Self::Stdout => match io::stdout().write_all(text.as_bytes()) {
                // Somebody read as much as they wanted (`| head`).
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
                result => result.context("cannot write to standard output"),
            },
            Self::Special { mut file, path } => {
                file.write_all(text.as_bytes()).with_context(|| format!("cannot write to {}", path.display()))
            }
            Self::File { partial, mut file, path } => {
                let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
                let written = written.and_then(|()| fs::rename(&partial, &path));
                if written.is_err() {
                    let _ = fs::remove_file(&partial);
                }
                written.with_context(|| format!("cannot write to {}", path.display()))
            }
        }
    }

    /// Gives up without a report.
    pub(super) fn abandon(self) {
        if let Self::File { partial, .. } = self {
            let _ = fs::remove_file(partial);
        }
    }
}

/// Writes as much as will be needed, and takes it back.
pub(super) fn prove_room(file: &mut File) -> io::Result<()> {
    file.write_all(&vec![0; PROBE_BYTES])?;
    file.sync_all()?;
    file.set_len(0)?;
    file.rewind()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_replaces_the_earlier_one_only_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        fs::write(&path, "old").unwrap();
        let destination = Destination::open(Some(&path)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        destination.write("new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_said_at_once() {
        let Err(error) = Destination::open(Some(Path::new("/no/such/directory/record.json"))) else {
            panic!("a file in no directory was opened");
        };
        assert!(format!("{error:#}").starts_with("cannot write to /no/such/directory/record.json: "));
    }

    #[test]
    fn giving_up_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        Destination::open(Some(&directory.path().join("r"))).unwrap().abandon();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
