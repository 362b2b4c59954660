//! The file that node_exporter's textfile collector reads.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Dialect, Exporter};

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
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let temporary = self.path.with_file_name(name);
        let text = self.exporter.text(Dialect::Classic);
        let written = write_new(&temporary, &text).and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        self.exporter.count_textfile(written.is_ok());
        written
    }
}

/// Follows no link, and opens no file that is there: a folder may be writable to others.
fn write_new(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // node_exporter is another user.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())
}
