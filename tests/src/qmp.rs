//! A client of QEMU's monitor protocol (docs/interop/qmp-spec.txt).

use crate::clock::monotonic_ns;
use nix::sys::socket::{MsgFlags, Shutdown, sendmsg, shutdown};
use serde::Serialize;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, IoSlice, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long QEMU may take to answer a command. Under TCG on a busy machine it can take seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// An error between a client and QEMU.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// There is no such socket, or nobody listens.
    #[error("cannot connect to the QMP socket {path}: {source}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// QEMU sent no greeting. It serves one client at a time, and this one waits behind another.
    #[error("no greeting on the QMP socket {0} within {PATIENCE:?}: is another client connected to it?")]
    NoGreeting(PathBuf),
    /// QEMU refused the command.
    #[error("QEMU refused `{command}`: {description} ({class})")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's class of the error.
        class: String,
        /// QEMU's description of the error.
        description: String,
    },
    /// QEMU did not answer in time.
    #[error("QEMU did not answer `{0}` within {PATIENCE:?}")]
    Timeout(String),
    /// The connection ended: QEMU has quit or died.
    #[error("QEMU closed its QMP socket {0}: it has ended")]
    Closed(PathBuf),
}

/// Writes a `MIGRATION` event with this status to a monitor as QEMU does: stamped now, with one `sendmsg`.
///
/// # Errors
///
/// When the other end of the monitor is closed.
pub fn send_migration_status(monitor: &UnixStream, status: &str) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let line = format!(
        "{{\"timestamp\": {{\"seconds\": {}, \"microseconds\": {}}}, \"event\": \"MIGRATION\", \"data\": \
         {{\"status\": \"{status}\"}}}}\r\n",
        now.as_secs(),
        now.subsec_micros()
    );
    let pieces = [IoSlice::new(line.as_bytes())];
    sendmsg::<()>(monitor.as_raw_fd(), &pieces, &[], MsgFlags::empty(), None)?;
    Ok(())
}

/// One event of QEMU.
#[derive(Debug, Clone, Serialize)]
pub struct QmpEvent {
    /// QEMU's name for it: `MIGRATION`, `STOP`...
    pub name: String,
    /// Its data; null if it has none.
    pub data: Value,
    /// QEMU's own stamp: microseconds of CLOCK_REALTIME.
    pub qemu_realtime_us: u64,
    /// When this client received it: nanoseconds of CLOCK_MONOTONIC.
    pub received_ns: u64,
}

impl QmpEvent {
    /// When QEMU made the event, rounded down to a microsecond: nanoseconds of CLOCK_MONOTONIC. `offset_ns` is CLOCK_REALTIME
    /// less that.
    #[must_use]
    pub const fn built_ns(&self, offset_ns: i64) -> i64 {
        self.qemu_realtime_us.cast_signed() * 1_000 - offset_ns
    }
}

/// A connection to one QMP socket.
#[derive(Debug)]
pub struct Qmp {
    path: PathBuf,
    /// The socket.
    stream: File,
    next_id: u64,
    replies: Receiver<Value>,
    events: Receiver<QmpEvent>,
    greeting: Value,
}

impl Qmp {
    /// Connects, and negotiates capabilities.
    ///
    /// # Errors
    ///
    /// When nobody listens there, or another client is connected.
    pub fn connect(path: &Path) -> Result<Self, QmpError> {
        let stream = UnixStream::connect(path);
        Self::over(stream.map_err(|source| QmpError::Connect { path: path.into(), source })?.into(), path)
    }

    /// Negotiates capabilities over a socket that is connected to a monitor. `path` is what errors call it.
    pub(crate) fn over(socket: OwnedFd, path: &Path) -> Result<Self, QmpError> {
        let cannot = |source| QmpError::Connect { path: path.into(), source };
        let stream = File::from(socket);
        let reader = stream.try_clone().map_err(cannot)?;
        let (reply_sender, replies) = mpsc::channel();
        let (event_sender, events) = mpsc::channel();
        std::thread::spawn(move || read(reader, &reply_sender, &event_sender));
        let mut client =
            Self { path: path.into(), stream, next_id: 0, replies, events, greeting: Value::Null };
        client.greeting = match client.replies.recv_timeout(PATIENCE) {
            Ok(greeting) => greeting,
            Err(RecvTimeoutError::Timeout) => return Err(QmpError::NoGreeting(path.into())),
            Err(RecvTimeoutError::Disconnected) => return Err(QmpError::Closed(path.into())),
        };
        client.execute("qmp_capabilities", json!({}))?;
        Ok(client)
    }

    /// QEMU's greeting: its version and package.
    #[must_use]
    pub fn greeting(&self) -> &Value {
        &self.greeting["QMP"]
    }

