//! The command where it needs no privileges: what it prints, where to, and its exit code.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

mod common;

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use migtrace::export::perfetto;
use migtrace::record::Record;
use migtrace::report;
use migtrace::terminal::clean_lines;

/// Control characters of both kinds, a bidirectional and an invisible character: none of them may be printed.
const HOSTILE: &str = "evil\u{1b}[31m\u{9b}31m\u{202e}gnp.exe\u{200b}\u{7f}";

fn migtrace(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_migtrace"));
    command.args(arguments).stdin(Stdio::null()).env_remove("RUST_BACKTRACE");
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs it, and checks that nothing of its output controls a terminal.
fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    for text in [stdout(&output), stderr(&output)] {
        assert_eq!(clean_lines(&text), text);
        assert!(!text.contains("panicked"), "{text}");
    }
    output
}

fn report_of(file: &Path, more: &[&str]) -> Output {
    run(migtrace(&["report"]).arg(file).args(more))
}

fn log(name: &str) -> PathBuf {
    common::logs().join(format!("{name}.jsonl"))
}

fn broken(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/broken").join(name)
}

/// Writes a log of a VM with this name.
fn log_of(folder: &Path, vm: &str) -> PathBuf {
    let events = common::events("precopy-7.2").0;
    let mut lines = String::new();
    for event in events {
        let mut event = serde_json::to_value(event).unwrap();
        if event["event"] == "qemu_seen" {
            event["name"] = vm.into();
        }
        lines += &format!("{event}\n");
    }
    let path = folder.join("log.jsonl");
    fs::write(&path, lines).unwrap();
    path
}

