use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

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
async fn serve(listener: UnixListener, greeting: String, answer: impl Fn(&str, &Value) -> Option<String>) {
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
fn discarded_events_do_not_pile_up_in_qemu() {
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
fn each_question_about_a_migration_gets_its_answer() {
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
fn unknown_events_and_states_do_no_harm() {
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
fn a_monitor_that_writes_pretty_json_is_understood() {
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(GREETING).unwrap()).unwrap();
    greeted_by(&format!("{}\r\n", pretty.replace('\n', "\r\n"))).unwrap();
}

#[test]
fn a_socket_with_another_client_is_an_error_and_does_not_hang() {
    block_on(async {
        let (_folder, path, listener) = socket();
        // QEMU with a client: it listens, and accepts nobody else.
        let error = Qmp::connect(&path, SHORT).await.unwrap_err();
        assert!(matches!(error, QmpError::Taken { .. }), "{error}");
        assert_eq!(
            error.to_string(),
            format!(
                "the QMP socket {} gives no greeting: another client (libvirt?) uses it, or QEMU hangs; \
                 give QEMU a second QMP socket (-qmp unix:PATH,server=on,wait=off)",
                path.display()
            )
        );
        drop(listener);
    });
}

#[test]
fn a_socket_with_a_full_queue_counts_as_taken() {
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
fn a_socket_that_does_not_exist_is_an_error() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none");
        let error = Qmp::connect(&path, SHORT).await.unwrap_err();
        let expected = format!("cannot connect to the QMP socket {}: No such file", path.display());
        assert!(crate::errors::with_causes(&error).starts_with(&expected), "{error}");
    });
}

#[test]
fn a_greeting_that_is_not_qmp_is_an_error() {
    for greeting in ["SSH-2.0-OpenSSH_9.2\r\n", "[1]\n", "{\"hello\": 1}\n", "\u{0}\u{1}\n", "\"QMP\"\n"] {
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
        assert!(result.unwrap_err().to_string().ends_with("a message has no end"));
    });
}

#[test]
fn garbage_in_place_of_an_answer_is_an_error() {
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
fn a_qemu_that_ends_during_a_command_is_an_error() {
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
fn a_refusal_is_given_in_qemus_words_and_the_next_command_works() {
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
fn a_late_answer_is_not_taken_for_the_next_one() {
    let late = std::cell::RefCell::new(None);
    with_server(
        |command, id| {
            Some(match command {
                "query-uuid" => {
                    *late.borrow_mut() = Some(ok(id, &json!({ "UUID": "late" })));
                    String::new()
                }
                _ => late.borrow_mut().take().unwrap_or_default() + &ok(id, &json!({ "status": "active" })),
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
fn a_real_qemu_answers_one_client_at_a_time() {
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
