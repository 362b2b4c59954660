//! What is wrong with files of a directory: said once for each kind, with how many there are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::streams::say;

/// What is wrong with a file.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// A recording has not given it its name yet.
    BeingWritten,
    Empty,
    /// It is something else, or of another version.
    Foreign(String),
    /// From some line on; what precedes it is merged.
    Damaged(String),
    Unreadable(String),
    /// A pipe, a device, a link.
    NoFile,
    /// Its host has another log of the same migration.
    Copy,
}

impl Fault {
    /// What is said of one file, and of several.
    const fn words(&self) -> [&'static str; 2] {
        match self {
            Self::BeingWritten => {
                ["file is still being written, and left out", "files are still being written, and left out"]
            }
            Self::Empty => ["file is empty", "files are empty"],
            Self::Foreign(_) => [
                "file is no event log that this migtrace reads",
                "files are no event logs that this migtrace reads",
            ],
            Self::Damaged(_) => [
                "event log is damaged; what precedes the damage is merged",
                "event logs are damaged; what precedes the damage is merged",
            ],
            Self::Unreadable(_) => ["file cannot be read", "files cannot be read"],
            Self::NoFile => [
                "entry is a link, a pipe or a device, and not followed",
                "entries are links, pipes or devices, and not followed",
            ],
            Self::Copy => [
                "event log is left out: its host has another of the same connections",
                "event logs are left out: their hosts have others of the same connections",
            ],
        }
    }

    fn why(&self) -> Option<&str> {
        match self {
            Self::Foreign(why) | Self::Damaged(why) | Self::Unreadable(why) => Some(why),
            Self::BeingWritten | Self::Empty | Self::NoFile | Self::Copy => None,
        }
    }
}

/// The first file of each kind, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Faults(BTreeMap<[&'static str; 2], (PathBuf, Fault, usize)>);

impl Faults {
    pub(super) fn add(&mut self, path: &Path, fault: Fault) {
        let (_, _, number) = self.0.entry(fault.words()).or_insert_with(|| (path.to_owned(), fault, 0));
        *number += 1;
    }

    /// Whether there are none. A log that is still being written is none: it will be complete.
    pub(super) fn are_none(&self) -> bool {
        self.0.values().all(|(_, fault, _)| matches!(fault, Fault::BeingWritten))
    }

    /// Says all of it on standard error.
    pub(super) fn say(&self) {
        for ([one, several], (path, fault, number)) in &self.0 {
            let why = fault.why().map(|why| format!(": {why}")).unwrap_or_default();
            let path = path.display();
            let line = match number {
                1 => format!("1 {one}: {path}{why}"),
                _ => format!("{number} {several}, the first: {path}{why}"),
            };
            say(&format!("migtrace: {line}"));
        }
    }
}
