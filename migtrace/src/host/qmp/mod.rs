//! The optional active client: asks a QEMU for its own account over a QMP socket (`--qmp`).
//!
//! Everything else in migtrace watches from outside. This client speaks to QEMU, but asks only: no command here
//! changes anything. It keeps every answer as JSON, since QEMU's lists of events and states grow with each release.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long to wait for QEMU unless told otherwise. Its main loop may be held up for a second or more at the end of
/// a migration.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer that is read. The longest of those asked for is `query-migrate` with some kilobytes.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Why QEMU could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QmpError {
    /// There is no such socket, or it may not be opened.
    #[error("cannot connect to the QMP socket {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// QEMU serves one client a socket, and this one has its client: libvirt, for its own VMs.
    #[error(
        "the QMP socket {} is in use by another client (libvirt?), or QEMU hangs: it does not greet; \
         give QEMU a second one (-qmp unix:PATH,server=on,wait=off)",
        path.display()
    )]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// What is there does not speak QMP.
    #[error("{} does not speak QMP: {what}", path.display())]
    NotQmp {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// QEMU did not answer in time.
    #[error("QEMU did not answer {command} within {} ms", limit.as_millis())]
    Silent {
        /// The command.
        command: String,
        /// How long was waited.
        limit: Duration,
    },
    /// QEMU has ended, or closed the connection.
    #[error("QEMU closed the QMP connection during {command}")]
    Closed {
        /// The command.
        command: String,
    },
    /// QEMU refused the command.
    #[error("QEMU refused {command}: {description}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's class of the error: `CommandNotFound`, `GenericError`, ...
        class: String,
        /// QEMU's explanation.
        description: String,
    },
    /// The connection broke.
    #[error("the QMP connection broke during {command}")]
    Broken {
        /// The command.
        command: String,
        /// What the system says.
        source: io::Error,
    },
}

/// A connection to a QEMU's monitor, ready for commands.
#[derive(Debug)]
pub struct Qmp {
    path: PathBuf,
    stream: UnixStream,
    /// What was read and not yet understood. Kept here, so that a call that is dropped half-way loses nothing.
    received: Vec<u8>,
    limit: Duration,
    last_id: u64,
    version: Option<String>,
}

impl Qmp {
    /// Connects, and waits for QEMU's greeting; the connection, the greeting, and each later answer may take `limit`.
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// [`QmpError`]; above all [`QmpError::Taken`], when QEMU is busy with another client.
    pub async fn connect(path: &Path, limit: Duration) -> Result<Self, QmpError> {
        let taken = || QmpError::Taken { path: path.to_owned() };
        let stream = match timeout(limit, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => stream,
            // Others wait for the same socket, and the queue is full.
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return Err(taken()),
            Ok(Err(source)) => return Err(QmpError::Connect { path: path.to_owned(), source }),
            Err(_) => return Err(taken()),
        };
        let mut qmp =
            Self { path: path.to_owned(), stream, received: Vec::new(), limit, last_id: 0, version: None };
        // To connect proves nothing: the kernel completes it without QEMU, which may never come to look.
        let greeting = timeout(limit, qmp.message("the greeting")).await.map_err(|_| taken())??;
        let Some(greeting) = greeting.get("QMP") else {
            return Err(qmp.not_qmp("its first message is no QMP greeting"));
        };
        qmp.version = version(greeting);
        qmp.execute("qmp_capabilities").await?;
        Ok(qmp)
    }

    /// QEMU's version, as the greeting tells it: `7.2.22 (Debian 1:7.2+dfsg-7)`.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The process that made the socket: the QEMU, unless its manager made it and handed it over, as libvirt does.
    #[must_use]
    pub fn peer_pid(&self) -> Option<u32> {
        self.stream.peer_cred().ok()?.pid()?.try_into().ok()
    }

