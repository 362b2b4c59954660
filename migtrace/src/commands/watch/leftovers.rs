//! What a killed run has left: a log without its record.

use std::io::BufReader;
use std::path::Path;

use anyhow::Result;
use migtrace::record::Record;

use super::store::open_regular;
use crate::commands::report::{Replayed, replay};

/// The records of a log that nobody writes any more. A last line that is cut off is no event.
pub(super) fn records(log: &Path) -> Result<Vec<Record>> {
    let file = open_regular(log)?;
    if file.metadata()?.len() == 0 {
        return Ok(Vec::new());
    }
    let Replayed { timeline, .. } = replay(None, BufReader::new(file))?;
    Ok(migtrace::watch::records(&timeline))
}
