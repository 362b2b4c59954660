//! The files of a directory, and what they are.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use migtrace::event::{LogErrorKind, SCHEMA};
use migtrace::files::open_regular;
use migtrace::fleet::Summary;
use migtrace::selection::Selection;

use super::faults::{Fault, Faults};
use crate::commands::names::is_lock;

/// What a file is.
pub(super) enum Content {
    Log(Box<Summary>),
    /// Something else that migtrace has written: the record of a log, beside it, or the lock of a watch.
    Other,
    Fault(Fault),
}

/// All files of a directory and below, in the order of their paths. No link is followed: it could lead anywhere, or in a
/// circle.
pub(super) fn below(directory: &Path, faults: &mut Faults) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    // That the directory itself cannot be read is an error.
    let cannot = || format!("cannot read {}", directory.display());
    let mut folders = vec![(directory.to_owned(), Some(fs::read_dir(directory).with_context(cannot)?))];
    while let Some((folder, entries)) = folders.pop() {
        let entries = match entries.map_or_else(|| fs::read_dir(&folder), Ok) {
            Ok(entries) => entries,
            Err(error) => {
                faults.add(&folder, Fault::Unreadable(error.to_string()));
                continue;
            }
        };
        for entry in entries {
            match entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))) {
                Ok((path, kind)) if kind.is_dir() => folders.push((path, None)),
                Ok((path, kind)) if kind.is_file() => files.push(path),
                Ok((path, _)) => faults.add(&path, Fault::NoFile),
                Err(error) => faults.add(&folder, Fault::Unreadable(error.to_string())),
            }
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// What a file is. Its content decides; only the names that a watch gives to its lock, and a recording to what it is writing,
/// count.
pub(super) fn content(path: &Path, selection: &Selection) -> Content {
    if path.file_name().and_then(|name| name.to_str()).is_some_and(is_lock) {
        return Content::Other;
    }
    if path.extension().is_some_and(|extension| extension == "partial") {
        return Content::Fault(Fault::BeingWritten);
    }
    match look(path, selection) {
        Ok(content) => content,
        Err(error) => Content::Fault(Fault::Unreadable(format!("{error:#}"))),
    }
}

fn look(path: &Path, selection: &Selection) -> Result<Content> {
    let mut file = BufReader::with_capacity(1 << 16, open_regular(path)?);
    let begin = file.fill_buf()?;
    if is_of_migtrace(begin) {
        return Ok(Content::Other);
    }
    let is_json = begin.starts_with(b"{");
    Ok(match Summary::read(file, selection) {
        Ok(summary) => Content::Log(Box::new(summary)),
        Err(error) => match error.what {
            LogErrorKind::Io(error) => return Err(error.into()),
            LogErrorKind::Empty => Content::Fault(Fault::Empty),
            LogErrorKind::Truncated | LogErrorKind::Corrupt(_) if is_json => {
                Content::Fault(Fault::Damaged(error.to_string()))
            }
            LogErrorKind::Truncated => {
                Content::Fault(Fault::Foreign("it is another kind of file".to_owned()))
            }
            other => Content::Fault(Fault::Foreign(other.to_string())),
        },
    })
}

/// Whether a file begins as all JSON of migtrace but its event logs: with its schema, on one line or on several.
fn is_of_migtrace(begin: &[u8]) -> bool {
    let compact: Vec<u8> =
        begin.iter().take(128).copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    compact.starts_with(br#"{"schema":"migtrace."#) && !compact[11..].starts_with(SCHEMA.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_by_its_beginning() {
        for own in ["{\"schema\":\"migtrace.record/1\",", "{\n  \"schema\": \"migtrace.study/1\",\n"] {
            assert!(is_of_migtrace(own.as_bytes()), "{own}");
        }
        for other in [
            "",
            "{}",
            "{\"schema\":\"other\"}",
            "{\"at_ns\":1,\"event\":\"log_start\",\"schema\":\"migtrace.events/1\"}",
        ] {
            assert!(!is_of_migtrace(other.as_bytes()), "{other}");
        }
    }
}
