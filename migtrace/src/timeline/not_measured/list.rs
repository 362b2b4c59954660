//! The list itself.

use std::collections::HashSet;

use crate::vocabulary::NotMeasured;

/// At most this many names are listed in one entry.
pub(super) const MOST_NAMES: usize = 10;
/// At most this many entries of one kind are listed; few recordings have more than one or two.
pub(super) const MOST_ENTRIES: usize = 100;

/// Each entry once, in the order in which they came.
#[derive(Default)]
pub(super) struct List {
    pub(super) entries: Vec<NotMeasured>,
    known: HashSet<NotMeasured>,
}

impl List {
    pub(super) fn push(&mut self, what: &str, why: impl Into<String>) {
        let entry = NotMeasured { what: what.to_owned(), why: why.into() };
        if self.known.insert(entry.clone()) {
            self.entries.push(entry);
        }
    }
}
