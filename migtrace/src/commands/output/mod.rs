//! Where a report is written to. It is opened before there is a report, so that a full disk shows before the wait and not
//! after it.

mod path;

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use migtrace::files::AtomicFile;

pub(super) use path::{Links, OutputPath};

use crate::streams::Stream;

/// Everybody may read a report, unless the umask forbids it.
const MODE: u32 = 0o666;

/// A report that is ready to be written.
pub(super) enum Rendered {
    Text(String),
    /// Not for a terminal.
    #[cfg_attr(not(feature = "perfetto"), expect(dead_code, reason = "no other format is binary"))]
    Binary(Vec<u8>),
}

impl From<String> for Rendered {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl Rendered {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

/// Standard output, standard error or a file. If no report is written, nothing is left behind.
pub(super) struct ReportOutput {
    target: Target,
    /// Gets the report if the file cannot be written, so that it is not lost.
    otherwise: Stream,
}

enum Target {
    Stream(Stream),
    /// A regular file. It is replaced as a whole, so a failed write does not destroy an earlier report.
    File(AtomicFile),
    /// A pipe or a device.
    Special {
        file: File,
        path: PathBuf,
    },
}

impl ReportOutput {
    /// Opens a file for a report, and proves that it can be written. Without a path the report goes to `otherwise`.
    pub(super) fn open(path: Option<&Path>, otherwise: Stream) -> Result<Self> {
        let target = match path {
            None => Target::Stream(otherwise),
            Some(path) => open_file(path).with_context(|| format!("cannot write to {}", path.display()))?,
        };
        Ok(Self { target, otherwise })
    }

    /// Writes a part of what is too long to be kept until all of it is there.
    pub(super) fn append(&mut self, text: &str) -> Result<()> {
        let (written, path) = match &mut self.target {
            Target::Stream(stream) => {
                return stream.print(text).with_context(|| format!("cannot write to {}", stream.name()));
            }
            Target::Special { file, path } => (file.write_all(text.as_bytes()), path.as_path()),
            Target::File(atomic) => (atomic.file().write_all(text.as_bytes()), atomic.path()),
        };
        written.with_context(|| format!("cannot write to {}", path.display()))
    }

    /// Completes what was written in parts.
    pub(super) fn finish(self) -> Result<()> {
        let Target::File(mut atomic) = self.target else { return Ok(()) };
        let written = atomic.commit_synced();
        written.with_context(|| format!("cannot write to {}", atomic.path().display()))
    }

    /// For a report that is not text.
    #[cfg(feature = "perfetto")]
    pub(super) fn refuse_terminal(self) -> Result<Self> {
        if matches!(self.target, Target::Stream(stream) if stream.is_terminal()) {
            anyhow::bail!("this format is binary, and not for a terminal: name a file with --output");
        }
        Ok(self)
    }

    /// Writes the report; to the other stream if the file cannot be written.
    pub(super) fn write(self, report: &Rendered) -> Result<()> {
        match self.target.write(report) {
            Err((error, true)) => {
                if matches!(report, Rendered::Binary(_)) && self.otherwise.is_terminal() {
                    return Err(error);
                }
                print(self.otherwise, report)?;
                Err(error.context(format!("the report is on {} instead", self.otherwise.name())))
            }
            written => written.map_err(|(error, _)| error),
        }
    }
}

fn open_file(path: &Path) -> io::Result<Target> {
    Ok(match OutputPath::of(path, Links::Replace)? {
        OutputPath::Stdout => Target::Stream(Stream::Output),
        OutputPath::File(path) => Target::File(AtomicFile::begin_with_room(&path, MODE)?),
        OutputPath::Special(path) => Target::Special { file: open_special(&path)?, path },
    })
}

/// Opens a pipe, a device or an open file. Nothing in it is overwritten.
pub(super) fn open_special(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

fn print(stream: Stream, report: &Rendered) -> Result<()> {
    let printed = match report {
        Rendered::Text(text) => stream.print(text),
        Rendered::Binary(bytes) => stream.pass(bytes),
    };
    printed.with_context(|| format!("cannot write to {}", stream.name()))
}

impl Target {
    /// Writes the report. The error comes with whether another stream may still work.
    fn write(self, report: &Rendered) -> Result<(), (anyhow::Error, bool)> {
        let (written, path) = match self {
            Self::Stream(stream) => return print(stream, report).map_err(|error| (error, false)),
            Self::Special { mut file, path } => (file.write_all(report.bytes()), path),
            Self::File(mut atomic) => {
                let written = atomic.file().write_all(report.bytes());
                (written.and_then(|()| atomic.commit_synced()), atomic.path().to_owned())
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

    fn open(path: &Path) -> Result<ReportOutput> {
        ReportOutput::open(Some(path), Stream::Output)
    }

    #[test]
    fn a_report_replaces_the_earlier_one_only_when_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record.json");
        fs::write(&path, "old").unwrap();
        let output = open(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        output.write(&"new".to_owned().into()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error_at_once() {
        let Err(error) = open(Path::new("/no/such/directory/record.json")) else {
            panic!("a file in a missing directory was opened");
        };
        assert!(format!("{error:#}").starts_with("cannot write to /no/such/directory/record.json: "));
    }

    #[test]
    fn an_output_without_report_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        drop(open(&directory.path().join("r")).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