    /// Runs a command and returns what QEMU returned.
    ///
    /// # Errors
    ///
    /// When QEMU refuses, does not answer, or has ended.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.next_id += 1;
        let line = json!({ "execute": command, "arguments": arguments, "id": self.next_id });
        writeln!(self.stream, "{line}").map_err(|_| QmpError::Closed(self.path.clone()))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let patience = deadline.saturating_duration_since(Instant::now());
            let mut reply = self.replies.recv_timeout(patience).map_err(|error| match error {
                RecvTimeoutError::Timeout => QmpError::Timeout(command.into()),
                RecvTimeoutError::Disconnected => QmpError::Closed(self.path.clone()),
            })?;
            // A late answer to an earlier command.
            if reply["id"] != self.next_id {
                continue;
            }
            return match reply.get_mut("return") {
                Some(result) => Ok(result.take()),
                None => Err(QmpError::Refused {
                    command: command.into(),
                    class: reply["error"]["class"].as_str().unwrap_or("no class").into(),
                    description: reply["error"]["desc"].as_str().unwrap_or("no description").into(),
                }),
            };
        }
    }

    /// The next event; none if none comes within `patience`.
    ///
    /// # Errors
    ///
    /// When QEMU has ended, and all of its events have been returned.
    pub fn next_event(&mut self, patience: Duration) -> Result<Option<QmpEvent>, QmpError> {
        match self.events.recv_timeout(patience) {
            Ok(event) => Ok(Some(event)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(QmpError::Closed(self.path.clone())),
        }
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        // The reader's clone keeps the socket open, so its read must be ended.
        let _ = shutdown(self.stream.as_raw_fd(), Shutdown::Both);
    }
}

/// Separates replies and events until the connection ends.
fn read(stream: File, replies: &Sender<Value>, events: &Sender<QmpEvent>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
        let received_ns = monotonic_ns();
        if let Ok(mut message) = serde_json::from_str::<Value>(&line) {
            // Without a receiver the client was dropped, and the stream ends right afterwards.
            if let Some(name) = message["event"].as_str().map(str::to_owned) {
                let stamp = &message["timestamp"];
                let seconds = stamp["seconds"].as_u64().unwrap_or_default();
                let qemu_realtime_us =
                    seconds * 1_000_000 + stamp["microseconds"].as_u64().unwrap_or_default();
                let data = message["data"].take();
                let _ = events.send(QmpEvent { name, data, qemu_realtime_us, received_ns });
            } else {
                let _ = replies.send(message);
            }
        }
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Starts a QEMU that greets, and then answers each line with the next one of `answers`.
    fn fake_qemu(answers: &'static [&'static str]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            writeln!(stream, r#"{{"QMP": {{"version": {{"qemu": {{"major": 7}}}}}}}}"#).unwrap();
            for answer in answers {
                lines.next().unwrap().unwrap();
                writeln!(stream, "{answer}").unwrap();
            }
        });
        (directory, path)
    }

    #[test]
    fn events_and_replies_are_separated() {
        let event = concat!(
            r#"{"timestamp": {"seconds": 7, "microseconds": 9}, "event": "STOP", "new": 1}"#,
            "\n",
            r#"{"return": {"status": "running"}, "id": 2}"#
        );
        let answers = Box::leak(Box::new([r#"{"return": {}, "id": 1}"#, event]));
        let (_directory, path) = fake_qemu(answers);
        let mut qmp = Qmp::connect(&path).unwrap();
        assert_eq!(qmp.greeting()["version"]["qemu"]["major"], 7);
        assert_eq!(qmp.execute("query-status", json!({})).unwrap()["status"], "running");
        let event = qmp.next_event(Duration::from_secs(1)).unwrap().unwrap();
        assert_eq!((event.name.as_str(), event.qemu_realtime_us), ("STOP", 7_000_009));
        assert!(event.data.is_null() && event.received_ns > 0);
    }

    #[test]
    fn a_refusal_has_qemus_own_words() {
        let (_directory, path) = fake_qemu(&[
            r#"{"return": {}, "id": 1}"#,
            r#"{"error": {"class": "GenericError", "desc": "no such thing"}, "id": 2}"#,
        ]);
        let error = Qmp::connect(&path).unwrap().execute("cont", json!({})).unwrap_err();
        assert_eq!(error.to_string(), "QEMU refused `cont`: no such thing (GenericError)");
    }

    #[test]
    fn the_end_of_qemu_is_noticed() {
        let (_directory, path) = fake_qemu(&[r#"{"return": {}, "id": 1}"#]);
        let mut qmp = Qmp::connect(&path).unwrap();
        assert!(matches!(qmp.next_event(Duration::from_secs(5)), Err(QmpError::Closed(_))));
        assert!(matches!(qmp.execute("cont", json!({})), Err(QmpError::Closed(_))));
    }
}
