//! The event log that `record --events` writes.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use migtrace::event::{Event, LogWriter};
use migtrace::files::{AtomicFile, beside};

use crate::commands::output::{OutputPath, open_special};
use crate::streams::say;

/// The event log, if one was requested. If it cannot be written any more, the recording goes on without it.
pub(super) struct EventLog {
    writer: Option<LogWriter<Box<dyn Write>>>,
    name: String,
    /// The log takes its name only when the recording has begun. Until then an earlier log stays as it is.
    file: Option<AtomicFile>,
    failure: Option<anyhow::Error>,
}

impl EventLog {
    /// Opens a log, and proves that it can be written.
    pub(super) fn open(path: Option<&OutputPath>) -> Result<Self> {
        let mut log = Self { writer: None, name: String::new(), file: None, failure: None };
        let Some(path) = path else { return Ok(log) };
        log.name = match path {
            OutputPath::Stdout => "standard output".to_owned(),
            OutputPath::File(path) | OutputPath::Special(path) => path.display().to_string(),
        };
        let to: io::Result<Box<dyn Write>> = match path {
            OutputPath::Stdout => Ok(Box::new(UntilClosed(io::stdout()))),
            OutputPath::Special(path) => open_special(path).map(|file| Box::new(file) as _),
            OutputPath::File(path) => log.open_file(path).map(|file| Box::new(file) as _),
        };
        log.writer = Some(LogWriter::new(to.with_context(|| log.cannot_write())?));
        Ok(log)
    }

    fn open_file(&mut self, path: &Path) -> io::Result<File> {
        let mut atomic = AtomicFile::begin_with_room(path, 0o666)?;
        let file = atomic.file().try_clone()?;
        self.file = Some(atomic);
        Ok(file)
    }

    fn cannot_write(&self) -> String {
        format!("cannot write to {}", self.name)
    }

    /// Writes the first event and gives the log its name. An earlier log of that name is kept as `NAME.old`.
    pub(super) fn begin(&mut self, first: Option<&Event>) -> Result<()> {
        if let Some(event) = first {
            self.write(event);
        }
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let Some(mut file) = self.file.take() else { return Ok(()) };
        keep_earlier(file.path())?;
        file.commit().with_context(|| self.cannot_write())
    }

    /// Appends an event.
    pub(super) fn write(&mut self, event: &Event) {
        let Some(writer) = &mut self.writer else { return };
        if let Err(error) = writer.write(event) {
            let lines = writer.lines();
            self.fail(error, lines);
        }
    }

    fn fail(&mut self, error: io::Error, lines: u64) {
        let what = if lines == 0 {
            self.cannot_write()
        } else {
            say(&format!(
                "migtrace: cannot write to {}: {error}; the log ends after {lines} events, the recording goes on",
                self.name
            ));
            format!("the event log {} is incomplete", self.name)
        };
        self.failure = Some(anyhow::Error::new(error).context(what));
        self.writer = None;
    }

    /// Why the log is incomplete, if it is.
    pub(super) fn end(self) -> Option<anyhow::Error> {
        self.failure
    }
}

/// Renames an earlier log to `NAME.old`, unless it is empty.
fn keep_earlier(log: &Path) -> Result<()> {
    if fs::symlink_metadata(log).is_ok_and(|earlier| earlier.is_file() && earlier.len() > 0) {
        let old = beside(log, ".old");
        let what = || format!("cannot keep the earlier {} as {}", log.display(), old.display());
        fs::rename(log, &old).with_context(what)?;
    }
    Ok(())
}

/// A pipe whose reader may close it (`| head`). What is written then is discarded.
struct UntilClosed<W>(W);

impl<W: Write> Write for UntilClosed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(bytes.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            flushed => flushed,
        }
    }
}

#[cfg(test)]
mod tests {
    use migtrace::event::{EndReason, Fact};
    use migtrace::files::names;
    use migtrace::units::MonotonicNs;

    use super::*;

    fn event() -> Event {
        Event { at_ns: MonotonicNs(1), fact: Fact::LogEnd { reason: EndReason::Interrupted } }
    }

    fn open(path: &Path) -> EventLog {
        EventLog::open(Some(&OutputPath::File(path.to_owned()))).unwrap()
    }

    #[test]
    fn a_recording_that_does_not_begin_leaves_an_earlier_log_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "earlier").unwrap();
        drop(open(&path));
        assert_eq!(names(folder.path()).unwrap(), ["log"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "earlier");
    }

    #[test]
    fn an_earlier_log_is_kept_and_replaces_the_one_kept_before() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("log"), folder.path().join("log.old"));
        fs::write(&path, "earlier").unwrap();
        fs::write(&old, "long ago").unwrap();
        let mut log = open(&path);
        log.begin(Some(&event())).unwrap();
        log.write(&event());
        assert!(log.end().is_none());
        assert_eq!(fs::read_to_string(&old).unwrap(), "earlier");
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
        assert_eq!(names(folder.path()).unwrap(), ["log", "log.old"]);
    }

    #[test]
    fn an_empty_file_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "").unwrap();
        open(&path).begin(Some(&event())).unwrap();
        assert_eq!(names(folder.path()).unwrap(), ["log"]);
    }

    #[test]
    fn an_earlier_log_that_cannot_be_kept_stops_the_recording_before_it_begins() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "earlier").unwrap();
        fs::create_dir(folder.path().join("log.old")).unwrap();
        let mut log = open(&path);
        let error = format!("{:#}", log.begin(Some(&event())).unwrap_err());
        assert!(error.starts_with("cannot keep the earlier "), "{error}");
        drop(log);
        assert_eq!(fs::read_to_string(&path).unwrap(), "earlier");
        assert_eq!(names(folder.path()).unwrap(), ["log", "log.old"]);
    }

    #[test]
    fn a_closed_pipe_is_no_failure_and_a_full_disk_is() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        UntilClosed(writer).write_all(b"line\n").unwrap();
        let mut log = EventLog::open(Some(&OutputPath::Special("/dev/full".into()))).unwrap();
        let error = format!("{:#}", log.begin(Some(&event())).unwrap_err());
        assert!(error.starts_with("cannot write to /dev/full: No space left"), "{error}");
    }
}
