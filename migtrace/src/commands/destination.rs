//! Where a report goes, opened before there is one: a full disk is better known before the wait than after.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::partial::Partial;
use super::place::{Links, Place};
use crate::streams::Stream;

/// A stream of the command, or a file. Unless a report is written, nothing is left of it.
pub(super) struct Destination {
    target: Target,
    /// Takes the report when the file cannot: it must not be lost.
    otherwise: Stream,
}

enum Target {
    Stream(Stream),
    /// A regular file is replaced as a whole, so an earlier report is not lost to a failed one.
    File(Partial),
    /// A pipe or a device.
    Special {
        file: File,
        path: PathBuf,
    },
}

impl Destination {
    /// Opens a file for a report, and proves that it can be written; without one the report goes to `otherwise`.
    pub(super) fn open(path: Option<&Path>, otherwise: Stream) -> Result<Self> {
        let target = match path {
            None => Target::Stream(otherwise),
            Some(path) => open_file(path).with_context(|| format!("cannot write to {}", path.display()))?,
        };
        Ok(Self { target, otherwise })
    }

    /// Writes the report; to a stream when it cannot be written where it should be.
    pub(super) fn write(self, text: &str) -> Result<()> {
        match self.target.write(text) {
            Err((error, true)) => {
                print(self.otherwise, text)?;
                Err(error.context(format!("the report is on {} instead", self.otherwise.name())))
            }
            written => written.map_err(|(error, _)| error),
        }
    }
}

fn open_file(path: &Path) -> io::Result<Target> {
    Ok(match Place::of(path, Links::Replace)? {
        Place::Stdout => Target::Stream(Stream::Output),
        Place::File(path) => Target::File(Partial::create(&path)?),
        Place::Special(path) => Target::Special { file: open_special(&path)?, path },
    })
}

/// Opens what is no regular file, and what is open already: there, nothing is written over.
pub(super) fn open_special(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

fn print(stream: Stream, text: &str) -> Result<()> {
    stream.print(text).with_context(|| format!("cannot write to {}", stream.name()))
}

impl Target {
    /// The error, and whether another place may do.
    fn write(self, text: &str) -> Result<(), (anyhow::Error, bool)> {
        let (written, path) = match self {
            Self::Stream(stream) => return print(stream, text).map_err(|error| (error, false)),
            Self::Special { mut file, path } => (file.write_all(text.as_bytes()), path),
            Self::File(mut partial) => {
                let file = partial.file();
                let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
                (written.and_then(|()| partial.put()), partial.place().to_owned())
            }
        };
        let what = || format!("cannot write to {}", path.display());
        written.with_context(what).map_err(|error| (error, true))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn open(path: &Path) -> Result<Destination> {
        Destination::open(Some(path), Stream::Output)
    }

    #[test]
    fn a_report_replaces_the_earlier_one_only_when_it_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        fs::write(&path, "old").unwrap();
        let destination = open(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        destination.write("new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_said_at_once() {
        let Err(error) = open(Path::new("/no/such/directory/record.json")) else {
            panic!("a file in no directory was opened");
        };
        assert!(format!("{error:#}").starts_with("cannot write to /no/such/directory/record.json: "));
    }

    #[test]
    fn giving_up_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        drop(open(&directory.path().join("r")).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
