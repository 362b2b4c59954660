//! One line for each migration that is over, on standard output or appended to a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use migtrace::record::Record;
use migtrace::report;

use crate::cli::Format;
use crate::commands::output::{Links, OutputPath, open_special};
use crate::streams::Stream;

/// Where the lines go.
pub(super) struct Lines {
    target: Target,
    format: Format,
}

enum Target {
    Stdout,
    File {
        path: PathBuf,
        file: File,
        /// A write has failed, and may have written a part of a line.
        is_torn: bool,
    },
}

impl Lines {
    /// Opens the file, if one is named.
    pub(super) fn open(path: Option<&Path>, format: Format) -> Result<Self> {
        let target = match path {
            None => Target::Stdout,
            Some(path) => match of(path)? {
                OutputPath::Stdout => Target::Stdout,
                OutputPath::File(path) | OutputPath::Special(path) => {
                    let file = append_to(&path)?;
                    Target::File { path, file, is_torn: false }
                }
            },
        };
        Ok(Self { target, format })
    }

    /// Writes the line of a migration.
    pub(super) fn write(&mut self, record: &Record) -> Result<()> {
        let line = match self.format {
            Format::Text => report::line(record) + "\n",
            Format::Json => report::json_line(record)?,
        };
        match &mut self.target {
            Target::Stdout => Stream::Output.print(&line).context("cannot write to standard output"),
            Target::File { path, file, is_torn } => {
                // One write, so that lines of several processes do not mix.
                let line = if *is_torn { format!("\n{line}") } else { line };
                let written = file.write_all(line.as_bytes());
                *is_torn = written.is_err();
                written.with_context(|| format!("cannot write to {}", path.display()))
            }
        }
    }

    /// Opens the file anew: somebody has given the old one another name.
    pub(super) fn reopen(&mut self) -> Result<()> {
        if let Target::File { path, file, is_torn } = &mut self.target {
            *file = append_to(path)?;
            *is_torn = false;
        }
        Ok(())
    }

    /// Whether there is a file.
    pub(super) const fn is_file(&self) -> bool {
        matches!(self.target, Target::File { .. })
    }
}

fn of(path: &Path) -> Result<OutputPath> {
    OutputPath::of(path, Links::Follow).with_context(|| format!("cannot write to {}", path.display()))
}

fn append_to(path: &Path) -> Result<File> {
    let opened: io::Result<File> = match of(path)? {
        OutputPath::Special(path) => open_special(&path),
        OutputPath::File(path) => {
            OpenOptions::new().append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)
        }
        OutputPath::Stdout => open_special(Path::new("/dev/stdout")),
    };
    opened.with_context(|| format!("cannot write to {}", path.display()))
}
