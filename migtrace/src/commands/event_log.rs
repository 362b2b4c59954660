//! The log of `record --events`.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use anyhow::{Context as _, Result};
use migtrace::event::{Event, LogWriter};

use super::destination::open_special;
use super::partial::Partial;
use super::place::{Place, beside};
use crate::streams::say;

/// The event log, if one is wanted. When it cannot be written any more, the recording goes on without it.
pub(super) struct EventLog {
    writer: Option<LogWriter<Box<dyn Write>>>,
    name: String,
    /// The log has its name only once the recording has begun: until then an earlier one stays what it is.
    partial: Option<Partial>,
    failure: Option<anyhow::Error>,
}

impl EventLog {
    /// Opens a log, and proves that it can be written.
    pub(super) fn open(place: Option<&Place>) -> Result<Self> {
        let mut log = Self { writer: None, name: String::new(), partial: None, failure: None };
        let Some(place) = place else { return Ok(log) };
        log.name = match place {
            Place::Stdout => "standard output".to_owned(),
            Place::File(path) | Place::Special(path) => path.display().to_string(),
        };
        let to: io::Result<Box<dyn Write>> = match place {
            Place::Stdout => Ok(Box::new(UntilClosed(io::stdout()))),
            Place::Special(path) => open_special(path).map(|file| Box::new(file) as _),
            Place::File(path) => log.open_file(path).map(|file| Box::new(file) as _),
        };
        log.writer = Some(LogWriter::new(to.with_context(|| log.cannot_write())?));
        Ok(log)
    }

    fn open_file(&mut self, path: &Path) -> io::Result<File> {
        let mut partial = Partial::create(path)?;
        let file = partial.file().try_clone()?;
        self.partial = Some(partial);
        Ok(file)
    }

    fn cannot_write(&self) -> String {
        format!("cannot write to {}", self.name)
    }

    /// Writes the first event, and gives the log its name. An earlier log of that name is kept as `NAME.old`.
    pub(super) fn begin(&mut self, first: Option<&Event>) -> Result<()> {
        if let Some(event) = first {
            self.write(event);
        }
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let Some(mut partial) = self.partial.take() else { return Ok(()) };
        keep_earlier(partial.place())?;
        partial.put().with_context(|| self.cannot_write())
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
                "migtrace: cannot write to {}: {error}; it ends after {lines} events, the recording goes on",
                self.name
            ));
            format!("the event log {} is not whole", self.name)
        };
        self.failure = Some(anyhow::Error::new(error).context(what));
        self.writer = None;
    }

    /// Why the log is not whole, if it is not.
    pub(super) fn end(self) -> Option<anyhow::Error> {
        self.failure
    }
}

/// Names an earlier log `NAME.old`. One that is empty is none.
fn keep_earlier(log: &Path) -> Result<()> {
    if fs::symlink_metadata(log).is_ok_and(|earlier| earlier.is_file() && earlier.len() > 0) {
        let old = beside(log, ".old");
        let what = || format!("cannot keep the earlier {} as {}", log.display(), old.display());
        fs::rename(log, &old).with_context(what)?;
    }
    Ok(())
}

/// A pipe whose reader may have had enough (`| head`): what comes then is for nobody.
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
    use migtrace::units::MonotonicNs;

    use super::super::partial::names;
    use super::*;

    fn event() -> Event {
        Event { at_ns: MonotonicNs(1), fact: Fact::LogEnd { reason: EndReason::Interrupted } }
    }

    fn open(path: &Path) -> EventLog {
        EventLog::open(Some(&Place::File(path.to_owned()))).unwrap()
    }

    #[test]
    fn a_recording_that_does_not_begin_leaves_the_earlier_log_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "earlier").unwrap();
        drop(open(&path));
        assert_eq!(names(folder.path()), ["log"]);
        assert_eq!(fs::read_to_string(&path).unwrap(), "earlier");
    }

    #[test]
    fn an_earlier_log_is_kept_beside_and_takes_the_place_of_one_before_it() {
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
        assert_eq!(names(folder.path()), ["log", "log.old"]);
    }

    #[test]
    fn an_empty_file_is_no_log_to_keep() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "").unwrap();
        open(&path).begin(Some(&event())).unwrap();
        assert_eq!(names(folder.path()), ["log"]);
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
        assert_eq!(names(folder.path()), ["log", "log.old"]);
    }

    #[test]
    fn a_reader_that_has_had_enough_is_no_failure_and_a_full_disk_is() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        UntilClosed(writer).write_all(b"line\n").unwrap();
        let mut log = EventLog::open(Some(&Place::Special("/dev/full".into()))).unwrap();
        let error = format!("{:#}", log.begin(Some(&event())).unwrap_err());
        assert!(error.starts_with("cannot write to /dev/full: No space left"), "{error}");
    }
}
