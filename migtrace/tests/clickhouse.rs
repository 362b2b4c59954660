//! The schema and the questions of `dist/clickhouse`, in ClickHouse itself (chDB, which `cargo xtask setup` brings).
//!
//! The truth is made of the same records by plain Python, without SQL: `clickhouse/truth.py`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::fs;
use std::path::Path;

use common::clickhouse::{python, records};
use serde_json::Value;

/// Runs a script over the records of the tests, and returns what it says.
fn run(script: &str) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("records.jsonl");
    fs::write(&file, records()).unwrap();
    let output = python(script).arg(&file).arg(directory.path()).output().unwrap();
    let (said, error) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{said}{error}");
    serde_json::from_str(&said).unwrap()
}

#[test]
fn every_question_has_the_answer_that_the_records_have() {
    let asked = run("check.py");
    let questions = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/clickhouse/questions"))
        .unwrap()
        .count();
    assert_eq!(asked["questions"].as_array().unwrap().len(), questions, "{asked}");
}

#[test]
fn traces_that_a_collector_has_stored_say_the_same_as_the_records() {
    let compared = run("traces.py");
    assert!(
        compared["migrations"].as_u64().unwrap() > 30 && compared["columns"].as_u64().unwrap() > 30,
        "{compared}"
    );
}

#[test]
fn the_documentation_quotes_real_answers() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("records.jsonl");
    fs::write(&file, records()).unwrap();
    for (question, page) in
        [("what_the_stop_was_made_of", "stacks.md"), ("qemu_against_measured", "fleet.md")]
    {
        let output = python("show.py").arg(&file).arg(question).output().unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        let (_, answer) = shown.trim_end().split_once('\n').unwrap();
        let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
        assert!(fs::read_to_string(text).unwrap().contains(answer), "docs/{page} should quote\n{answer}");
    }
}
