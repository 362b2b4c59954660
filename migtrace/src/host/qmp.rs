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
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::UnixListener;

    use super::*;
    use crate::host::testing::block_on;

    const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian 1:7.2+dfsg-7"}, "capabilities": ["oob"]}}"#;
    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(20);

    /// A place for a socket, and a listener on it.
    fn socket() -> (tempfile::TempDir, PathBuf, UnixListener) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        (folder, path, listener)
    }

    /// Serves one client: `answer` gives the raw text to send for each command, `None` to hang up.
    async fn serve(
        listener: UnixListener,
        greeting: String,
        answer: impl Fn(&str, &Value) -> Option<String>,
    ) {
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        stream.write_all(greeting.as_bytes()).await.unwrap();
        let mut line = String::new();
        while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
            let request: Value = serde_json::from_str(&line).unwrap();
            let Some(text) = answer(request["execute"].as_str().unwrap(), &request["id"]) else { return };
            if stream.write_all(text.as_bytes()).await.is_err() {
                return;
            }
            line.clear();
        }
    }

    fn ok(id: &Value, answer: &Value) -> String {
        format!("{}\r\n", json!({ "return": answer, "id": id }))
    }

    /// Connects to a server that answers `qmp_capabilities` itself and all else by `answer`.
    fn with_server<F: Future<Output = ()>>(
        answer: impl Fn(&str, &Value) -> Option<String>,
        limit: Duration,
        body: impl FnOnce(Qmp) -> F,
    ) {
        block_on(async {
            let (_folder, path, listener) = socket();
            let answer = |command: &str, id: &Value| match command {
                "qmp_capabilities" => Some(ok(id, &json!({}))),
                _ => answer(command, id),
            };
            let client = async { body(Qmp::connect(&path, limit).await.unwrap()).await };
            tokio::join!(serve(listener, format!("{GREETING}\r\n"), answer), client);
        });
    }

    /// What comes of connecting to a server that greets like this.
    fn greeted_by(greeting: &str) -> Result<Qmp, QmpError> {
        block_on(async {
            let (_folder, path, listener) = socket();
            let server = serve(listener, greeting.to_owned(), |_, id| Some(ok(id, &json!({}))));
            tokio::select! {
                result = Qmp::connect(&path, LONG) => result,
                () = server => panic!("the server never ends before its client"),
            }
        })
    }

    #[test]
    fn events_that_nobody_waits_for_do_not_pile_up_in_qemu() {
        block_on(async {
            let (_folder, path, listener) = socket();
            // More than any socket's buffer holds.
            let events = "{\"event\": \"RTC_CHANGE\"}\r\n".repeat(200_000);
            let qemu = async {
                let mut stream = BufReader::new(listener.accept().await.unwrap().0);
                stream.write_all(GREETING.as_bytes()).await.unwrap();
                stream.write_all(b"\r\n").await.unwrap();
                stream.read_line(&mut String::new()).await.unwrap();
                stream.write_all(ok(&json!(1), &json!({})).as_bytes()).await.unwrap();
                stream.write_all(events.as_bytes()).await.unwrap();
            };
            let client = async {
                let mut qmp = Qmp::connect(&path, LONG).await.unwrap();
                qmp.discard_events().await;
            };
            tokio::select! {
                () = qemu => {}
                () = client => unreachable!("it is awaited for ever"),
                () = tokio::time::sleep(LONG) => panic!("the events are not read"),
            }
        });
    }

    #[test]
    fn a_migration_is_asked_for() {
        let status = json!({ "status": "completed", "downtime": 6, "ram": { "transferred": 1_136_533 } });
        with_server(
            |command, id| {
                Some(match command {
                    "query-migrate" => ok(id, &status),
                    "query-migrate-parameters" => ok(id, &json!({ "downtime-limit": 300, "brand-new": {} })),
                    "query-migrate-capabilities" => ok(
                        id,
                        &json!([
                            { "capability": "events", "state": true },
                            { "capability": "multifd", "state": false },
                            { "brand-new": "shape" },
                        ]),
                    ),
                    "query-uuid" => ok(id, &json!({ "UUID": "5f3c1f0e-8a51-4a0f-9d6c-0c2b6f1f2d11" })),
                    other => panic!("{other} asked"),
                })
            },
            LONG,
            |mut qmp| {
                let status = &status;
                async move {
                    assert_eq!(qmp.version(), Some("7.2.22 (Debian 1:7.2+dfsg-7)"));
                    assert_eq!(qmp.peer_pid(), Some(std::process::id()));
                    assert_eq!(&qmp.query_migrate().await.unwrap(), status);
                    assert_eq!(qmp.query_migrate_parameters().await.unwrap()["downtime-limit"], 300);
                    let capabilities = qmp.query_migrate_capabilities().await.unwrap();
                    assert_eq!(
                        capabilities,
                        BTreeMap::from([("events".to_owned(), true), ("multifd".to_owned(), false)])
                    );
                    let uuid = qmp.query_uuid().await.unwrap();
                    assert_eq!(uuid.as_deref(), Some("5f3c1f0e-8a51-4a0f-9d6c-0c2b6f1f2d11"));
                }
            },
        );
    }

    #[test]
    fn events_and_states_that_nobody_knows_do_no_harm() {
        let event =
            r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "BRAND_NEW", "data": {"x": [1]}}"#;
        with_server(
            |_, id| {
                let status = ok(id, &json!({ "status": "postcopy-device-of-the-future", "new": { "a": 1 } }));
                Some(format!("{event}\r\n{event}\r\n{status}{event}\r\n"))
            },
            LONG,
            |mut qmp| async move {
                for _ in 0..3 {
                    assert_eq!(qmp.query_migrate().await.unwrap()["status"], "postcopy-device-of-the-future");
                }
            },
        );
    }

    #[test]
    fn an_event_before_the_greetings_answer_does_no_harm() {
        let event = r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "STOP"}"#;
        greeted_by(&format!("{GREETING}\r\n{event}\r\n")).unwrap();
    }

    #[test]
    fn a_pretty_monitor_is_understood() {
        let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(GREETING).unwrap()).unwrap();
        greeted_by(&format!("{}\r\n", pretty.replace('\n', "\r\n"))).unwrap();
    }

    #[test]
    fn a_socket_that_is_taken_is_told_and_does_not_hang() {
        block_on(async {
            let (_folder, path, listener) = socket();
            // QEMU with a client: it listens, and accepts nobody else.
            let error = Qmp::connect(&path, SHORT).await.unwrap_err();
            assert!(matches!(error, QmpError::Taken { .. }), "{error}");
            assert_eq!(
                error.to_string(),
                format!(
                    "the QMP socket {} is in use by another client (libvirt?), or QEMU hangs: it does not greet; \
                     give QEMU a second one (-qmp unix:PATH,server=on,wait=off)",
                    path.display()
                )
            );
            drop(listener);
        });
    }

    #[test]
    fn a_socket_with_a_full_queue_is_taken_too() {
        block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("qmp");
            // As QEMU listens: a queue of one.
            let listener = tokio::net::UnixSocket::new_stream().unwrap();
            listener.bind(&path).unwrap();
            let _listener = listener.listen(1).unwrap();
            let mut waiting = Vec::new();
            while let Ok(Ok(stream)) = timeout(SHORT, UnixStream::connect(&path)).await {
                waiting.push(stream);
                assert!(waiting.len() < 100, "the queue is never full");
            }
            let error = Qmp::connect(&path, SHORT).await.unwrap_err();
            assert!(matches!(error, QmpError::Taken { .. }), "{error}");
        });
    }

    #[test]
    fn a_socket_that_is_not_there_is_told() {
        block_on(async {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("none");
            let error = Qmp::connect(&path, SHORT).await.unwrap_err();
            let expected = format!("cannot connect to the QMP socket {}: No such file", path.display());
            assert!(crate::errors::with_causes(&error).starts_with(&expected), "{error}");
        });
    }

    #[test]
    fn what_is_no_qmp_is_told() {
        for greeting in ["SSH-2.0-OpenSSH_9.2\r\n", "[1]\n", "{\"hello\": 1}\n", "\u{0}\u{1}\n", "\"QMP\"\n"]
        {
            let error = greeted_by(greeting).unwrap_err();
            assert!(matches!(error, QmpError::NotQmp { .. }), "{greeting:?}: {error}");
        }
    }

    #[test]
    fn a_message_without_an_end_is_given_up() {
        block_on(async {
            let (_folder, path, listener) = socket();
            let server = async {
                let mut stream = listener.accept().await.unwrap().0;
                while stream.write_all(&[b'['; 1 << 16]).await.is_ok() {}
            };
            let (result, ()) = tokio::join!(Qmp::connect(&path, LONG), server);
            assert!(result.unwrap_err().to_string().ends_with("a message without an end"));
        });
    }

    #[test]
    fn garbage_in_place_of_an_answer_is_told() {
        with_server(
            |_, _| Some("}}}\r\n".to_owned()),
            LONG,
            |mut qmp| async move {
                let error = qmp.query_migrate().await.unwrap_err();
                assert!(matches!(error, QmpError::NotQmp { .. }), "{error}");
            },
        );
    }

    #[test]
    fn a_qemu_that_ends_midway_is_told() {
        with_server(
            |_, _| None,
            LONG,
            |mut qmp| async move {
                for _ in 0..2 {
                    let error = qmp.query_migrate().await.unwrap_err();
                    assert_eq!(error.to_string(), "QEMU closed the QMP connection during query-migrate");
                }
            },
        );
    }

    #[test]
    fn a_refusal_is_told_in_qemus_words_and_the_next_command_works() {
        with_server(
            |command, id| {
                Some(match command {
                    "query-migrate" => ok(id, &json!({})),
                    _ => {
                        let error = json!({ "class": "CommandNotFound", "desc": "The command is not there" });
                        format!("{}\n", json!({ "error": error, "id": id }))
                    }
                })
            },
            LONG,
            |mut qmp| async move {
                let error = qmp.query_uuid().await.unwrap_err();
                assert!(matches!(&error, QmpError::Refused { class, .. } if class == "CommandNotFound"));
                assert_eq!(error.to_string(), "QEMU refused query-uuid: The command is not there");
                assert_eq!(qmp.query_migrate().await.unwrap(), json!({}));
            },
        );
    }

    #[test]
    fn an_answer_that_comes_too_late_is_not_taken_for_the_next_one() {
        let late = std::cell::RefCell::new(None);
        with_server(
            |command, id| {
                Some(match command {
                    "query-uuid" => {
                        *late.borrow_mut() = Some(ok(id, &json!({ "UUID": "late" })));
                        String::new()
                    }
                    _ => {
                        late.borrow_mut().take().unwrap_or_default() + &ok(id, &json!({ "status": "active" }))
                    }
                })
            },
            SHORT,
            |mut qmp| async move {
                let error = qmp.query_uuid().await.unwrap_err();
                assert_eq!(error.to_string(), "QEMU did not answer query-uuid within 300 ms");
                assert_eq!(qmp.query_migrate().await.unwrap()["status"], "active");
            },
        );
    }

    #[test]
    fn a_real_qemu_and_its_second_client() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let argument = format!("unix:{},server=on,wait=off", path.display());
        let spawned = std::process::Command::new("qemu-system-x86_64")
            .args(["-nodefaults", "-display", "none", "-S", "-accel", "tcg", "-m", "16", "-qmp", &argument])
            .stdin(std::process::Stdio::null())
            .spawn();
        let Ok(mut qemu) = spawned else {
            eprintln!("skipped: no qemu-system-x86_64");
            return;
        };
        let outcome = std::panic::catch_unwind(|| {
            block_on(async {
                let mut qmp = timeout(LONG, async {
                    loop {
                        match Qmp::connect(&path, LONG).await {
                            // It is only just starting.
                            Err(QmpError::Connect { .. }) => {
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                            other => break other.unwrap(),
                        }
                    }
                })
                .await
                .unwrap();
                assert_eq!(qmp.peer_pid(), Some(qemu.id()));
                let parameters = qmp.query_migrate_parameters().await.unwrap();
                assert_eq!(parameters["downtime-limit"], 300, "QEMU's default");
                assert_eq!(qmp.query_migrate_capabilities().await.unwrap().get("events"), Some(&false));
                assert!(qmp.query_migrate().await.unwrap().is_object());
                let second = Qmp::connect(&path, SHORT).await.unwrap_err();
                assert!(matches!(second, QmpError::Taken { .. }), "{second}");
                drop(qmp);
                Qmp::connect(&path, LONG).await.expect("the socket is free again");
            });
        });
        let _ = qemu.kill();
        let _ = qemu.wait();
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }
}
