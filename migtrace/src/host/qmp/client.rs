//! The client: connects, asks, and waits for the answer.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::error::QmpError;
use super::message::{take_message, version};

/// A connection to a QEMU's monitor, ready for commands.
#[derive(Debug)]
pub struct Qmp {
    path: PathBuf,
    stream: UnixStream,
    /// What was read and not yet parsed. It is kept here so that a call that is dropped half-way loses nothing.
    received: Vec<u8>,
    limit: Duration,
    last_id: u64,
    version: Option<String>,
}

impl Qmp {
    /// Connects, and waits for QEMU's greeting. The connection, the greeting, and each later answer may take `limit`. Needs
    /// a tokio runtime.
    ///
    /// # Errors
    /// [`QmpError`]; most often [`QmpError::Taken`], when QEMU is busy with another client.
    pub async fn connect(path: &Path, limit: Duration) -> Result<Self, QmpError> {
        let taken = || QmpError::Taken { path: path.to_owned() };
        let stream = match timeout(limit, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => stream,
            // Other clients wait for the same socket, and the queue is full.
            Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => return Err(taken()),
            Ok(Err(source)) => return Err(QmpError::Connect { path: path.to_owned(), source }),
            Err(_) => return Err(taken()),
        };
        let mut qmp =
            Self { path: path.to_owned(), stream, received: Vec::new(), limit, last_id: 0, version: None };
        // A connection alone proves nothing: the kernel makes it without QEMU, which may never accept it.
        let greeting = timeout(limit, qmp.message("the greeting")).await.map_err(|_| taken())??;
        let Some(greeting) = greeting.get("QMP") else {
            return Err(qmp.not_qmp("its first message is not a QMP greeting"));
        };
        qmp.version = version(greeting);
        qmp.execute("qmp_capabilities").await?;
        Ok(qmp)
    }

    /// QEMU's version as in its greeting: `7.2.22 (Debian 1:7.2+dfsg-7)`.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The process that made the socket: the QEMU, or its manager if that made it and handed it over, as libvirt does.
    #[must_use]
    pub fn peer_pid(&self) -> Option<u32> {
        self.stream.peer_cred().ok()?.pid()?.try_into().ok()
    }

    /// The state of the last or current migration: the answer to `query-migrate`, whatever it holds.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn query_migrate(&mut self) -> Result<Value, QmpError> {
        self.execute("query-migrate").await
    }

    /// The parameters of migrations: the answer to `query-migrate-parameters`.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn query_migrate_parameters(&mut self) -> Result<Value, QmpError> {
        self.execute("query-migrate-parameters").await
    }

    /// QEMU's migration capabilities (`events`, `multifd`, ...), and whether each is on.
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

    /// The guest's UUID. It identifies the VM that this monitor belongs to.
    ///
    /// # Errors
    /// [`QmpError`].
    pub async fn query_uuid(&mut self) -> Result<Option<String>, QmpError> {
        let answer = self.execute("query-uuid").await?;
        Ok(answer.get("UUID").and_then(Value::as_str).map(ToOwned::to_owned))
    }

    /// Reads and discards QEMU's events for as long as it is awaited: unread, they would pile up in QEMU's memory. May be
    /// dropped at any time. If QEMU ends, the next command reports it.
    pub async fn discard_events(&mut self) {
        while self.message("the wait").await.is_ok() {}
        std::future::pending::<()>().await;
    }

    /// Runs a command and returns its `return`. Events that come in between are skipped.
    async fn execute(&mut self, command: &str) -> Result<Value, QmpError> {
        self.last_id += 1;
        let id = self.last_id;
        let request = json!({ "execute": command, "id": id });
        let limit = self.limit;
        let exchange = async {
            let line = format!("{request}\n");
            self.stream.write_all(line.as_bytes()).await.map_err(|source| broken(command, source))?;
            loop {
                let message = self.message(command).await?;
                // An event has no id, and a late answer to an earlier command that was given up has another one.
                if message.get("id") == Some(&json!(id)) {
                    return self.answer(command, message);
                }
            }
        };
        timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(QmpError::Silent { command: command.to_owned(), limit }))
    }

    /// What the answer to a command returns.
    fn answer(&self, command: &str, mut message: Value) -> Result<Value, QmpError> {
        if let Some(error) = message.get("error") {
            let text = |key| error.get(key).and_then(Value::as_str).unwrap_or("unknown").to_owned();
            return Err(QmpError::Refused {
                command: command.to_owned(),
                class: text("class"),
                description: text("desc"),
            });
        }
        match message.get_mut("return") {
            Some(answer) => Ok(answer.take()),
            None => Err(self.not_qmp(&format!("its answer to {command} has neither return nor error"))),
        }
    }

    /// The next JSON object, on one line or (`-qmp-pretty`) on several.
    async fn message(&mut self, command: &str) -> Result<Value, QmpError> {
        loop {
            if let Some(message) = take_message(&mut self.received).map_err(|what| self.not_qmp(&what))? {
                return Ok(message);
            }
            let read = self.stream.read_buf(&mut self.received).await;
            if read.map_err(|source| broken(command, source))? == 0 {
                return Err(QmpError::Closed { command: command.to_owned() });
            }
        }
    }

    fn not_qmp(&self, what: &str) -> QmpError {
        QmpError::NotQmp { path: self.path.clone(), what: what.to_owned() }
    }
}

fn broken(command: &str, source: io::Error) -> QmpError {
    // QEMU has ended: before this was written, or without reading it.
    if matches!(source.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
        return QmpError::Closed { command: command.to_owned() };
    }
    QmpError::Broken { command: command.to_owned(), source }
}