/// The write end of a pipe that nobody reads.
fn closed_pipe() -> io::PipeWriter {
    io::pipe().unwrap().1
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

#[test]
fn a_hostile_vm_name_is_escaped_in_text_and_json() {
    let folder = tempfile::tempdir().unwrap();
    let log = log_of(folder.path(), HOSTILE);
    let text = stdout(&report_of(&log, &[]));
    assert!(
        text.starts_with("evil\\u{1b}[31m\\u{9b}31m\\u{202e}gnp.exe\\u{200b}\\u{7f}: completed"),
        "{text}"
    );
    let json = stdout(&report_of(&log, &["--format", "json"]));
    let record: Record = serde_json::from_str(&json).unwrap();
    assert_eq!(record.vm.name.as_deref(), Some(HOSTILE));
    // A part of a name does not match.
    let other = report_of(&log, &["--vm", &HOSTILE[1..]]);
    assert_eq!(other.status.code(), Some(1));
    assert!(stderr(&other).contains("no migration of vil\\u{1b}"), "{other:?}");
}

#[test]
fn hostile_files_are_escaped_in_errors() {
    for (file, words) in [
        ("esc-schema.jsonl", "its schema is `\\u{1b}[31mRED`"),
        ("esc-record.json", "its schema is `\\u{1b}]0;pwned\\u{7}\\u{1b}[31m`"),
    ] {
        let output = report_of(&broken(file), &[]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(words), "{output:?}");
        assert_eq!(stderr(&output).lines().count(), 1, "{output:?}");
    }
    // An event that this version does not know is no error; `run` checks what is printed.
    report_of(&broken("esc-variant.jsonl"), &[]);
    let output = report_of(Path::new("/no/such/\u{1b}[31m\u{202e}\nfile"), &[]);
    assert_eq!(stderr(&output).lines().count(), 1, "{output:?}");
    assert!(stderr(&output).contains("/no/such/\\u{1b}[31m\\u{202e}\\nfile"), "{output:?}");
    run(migtrace(&["report"]).arg(std::ffi::OsStr::from_bytes(b"/no/\xff\x9b31m")));
}

#[test]
fn hostile_arguments_are_escaped_in_usage_errors() {
    for arguments in [
        &[HOSTILE][..],
        &["report", HOSTILE, "--format", HOSTILE],
        &["report", "a", "--vm", "b", &format!("--{HOSTILE}")],
        &["record", "--timeout", HOSTILE],
        &["record", "--ports", HOSTILE],
        &["record", "--format", HOSTILE],
        &["probe", "10.0.0.1", "--count", HOSTILE],
    ] {
        let output = run(&mut migtrace(arguments));
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(stderr(&output).contains("\\u{1b}[31m\\u{9b}"), "{output:?}");
        // As on a terminal, where clap's own colours stay.
        let coloured = migtrace(arguments).env("CLICOLOR_FORCE", "1").output().unwrap();
        let coloured = stderr(&coloured);
        assert!(coloured.contains("\u{1b}["), "{coloured:?}");
        for raw in ["evil\u{1b}", "\u{9b}", "\u{202e}", "\u{200b}", "\u{7f}"] {
            assert!(!coloured.contains(raw), "{coloured:?}");
        }
    }
    let mut odd = Command::new("sh");
    odd.args(["-c", "exec -a \"$1\" \"$0\" --help", env!("CARGO_BIN_EXE_migtrace"), HOSTILE]);
    run(Command::new("bash").args(odd.get_args()));
}

#[test]
fn a_closed_pipe_is_no_error() {
    let record = log("precopy-7.2");
    let record = record.to_str().unwrap();
    for arguments in
        [&["report", record][..], &["report", record, "--format", "json"], &["--help"], &["--version"]]
    {
        let output = migtrace(arguments).stdout(closed_pipe()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert_eq!(stderr(&output), "");
    }
    // The exit code of `doctor` does not depend on it.
    let heard = run(&mut migtrace(&["doctor"]));
    let unheard = migtrace(&["doctor"]).stdout(closed_pipe()).output().unwrap();
    assert_eq!(unheard.status.code(), heard.status.code());
    assert_eq!(stderr(&unheard), "");
}

#[test]
fn a_full_standard_output_is_an_error() {
    let record = log("precopy-7.2");
    let record = record.to_str().unwrap();
    for arguments in
        [&["report", record][..], &["report", record, "--format", "json"], &["doctor"], &["--help"]]
    {
        let output = migtrace(arguments).stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        assert!(stderr(&output).starts_with("migtrace: cannot write to standard output"), "{output:?}");
        assert_eq!(stderr(&output).lines().count(), 1, "{output:?}");
    }
}

#[test]
fn a_broken_standard_error_changes_no_exit_code() {
    for (arguments, code) in [
        (&["report", "/no/such/file"][..], 1),
        (&["record", "--timeout", "soon"], 2),
        (&["nonsense"], 2),
        (&[], 2),
    ] {
        for dead in [Stdio::from(closed_pipe()), Stdio::from(full())] {
            let output = migtrace(arguments).stderr(dead).output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        }
    }
}

#[test]
fn a_dash_is_standard_output() {
    let log = log("precopy-7.2");
    let expected = report_of(&log, &[]).stdout;
    let folder = tempfile::tempdir().unwrap();
    let output = run(migtrace(&["report", "--output", "-"]).arg(&log).current_dir(folder.path()));
    assert_eq!(output.stdout, expected);
    // An open file is appended to, not replaced: the file of a shell's `>` stays the shell's.
    let file = folder.path().join("file");
    let before = fs::symlink_metadata("/dev/stdout").unwrap().modified().unwrap();
    let mut report = migtrace(&["report", "--output", "/dev/stdout"]);
    fs::write(&file, "before\n").unwrap();
    let status = report.arg(&log).stdout(File::options().append(true).open(&file).unwrap()).status().unwrap();
    assert!(status.success());
    assert_eq!(fs::read(&file).unwrap(), [&b"before\n"[..], &expected].concat());
    assert_eq!(fs::symlink_metadata("/dev/stdout").unwrap().modified().unwrap(), before);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// The records of a log with several.
fn several() -> Vec<Record> {
    let records = common::replay("two-vms");
    assert!(records.len() > 1);
    records
}

fn write(content: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records");
    fs::write(&path, content).unwrap();
    (folder, path)
}

#[test]
fn several_records_are_json_lines_and_can_be_read_back() {
    let json = stdout(&report_of(&log("two-vms"), &["--format", "json"]));
    let lines: Vec<Record> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, several());
    let indented: String = several().iter().map(|record| report::json(record).unwrap()).collect();
    let text = stdout(&report_of(&log("two-vms"), &[]));
    for content in [&json, &indented] {
        let (_folder, path) = write(content);
        assert_eq!(stdout(&report_of(&path, &["--format", "json"])), json);
        assert_eq!(stdout(&report_of(&path, &[])), text);
    }
    // A single record is indented.
    let one = report::json(&several()[0]).unwrap();
    let (_folder, path) = write(&one);
    assert_eq!(stdout(&report_of(&path, &["--format", "json"])), one);
}

#[test]
fn of_several_records_only_those_of_the_selected_vm_are_shown() {
    let json: String = several().iter().map(|record| report::json_line(record).unwrap()).collect();
    let (_folder, path) = write(&json);
    for record in several() {
        let uuid = record.vm.uuid.clone().unwrap().to_uppercase();
        for vm in [record.vm.name.clone().unwrap(), uuid] {
            let shown = stdout(&report_of(&path, &["--vm", &vm, "--format", "json"]));
            assert_eq!(shown, report::json(&record).unwrap(), "a single record is indented");
        }
    }
    let output = report_of(&path, &["--vm", "nobody"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("2 records, but none of nobody"), "{output:?}");
}

#[test]
fn everything_before_a_broken_record_is_reported() {
    let [first, second] = &several()[..] else { panic!("two VMs have two records") };
    let whole = report::json_line(first).unwrap();
    let next = report::json_line(second).unwrap();
    for (end, words) in [
        (&next[..next.len() / 2], "record 2: EOF while parsing"),
        ("{\"schema\": \"migtrace.record/9\"}\n", "record 2: "),
        ("[]", "record 2: "),
        ("what?", "record 2: "),
        ("\0\0\0", "record 2: "),
    ] {
        let (_folder, path) = write(&format!("{whole}{end}"));
        let output = report_of(&path, &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(stdout(&output), report::text::render(first));
        assert!(stderr(&output).contains(words), "{output:?}");
        assert!(stderr(&output).contains("what precedes it is reported"), "{output:?}");
    }
}

#[test]
fn several_files_are_reported_one_after_the_other() {
    let (one, two) = (log("precopy-7.2"), log("two-vms"));
    for more in [&[][..], &["--format", "json"]] {
        let both = run(migtrace(&["report"]).args([&one, &two]).args(more));
        assert_eq!(both.status.code(), Some(0), "{both:?}");
        let records: Vec<Record> =
            [common::replay("precopy-7.2"), common::replay("two-vms")].into_iter().flatten().collect();
        let expected = if more.is_empty() {
            records.iter().map(report::text::render).collect::<Vec<_>>().join("\n")
        } else {
            records.iter().map(|record| report::json_line(record).unwrap()).collect()
        };
        assert_eq!(stdout(&both), expected);
    }
}

#[test]
fn a_broken_file_among_several_is_named_and_what_precedes_the_damage_is_reported() {
    let [first, second] = &several()[..] else { panic!("two VMs have two records") };
    let next = report::json_line(second).unwrap();
    let (_folder, path) = write(&format!("{}{}", report::json_line(first).unwrap(), &next[..next.len() / 2]));
    let output = run(migtrace(&["report"]).arg(&path).arg(log("precopy-7.2")));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains(path.to_str().unwrap()), "{output:?}");
    assert!(stdout(&output).contains(&report::text::render(first)), "{output:?}");
    assert!(stdout(&output).contains(&report::text::render(&common::one("precopy-7.2"))), "{output:?}");
}

#[test]
fn of_several_files_those_with_the_selected_vm_are_shown() {
    let records = several();
    let name = records[1].vm.name.clone().unwrap();
    let output = run(migtrace(&["report", "--vm", &name]).args([log("two-vms"), log("precopy-7.2")]));
    assert_eq!(stdout(&output), report::text::render(&records[1]), "{output:?}");
    let nobody = run(migtrace(&["report", "--vm", "nobody"]).args([log("two-vms"), log("precopy-7.2")]));
    assert_eq!(nobody.status.code(), Some(1));
    assert!(stderr(&nobody).contains("no migration of nobody"), "{nobody:?}");
}

#[test]
fn a_page_is_written_where_the_name_of_the_file_says_so() {
    let (folder, _) = write("");
    let page = folder.path().join("page.html");
    let output = run(migtrace(&["report"]).arg(log("precopy-7.2")).arg("--output").arg(&page));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let expected = report::html::render(&common::replay("precopy-7.2"));
    assert_eq!(fs::read_to_string(page).unwrap(), expected);
    let printed = report_of(&log("precopy-7.2"), &["--format", "html"]);
    assert_eq!(stdout(&printed), expected);
    let probe = run(&mut migtrace(&["probe", "10.0.0.1", "--format", "html"]));
    assert_eq!(probe.status.code(), Some(2), "a probe has no page: {probe:?}");
}

/// Both ends of a terminal that shows nothing.
fn terminal() -> (OwnedFd, OwnedFd) {
    let nix::pty::OpenptyResult { master, slave } = nix::pty::openpty(None, None).unwrap();
    (master, slave)
}

#[test]
fn a_binary_trace_goes_into_a_file_or_a_pipe_and_to_no_terminal() {
    let log = log("precopy-7.2");
    let trace = perfetto::render(&common::replay("precopy-7.2"));
    let (_master, terminal) = terminal();
    let refused = migtrace(&["report", "--format", "perfetto"]).arg(&log).stdout(terminal).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("name a file with --output"), "{}", stderr(&refused));

    let piped = migtrace(&["report", "--format", "perfetto"]).arg(&log).output().unwrap();
    assert_eq!((piped.status.code(), &piped.stdout), (Some(0), &trace));

    let folder = tempfile::tempdir().unwrap();
    for name in ["a.pftrace", "a.perfetto-trace"] {
        let file = folder.path().join(name);
        let output = report_of(&log, &["--output", file.to_str().unwrap()]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(0), String::new()));
        assert!(fs::read(&file).unwrap() == trace, "{name}");
    }
}

#[test]
fn an_export_is_made_of_a_record_as_of_its_log() {
    let log = log("precopy-7.2");
    let (_folder, record) = write(&report::json(&common::replay("precopy-7.2").remove(0)).unwrap());
    for format in ["perfetto", "chrome", "openmetrics"] {
        let of = |file: &Path| migtrace(&["report", "--format", format]).arg(file).output().unwrap().stdout;
        assert!(!of(&log).is_empty() && of(&log) == of(&record), "{format}");
    }
}
