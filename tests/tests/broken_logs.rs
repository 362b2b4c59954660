//! `migtrace report` tells what is wrong with a file, and reports what precedes the damage.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

use migtrace_lab::migtrace_command::{self, CommandOutput, Recording};
use migtrace_lab::{BareQemu, Lab};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// The files of a recorded migration.
struct Canned {
    record: String,
    log: String,
}

/// Made once for all tests.
fn recorded() -> &'static Canned {
    static RECORDED: OnceLock<Canned> = OnceLock::new();
    RECORDED.get_or_init(|| {
        let lab = Lab::builder().without_guests().start().unwrap();
        let mut source = BareQemu::start(lab.source(), "logged").unwrap();
        let _destination = BareQemu::incoming(lab.destination(), "logged", 49152).unwrap();
        let recording = Recording::start(lab.source(), &[]).unwrap();
        source.migrate(lab.destination().ipv4(), 49152, 0).unwrap();
        let recorded = recording.finish(Duration::from_secs(15)).unwrap();
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        let log = fs::read_to_string(recorded.events_path()).unwrap();
        Canned { record: recorded.json, log }
    })
}

/// The log's lines, each with its end.
fn log() -> Vec<String> {
    recorded().log.lines().map(|line| format!("{line}\n")).collect()
}

fn report(file: &Path) -> CommandOutput {
    migtrace_command::command(&["report"]).unwrap().arg(file).output().unwrap().into()
}

/// A file of its own with this content.
fn file(content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, content).unwrap();
    (folder, path)
}

/// Checks that a file with this content is not reported, for a reason with these words.
fn refused(content: impl AsRef<[u8]>, words: &[&str]) {
    let (_folder, path) = file(content);
    let said = report(&path);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert_eq!(said.stdout, "");
    assert_eq!(said.stderr.lines().count(), 1, "{said:?}");
    for word in words.iter().chain([&path.to_str().unwrap()]) {
        assert!(said.stderr.contains(word), "{word}: {said:?}");
    }
}

/// Checks that what precedes the damage is reported, and that the message has these words.
fn partly_reported(content: impl AsRef<[u8]>, words: &[&str]) -> String {
    let (_folder, path) = file(content);
    let said = report(&path);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stdout.starts_with("logged: "), "{said:?}");
    assert_eq!(said.stderr.lines().count(), 1, "{said:?}");
    for word in words {
        assert!(said.stderr.contains(word), "{word}: {said:?}");
    }
    said.stdout
}

#[test]
fn files_that_are_nothing_of_migtraces_are_named_as_that() {
    let said = report(Path::new("/no/such/file"));
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("/no/such/file") && said.stderr.contains("No such file"), "{said:?}");
    let said = report(Path::new("/"));
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.contains("Is a directory"), "{said:?}");
    refused("", &["empty"]);
    refused("hello\n", &["neither a whole record nor an event log"]);
    refused([0xff, 0xfe, 0x00, 0x0a, 0x80], &["neither a whole record nor an event log"]);
    refused("{\"answer\": 42}\n", &["neither a record nor an event log"]);
    refused("[]\n", &["neither a record nor an event log"]);
}

#[test]
fn what_another_version_wrote_is_named_with_both_schemas() {
    let record = &recorded().record;
    refused(
        record.replace("migtrace.record/1", "migtrace.record/2"),
        &["migtrace.record/2", "migtrace.record/1"],
    );
    let log = log().concat();
    refused(
        log.replace("migtrace.events/1", "migtrace.events/2"),
        &["migtrace.events/2", "migtrace.events/1"],
    );
}

#[test]
fn a_damaged_record_is_refused() {
    let record = &recorded().record;
    refused(&record[..record.len() / 2], &["neither a whole record"]);
    refused(record.replace("\"phases\"", "\"phase\""), &["no valid record", "phases"]);
}

#[test]
fn a_log_that_is_cut_in_a_line_is_reported_up_to_the_line_before() {
    let lines = log();
    let setup = lines.iter().position(|line| line.contains("\"setup\"")).unwrap();
    for whole in [setup + 2, lines.len() - 1] {
        let mut content = lines[..whole].concat();
        content.push_str(&lines[whole][..20]);
        let line = format!("line {}: ", whole + 1);
        let text = partly_reported(content, &[&line, "cut off", "what precedes it is reported"]);
        assert!(text.contains("the end of the recording"), "{text}");
    }
}

#[test]
fn a_log_that_ends_between_two_lines_says_that_its_end_is_missing() {
    let lines = log();
    let (_folder, path) = file(lines[..lines.len() - 1].concat());
    let said = report(&path);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.stdout.contains("the end of the recording"), "{said:?}");
}

#[test]
fn a_corrupt_line_ends_the_report_there_and_is_named() {
    let mut lines = log();
    let setup = lines.iter().position(|line| line.contains("\"setup\"")).unwrap();
    let broken = setup + 2;
    let line = format!("line {}: ", broken + 1);
    for damage in [&b"{\"at_ns\": 5, \"event\": \"qemu_gone\"}\n"[..], b"\xff\xff\x00 not a line\n", b"\n"] {
        let before = lines[..broken].concat().into_bytes();
        let after = lines[broken + 1..].concat().into_bytes();
        let text = partly_reported([&before, damage, &after].concat(), &[&line, "not an event"]);
        assert!(text.contains("not over when the recording ended"), "{text}");
    }
    // Two recordings in one file are damage too: the second is not mixed into the first.
    let first = lines[0].clone();
    lines[broken] = first;
    partly_reported(lines.concat(), &[&line, "log_start"]);
}

#[test]
fn an_event_of_a_kind_that_is_not_known_is_skipped_and_named() {
    let mut lines = log();
    lines.insert(2, "{\"at_ns\": 5, \"event\": \"non\\u001b[31msense\"}\n".to_owned());
    let (_folder, path) = file(lines.concat());
    let said = report(&path);
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{said:?}");
    assert!(said.stdout.contains("1 event of the kind `non\\u{1b}[31msense`"), "{said:?}");
}

#[test]
fn what_a_file_says_of_itself_never_steers_the_terminal() {
    let log = r#"{"event": "log_start", "at_ns": 1, "schema": "\u001b[31mRED\u202e"}"#.to_owned() + "\n";
    refused(log, &["`\\u{1b}[31mRED\\u{202e}`", "reads `migtrace.events/1` only"]);
    let record = r#"{"schema":"\u001b]0;pwned\u0007\u009b31m"}"#;
    refused(record, &["`\\u{1b}]0;pwned\\u{7}\\u{9b}31m`", "reads `migtrace.record/1` only"]);
}

#[test]
fn a_log_without_a_migration_says_how_much_it_holds() {
    let lines = log();
    let setup = lines.iter().position(|line| line.contains("\"setup\"")).unwrap();
    let before = lines[..setup].concat();
    refused(before, &["no migration among them", &format!("{setup} events")]);
}

#[test]
fn a_log_is_read_from_standard_input_too() {
    let (_folder, path) = file(&recorded().log);
    let mut report = migtrace_command::command(&["report", "-", "--format", "json"]).unwrap();
    let output = report.stdin(fs::File::open(path).unwrap()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), recorded().record);
}
