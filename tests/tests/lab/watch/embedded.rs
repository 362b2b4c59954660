//! The library in a program of somebody else: `migtrace/examples/watch.rs`, whose sink is away at first.

use crate::support::{FAST, MIGRATION_PORT, PATIENCE, network};
use migtrace_lab::BareQemu;
use migtrace_lab::record_checks::assert_consistent;
use migtrace_lab::watch_command::Watch;
use serde_json::Value;
use std::io::Read as _;
use std::net::TcpListener;
use std::process::Command;

#[test]
fn a_program_with_the_library_sends_a_record_once_its_sink_is_there_and_ends_when_told() {
    let lab = network();
    let folder = tempfile::tempdir().unwrap();
    let unsent = folder.path().join("unsent.jsonl");
    // Cargo has built it in a folder beside that of the tests.
    let test = std::env::current_exe().unwrap();
    let program = test.ancestors().nth(2).unwrap().join("examples/watch");
    assert!(program.is_file(), "run `cargo build --profile test --workspace --example watch`");
    let mut command = Command::new(program);
    command.arg("127.0.0.1:9000").arg(&unsent);
    let mut watch = Watch::begin(lab.source(), command).unwrap();
    watch.wait_until_said("watching", PATIENCE).unwrap();

    let _destination = BareQemu::incoming(lab.destination(), "embedded", MIGRATION_PORT).unwrap();
    let mut source = BareQemu::start(lab.source(), "embedded").unwrap();
    source.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
    watch.wait_until_said("Connection refused", PATIENCE).unwrap();
    let sink = lab.source().enter(|| TcpListener::bind("127.0.0.1:9000").unwrap()).unwrap();
    let (mut connection, _) = sink.accept().unwrap();
    let watched = watch.stop(PATIENCE).unwrap();
    let mut lines = String::new();
    connection.read_to_string(&mut lines).unwrap();

    assert_eq!(watched.code, Some(0), "{}", watched.stderr);
    assert_eq!(lines.lines().count(), 1, "{lines}");
    let record: Value = serde_json::from_str(&lines).unwrap();
    assert_consistent(&record);
    assert_eq!(record["vm"]["name"], "embedded");
    assert_eq!(record["migration"]["outcome"], "completed");
    assert!(!unsent.exists());
}
