//! The file that node_exporter's textfile collector reads.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Dialect, Exporter};
use crate::files;

/// node_exporter is another user.
const MODE: u32 = 0o644;

/// node_exporter would not read this file.
#[derive(Debug, thiserror::Error)]
#[error("node_exporter reads only files whose names end in .prom, and not {}", .0.display())]
pub struct NotATextfile(PathBuf);

/// A file for node_exporter.
pub struct Textfile {
    path: PathBuf,
    exporter: Exporter,
}

impl Textfile {
    /// How often to write it while a migration runs: node_exporter is usually scraped that often.
    pub const INTERVAL: Duration = Duration::from_secs(15);

    /// Writes nothing yet.
    ///
    /// # Errors
    /// When the name of the file does not end in `.prom`.
    pub fn new(path: PathBuf, exporter: Exporter) -> Result<Self, NotATextfile> {
        if path.extension().is_none_or(|extension| extension != "prom") {
            return Err(NotATextfile(path));
        }
        Ok(Self { path, exporter })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes it anew, as a whole: node_exporter never sees a part.
    ///
    /// # Errors
    /// When it cannot be written. That is also counted, and an earlier file stays.
    pub fn write(&self) -> io::Result<()> {
        let text = self.exporter.text(Dialect::Classic);
        let written = files::write(&self.path, MODE, text.as_bytes());
        self.exporter.count_textfile(written.is_ok());
        written
    }
}
