//! `migtrace report` says what is wrong with a damaged file, and reports what precedes the damage.

use crate::support::{FAST, MIGRATION_PORT, PATIENCE, network};
use migtrace_lab::BareQemu;
use migtrace_lab::migtrace_command::{self, CommandOutput, Recording};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The files that a recording of a migration wrote.
struct RecordedFiles {
    record: String,
    log: String,
}

/// A migration that is recorded once for all of these tests.
fn recorded() -> &'static RecordedFiles {
    static RECORDED: OnceLock<RecordedFiles> = OnceLock::new();
    RECORDED.get_or_init(|| {
        let lab = network();
        let (mut source, _destination) = BareQemu::pair(&lab, "logged", MIGRATION_PORT).unwrap();
        let recording = Recording::start(lab.source(), &[]).unwrap();
        source.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
        let recorded = recording.finish(PATIENCE).unwrap();
        assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
        let log = fs::read_to_string(recorded.events_path()).unwrap();
        RecordedFiles { record: recorded.json, log }
    })
}

/// The log's lines, each with its newline.
fn log_lines() -> Vec<String> {
    recorded().log.lines().map(|line| format!("{line}\n")).collect()
}

fn report(file: &Path) -> CommandOutput {
    migtrace_command::command(&["report"]).unwrap().arg(file).output().unwrap().into()
}

/// A new file with this content.
fn file(content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, content).unwrap();
    (folder, path)
}

/// Checks that no report is made of a file with this content, and that the reason contains these words.
fn assert_refused(content: impl AsRef<[u8]>, words: &[&str]) {
    let (_folder, path) = file(content);
    let output = report(&path);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert_eq!(output.stdout, "");
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    for word in words.iter().chain([&path.to_str().unwrap()]) {
        assert!(output.stderr.contains(word), "{word}: {output:?}");
    }
}

/// Checks that what precedes the damage is reported, and that the message contains these words. Returns the report.
fn assert_partly_reported(content: impl AsRef<[u8]>, words: &[&str]) -> String {
    let (_folder, path) = file(content);
    let output = report(&path);
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stdout.starts_with("logged: "), "{output:?}");
    assert_eq!(output.stderr.lines().count(), 1, "{output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "{word}: {output:?}");
    }
    output.stdout
}

#[test]
fn files_that_migtrace_did_not_write_are_refused() {
    let output = report(Path::new("/no/such/file"));
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("/no/such/file") && output.stderr.contains("No such file"), "{output:?}");
    let output = report(Path::new("/"));
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("Is a directory"), "{output:?}");
    assert_refused("", &["empty"]);
    assert_refused("hello\n", &["neither a complete record nor an event log"]);
    assert_refused([0xff, 0xfe, 0x00, 0x0a, 0x80], &["neither a complete record nor an event log"]);
    assert_refused("{\"answer\": 42}\n", &["neither a record nor an event log"]);
    assert_refused("[]\n", &["neither a record nor an event log"]);
}

#[test]
fn a_file_of_another_version_is_refused_and_both_schemas_are_named() {
    let record = &recorded().record;
    assert_refused(
        record.replace("migtrace.record/1", "migtrace.record/2"),
        &["migtrace.record/2", "migtrace.record/1"],
    );
    let log = log_lines().concat();
    assert_refused(
        log.replace("migtrace.events/1", "migtrace.events/2"),
        &["migtrace.events/2", "migtrace.events/1"],
    );
}

#[test]
fn a_damaged_record_is_refused() {
    let record = &recorded().record;
    assert_refused(&record[..record.len() / 2], &["neither a complete record"]);
    assert_refused(record.replace("\"phases\"", "\"phase\""), &["not a valid record", "phases"]);
}

#[test]
fn a_log_that_is_cut_within_a_line_is_reported_up_to_the_line_before() {
    let lines = log_lines();
    let setup = lines.iter().position(|line| line.contains("\"setup\"")).unwrap();
    for whole in [setup + 2, lines.len() - 1] {
        let mut content = lines[..whole].concat();
        content.push_str(&lines[whole][..20]);
        let line = format!("line {}: ", whole + 1);
        let text = assert_partly_reported(content, &[&line, "cut off", "what precedes it is reported"]);
        assert!(text.contains("the end of the recording"), "{text}");
    }
}

#[test]
fn the_report_of_a_log_without_its_last_line_says_that_the_end_is_missing() {
    let lines = log_lines();
    let (_folder, path) = file(lines[..lines.len() - 1].concat());
    let output = report(&path);
    assert_eq!(output.code, Some(0), "{output:?}");
    assert!(output.stdout.contains("the end of the recording"), "{output:?}");
}

#[test]
fn a_report_ends_at_a_corrupt_line_and_names_it() {
    let mut lines = log_lines();
    let setup = lines.iter().position(|line| line.contains("\"setup\"")).unwrap();
    let broken = setup + 2;
    let line = format!("line {}: ", broken + 1);
    for damage in [&b"{\"at_ns\": 5, \"event\": \"qemu_gone\"}\n"[..], b"\xff\xff\x00 not a line\n", b"\n"] {
        let before = lines[..broken].concat().into_bytes();
        let after = lines[broken + 1..].concat().into_bytes();
        let text = assert_partly_reported([&before, damage, &after].concat(), &[&line, "not an event"]);
        assert!(text.contains("still running when the recording ended"), "{text}");
    }
    // A second recording in one file is damage too: it is not mixed into the first.
    let first = lines[0].clone();
    lines[broken] = first;
    assert_partly_reported(lines.concat(), &[&line, "log_start"]);
}

#[test]
fn an_event_of_an_unknown_kind_is_skipped_and_named() {
    let mut lines = log_lines();
    lines.insert(2, "{\"at_ns\": 5, \"event\": \"non\\u001b[31msense\"}\n".to_owned());
    let (_folder, path) = file(lines.concat());
    let output = report(&path);
    assert_eq!((output.code, output.stderr.as_str()), (Some(0), ""), "{output:?}");
    assert!(output.stdout.contains("1 event of the kind `non\\u{1b}[31msense`"), "{output:?}");
}

#[test]
fn control_characters_in_a_file_never_reach_the_terminal() {
    let log = r#"{"event": "log_start", "at_ns": 1, "schema": "\u001b[31mRED\u202e"}"#.to_owned() + "\n";
    assert_refused(log, &["`\\u{1b}[31mRED\\u{202e}`", "reads only `migtrace.events/1`"]);
    let record = r#"{"schema":"\u001b]0;pwned\u0007\u009b31m"}"#;
    assert_refused(record, &["`\\u{1b}]0;pwned\\u{7}\\u{9b}31m`", "reads only `migtrace.record/1`"]);
}

#[test]
fn the_message_about_a_log_without_a_migration_says_how_many_events_it_has() {
    let lines = log_lines();
    let setup = lines.iter().position(|line| line.contains("\"setup\"")).unwrap();
    let before = lines[..setup].concat();
    assert_refused(before, &["no migration among them", &format!("{setup} events")]);
}

#[test]
fn a_log_can_be_read_from_standard_input() {
    let (_folder, path) = file(&recorded().log);
    let mut report = migtrace_command::command(&["report", "-", "--format", "json"]).unwrap();
    let output = report.stdin(fs::File::open(path).unwrap()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), recorded().record);
}