    /// The state of the last or current migration: `query-migrate`'s answer, whatever it holds.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn query_migrate(&mut self) -> Result<Value, QmpError> {
        self.execute("query-migrate").await
    }

    /// The parameters of migrations: `query-migrate-parameters`' answer.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn query_migrate_parameters(&mut self) -> Result<Value, QmpError> {
        self.execute("query-migrate-parameters").await
    }

    /// The capabilities of migrations that this QEMU knows, and whether each is on: `events`, `multifd`, ...
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn query_migrate_capabilities(&mut self) -> Result<BTreeMap<String, bool>, QmpError> {
        let answer = self.execute("query-migrate-capabilities").await?;
        let Some(list) = answer.as_array() else {
            return Err(self.not_qmp("query-migrate-capabilities did not give a list"));
        };
        let capability = |entry: &Value| {
            let name = entry.get("capability")?.as_str()?.to_owned();
            Some((name, entry.get("state")?.as_bool()?))
        };
        Ok(list.iter().filter_map(capability).collect())
    }

    /// The guest's UUID, by which to know whose monitor this is.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn query_uuid(&mut self) -> Result<Option<String>, QmpError> {
        let answer = self.execute("query-uuid").await?;
        Ok(answer.get("UUID").and_then(Value::as_str).map(ToOwned::to_owned))
    }

    /// Reads and forgets QEMU's events for as long as it is awaited: unread, they would pile up in QEMU's memory. May
    /// be dropped at any time. That QEMU has gone is left to the next command to tell.
    pub async fn discard_events(&mut self) {
        while self.message("the wait").await.is_ok() {}
        std::future::pending::<()>().await;
    }

    /// Runs a command and gives its `return`. Events that come in between are passed over.
    async fn execute(&mut self, command: &str) -> Result<Value, QmpError> {
        self.last_id += 1;
        let id = self.last_id;
        let request = json!({ "execute": command, "id": id });
        let limit = self.limit;
        let exchange = async {
            let line = format!("{request}\n");
            self.stream.write_all(line.as_bytes()).await.map_err(|source| broken(command, source))?;
            loop {
                let mut message = self.message(command).await?;
                // An event has no id, and the answer to a command that was given up has an older one.
                if message.get("id") != Some(&json!(id)) {
                    continue;
                }
                if let Some(error) = message.get("error") {
                    let text = |key| error.get(key).and_then(Value::as_str).unwrap_or("unknown").to_owned();
                    return Err(QmpError::Refused {
                        command: command.to_owned(),
                        class: text("class"),
                        description: text("desc"),
                    });
                }
                return match message.get_mut("return") {
                    Some(answer) => Ok(answer.take()),
                    None => {
                        Err(self.not_qmp(&format!("its answer to {command} has neither return nor error")))
                    }
                };
            }
        };
        timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(QmpError::Silent { command: command.to_owned(), limit }))
    }

    /// The next JSON object, in one line or (`-qmp-pretty`) in many.
    async fn message(&mut self, command: &str) -> Result<Value, QmpError> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(message);
            }
            if self.received.len() > MAX_MESSAGE_BYTES {
                return Err(self.not_qmp("a message without an end"));
            }
            let read =
                self.stream.read_buf(&mut self.received).await.map_err(|source| broken(command, source))?;
            if read == 0 {
                return Err(QmpError::Closed { command: command.to_owned() });
            }
        }
    }

    /// The first whole object of what was received, `None` when it is not whole yet.
    fn take_message(&mut self) -> Result<Option<Value>, QmpError> {
        // An object ends with a line; until then there is nothing to try.
        if !self.received.contains(&b'\n') {
            return Ok(None);
        }
        let mut objects = serde_json::Deserializer::from_slice(&self.received).into_iter::<Value>();
        match objects.next() {
            None => {
                self.received.clear();
                Ok(None)
            }
            Some(Ok(message)) if message.is_object() => {
                let end = objects.byte_offset();
                self.received.drain(..end);
                Ok(Some(message))
            }
            Some(Err(error)) if error.is_eof() => Ok(None),
            Some(Ok(_)) => Err(self.not_qmp("a message that is no JSON object")),
            Some(Err(error)) => Err(self.not_qmp(&format!("a message that is no JSON: {error}"))),
        }
    }

    fn not_qmp(&self, what: &str) -> QmpError {
        QmpError::NotQmp { path: self.path.clone(), what: what.to_owned() }
    }
}

fn broken(command: &str, source: io::Error) -> QmpError {
    // Written to after it has gone, or gone with commands of ours unread: QEMU has ended.
    if matches!(source.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
        return QmpError::Closed { command: command.to_owned() };
    }
    QmpError::Broken { command: command.to_owned(), source }
}

fn version(greeting: &Value) -> Option<String> {
    let version = greeting.get("version")?;
    let number = |part| version.get("qemu")?.get(part)?.as_u64();
    let numbers = format!("{}.{}.{}", number("major")?, number("minor")?, number("micro")?);
    let package = version.get("package").and_then(Value::as_str).unwrap_or_default().trim();
    if package.is_empty() {
        return Some(numbers);
    }
    // Builders give it with or without its parentheses.
    let package = package.trim_start_matches('(').trim_end_matches(')');
    Some(format!("{numbers} ({package})"))
}

#[cfg(test)]
mod tests;
