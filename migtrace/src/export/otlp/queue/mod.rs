//! What waits for the collector: in a directory, where it survives a restart, or in memory.

mod directory;

use std::collections::VecDeque;
use std::path::Path;

pub use directory::QueueError;
use directory::{Directory, Taken};

/// How much may wait. What is older makes room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Requests.
    pub entries: usize,
    /// Bytes of all of them.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 10_000, bytes: 64 << 20 }
    }
}

/// Requests, the oldest first.
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    bytes: u64,
    waiting: VecDeque<Waiting>,
    directory: Option<Directory>,
    /// How many had to make room.
    dropped: u64,
    /// How many were damaged when they were to be sent.
    damaged: u64,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    bytes: u64,
    /// The request itself, where there is no directory.
    request: Option<Vec<u8>>,
}

/// A request that is to be sent.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    number: u64,
    /// The request.
    pub request: Vec<u8>,
}

impl Queue {
    /// A queue that ends with the process.
    #[must_use]
    pub const fn in_memory(limits: Limits) -> Self {
        Self { limits, bytes: 0, waiting: VecDeque::new(), directory: None, dropped: 0, damaged: 0 }
    }

    /// The queue in a directory, which is made if it is not there. What an earlier process has left there is in it. Files of
    /// others, and what is no request, are left alone.
    ///
    /// # Errors
    /// When the directory cannot be used, or another process uses it.
    pub fn in_directory(path: &Path, limits: Limits) -> Result<Self, QueueError> {
        let (directory, found) = Directory::open(path)?;
        let mut queue = Self::in_memory(limits);
        queue.directory = Some(directory);
        for (number, bytes) in found {
            queue.bytes += bytes;
            queue.waiting.push_back(Waiting { number, bytes, request: None });
        }
        queue.make_room(0, 0);
        Ok(queue)
    }

    /// Adds a request. The oldest make room for it.
    ///
    /// # Errors
    /// When it cannot be written, also not in the place of older ones. It is lost then.
    pub fn push(&mut self, request: Vec<u8>) -> Result<(), QueueError> {
        let bytes = request.len() as u64;
        self.make_room(1, bytes);
        let number = self.waiting.back().map_or(1, |last| last.number + 1);
        let is_written = self.write(number, &request)?;
        let request = if is_written { None } else { Some(request) };
        self.bytes += bytes;
        self.waiting.push_back(Waiting { number, bytes, request });
        Ok(())
    }

    /// The oldest request. Damaged ones are passed over, and removed.
    pub fn oldest(&mut self) -> Option<Entry> {
        loop {
            let Waiting { number, request, .. } = self.waiting.front()?;
            let number = *number;
            if let Some(request) = request {
                return Some(Entry { number, request: request.clone() });
            }
            match self.directory.as_ref()?.read(number) {
                Taken::Request(request) => return Some(Entry { number, request }),
                Taken::Damaged => {
                    self.damaged += 1;
                    self.remove(number);
                }
                Taken::Gone => {
                    self.damaged += 1;
                    self.forget(number);
                }
            }
        }
    }

    /// Takes a request out of the queue.
    pub fn done(&mut self, entry: &Entry) {
        self.remove(entry.number);
    }

    /// How many requests wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether what waits survives this process.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        self.directory.is_some()
    }

    /// How many requests had to make room for later ones.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How many requests could not be read when they were to be sent.
    #[must_use]
    pub const fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Writes a request to the directory, if there is one. Where the disk is full, what is older makes room.
    fn write(&mut self, number: u64, request: &[u8]) -> Result<bool, QueueError> {
        while let Some(directory) = &self.directory {
            match directory.write(number, request) {
                Err(_) if !self.waiting.is_empty() => self.drop_oldest(),
                written => return written.map(|()| true),
            }
        }
        Ok(false)
    }

    fn make_room(&mut self, entries: usize, bytes: u64) {
        while !self.waiting.is_empty()
            && (self.waiting.len() + entries > self.limits.entries || self.bytes + bytes > self.limits.bytes)
        {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(number) = self.waiting.front().map(|waiting| waiting.number) {
            self.dropped += 1;
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(directory) = &self.directory {
            directory.remove(number);
        }
        self.forget(number);
    }

    fn forget(&mut self, number: u64) {
        let Some(place) = self.waiting.iter().position(|waiting| waiting.number == number) else { return };
        if let Some(waiting) = self.waiting.remove(place) {
            self.bytes -= waiting.bytes;
        }
    }
}

#[cfg(test)]
mod tests;
