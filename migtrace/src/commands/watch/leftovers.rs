//! What a killed run has left: a log without its record.

use std::io::BufReader;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Result, bail};
use migtrace::files;
use migtrace::record::Record;

use crate::commands::report::{Replayed, replay};

/// The records of a log that nobody writes any more. A last line that is cut off is no event.
pub(super) fn records(log: &Path) -> Result<Vec<Record>> {
    let file = files::open_regular(log)?;
    let metadata = file.metadata()?;
    if metadata.nlink() > 1 {
        bail!("it was not made by migtrace: remove it");
    }
    if metadata.len() == 0 {
        return Ok(Vec::new());
    }
    let Replayed { timeline, .. } = replay(None, BufReader::new(file))?;
    Ok(migtrace::watch::records(&timeline))
}
