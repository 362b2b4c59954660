//! `record --domjobinfo`: what libvirt says of a migration is in the record as `virsh` has told the lab, and it is never that of
//! an earlier one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use super::{PLAIN, merged, migrate};
use crate::support::{GUEST_PATIENCE, PATIENCE, assert_recorded, number};
use migtrace_lab::migtrace_command::{self, Recorded, Recording};
use migtrace_lab::record_checks::not_measured;
use migtrace_lab::{AbortPoint, JobInfo, LibvirtLab, LibvirtMigration, shared_libvirt_lab};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

const FIGURES: &str = "libvirt's own figures";

/// The times of libvirt's statistics, as virsh and as migtrace call them.
const TIMES: [(&str, &str); 5] = [
    ("Time elapsed", "time_elapsed"),
    ("Time elapsed w/o network", "time_elapsed_net"),
    ("Total downtime", "downtime"),
    ("Downtime w/o network", "downtime_net"),
    ("Setup time", "setup_time"),
];
/// Its amounts.
const AMOUNTS: [(&str, &str); 3] = [
    ("Memory processed", "memory_processed"),
    ("Memory total", "memory_total"),
    ("Normal data", "memory_normal_bytes"),
];

/// Postcopy that does begin.
const POSTCOPY: LibvirtMigration =
    LibvirtMigration { postcopy: true, bandwidth_mib_per_s: Some(32), ..PLAIN };

fn options(lab: &LibvirtLab) -> [String; 3] {
    ["--domjobinfo".into(), "--virsh".into(), lab.virsh_program().display().to_string()]
}

fn as_options(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

/// Checks the figures of a record against what virsh has told the lab.
fn assert_figures(record: &Value, role: &str, told: &JobInfo) {
    let libvirt = &record["libvirt"];
    assert_eq!(libvirt["role"], role, "{record:#}");
    let stats = &libvirt["stats"];
    // Without network there may be nothing left of a downtime: then libvirt leaves it out.
    for (name, field) in TIMES {
        assert_eq!(told.ms(name), stats[field].as_u64(), "{name}: {told:?} {stats:#}");
    }
    assert!(stats["time_elapsed"].is_number() && stats["downtime"].is_number(), "{stats:#}");
    for (name, field) in AMOUNTS {
        // virsh rounds to a thousandth of a MiB.
        let (told, bytes) = (told.bytes(name).unwrap(), number(&stats[field]) as f64);
        assert!((told - bytes).abs() <= 1048.576 / 2.0 + 1.0, "{name}: {told} {bytes}");
    }
    assert_eq!(told.text("Iteration"), Some(stats["memory_iteration"].to_string().as_str()));
}

/// A recording that libvirt has told nothing, and why.
fn why_none(recorded: &Recorded, code: i32) -> String {
    let record = assert_recorded(recorded, code);
    assert!(record.get("libvirt").is_none(), "{record:#}");
    let lines = not_measured(&record);
    let why = lines.lines().find_map(|line| line.strip_prefix(FIGURES)?.strip_prefix(": "));
    let why = why.unwrap_or_else(|| panic!("{lines}"));
    assert!(recorded.stderr.contains(&format!("not measured: {FIGURES}: {why}")), "{}", recorded.stderr);
    why.to_owned()
}

/// A program that stands in for virsh after it has said its version.
fn stand_in(folder: &TempDir, name: &str, lines: &str) -> String {
    let path = folder.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n[ \"$1\" = --version ] && exit\n{lines}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

fn text_of(log: &Path) -> String {
    let arguments = ["report", log.to_str().unwrap()];
    let output = migtrace_command::command(&arguments).unwrap().output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn libvirts_figures_of_each_of_two_migrations_are_its_own() {
    let mut lab = shared_libvirt_lab().unwrap();
    let mut all = Vec::new();
    for _ in 0..2 {
        let options = options(&lab);
        let moved = migrate(&mut lab, &PLAIN, &as_options(&options));
        assert_figures(&moved.record, "source", &moved.migrated.source);
        assert_eq!(moved.record["libvirt"]["host"], moved.record["observers"][0]["host"]);
        assert_figures(&moved.source.record().unwrap(), "source", &moved.migrated.source);
        assert_figures(&moved.destination.record().unwrap(), "destination", &moved.migrated.destination);
        let disk_bytes = lab.guest().disk_mib << 20;
        assert_eq!(moved.record["libvirt"]["stats"]["disk_processed"], disk_bytes);
        // Both hosts have one clock.
        let report = text_of(&moved.source.events_path());
        assert!(report.contains("From src (source)") || report.contains("From dst (source)"), "{report}");
        assert!(!report.contains("--qmp"), "libvirt keeps the only monitor: {report}");
        all.push(moved.record["libvirt"]["stats"].clone());
    }
    assert_ne!(all[0], all[1]);
}

#[test]
fn an_observer_with_peers_gets_libvirts_figures_and_needs_no_libvirt() {
    let mut lab = shared_libvirt_lab().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let shell = lab.remote_shell().unwrap();
    let options = options(&lab);
    let mut arguments =
        vec!["--rsh", &shell, "--peer", "src", "--peer", "dst", "--events", logs.path().to_str().unwrap()];
    arguments.extend(as_options(&options));
    let recording = Recording::start(lab.observer(), &arguments).unwrap();
    let migrated = lab.migrate(&PLAIN).unwrap();
    let recorded = recording.finish(GUEST_PATIENCE).unwrap();
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    assert!(!recorded.stderr.contains(FIGURES), "{}", recorded.stderr);
    assert_figures(&recorded.record().unwrap(), "source", &migrated.source);
    let said = |host: &str| fs::read_to_string(logs.path().join(format!("{host}.jsonl"))).unwrap();
    let counts = ["local", "src", "dst"].map(|host| said(host).matches("\"event\":\"domjobinfo\"").count());
    assert_eq!(counts, [0, 1, 1], "each host has asked its own libvirt");
    let files = ["local", "src", "dst"].map(|host| logs.path().join(format!("{host}.jsonl")));
    let again = migtrace_command::merge(&files.each_ref().map(std::path::PathBuf::as_path)).unwrap();
    assert_eq!(again.stdout, recorded.json);
}

#[test]
fn after_post_copy_only_libvirt_at_the_source_knows_and_nothing_is_missing() {
    let mut lab = shared_libvirt_lab().unwrap();
    let options = options(&lab);
    let moved = migrate(&mut lab, &POSTCOPY, &as_options(&options));
    assert_figures(&moved.record, "source", &moved.migrated.source);
    let why = why_none(&moved.destination, 0);
    assert!(why.contains("forgets them after a post-copy migration"), "{why}");
    assert!(
        !moved.record["not_measured"].to_string().contains(FIGURES),
        "{:#}",
        moved.record["not_measured"]
    );
}

#[test]
fn libvirt_has_no_figures_of_a_migration_that_virsh_aborts() {
    let mut lab = shared_libvirt_lab().unwrap();
    // An earlier one, of which it has some.
    lab.migrate(&PLAIN).unwrap();
    let options = options(&lab);
    let recordings = [lab.guest_host(), lab.other_host()]
        .map(|host| Recording::start(host, &as_options(&options)).unwrap());
    lab.abort(&LibvirtMigration { bandwidth_mib_per_s: Some(16), ..PLAIN }, AbortPoint::Memory).unwrap();
    let [source, destination] = recordings.map(|recording| recording.finish(GUEST_PATIENCE).unwrap());
    for recorded in [&source, &destination] {
        assert_eq!(why_none(recorded, 3), "libvirt keeps none of a migration that did not complete");
    }
    assert!(merged(&source, &destination).get("libvirt").is_none());
}

#[test]
fn a_virsh_that_repeats_itself_or_hangs_loses_nothing_but_the_figures() {
    let mut lab = shared_libvirt_lab().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let stale = stand_in(&folder, "stale", "printf 'Job type: 3\\n\\noperation: 5\\ntime_elapsed: 3773\\n'");
    let hanging = stand_in(&folder, "hanging", "exec sleep 1000");
    let start = |host, virsh| Recording::start(host, &["--domjobinfo", "--virsh", virsh]).unwrap();
    let source = start(lab.guest_host(), &stale);
    let destination = start(lab.other_host(), &hanging);
    lab.migrate(&PLAIN).unwrap();
    let [source, destination] =
        [source, destination].map(|recording| recording.finish(GUEST_PATIENCE).unwrap());
    let why = why_none(&source, 0);
    assert!(why.starts_with("libvirt had none of this migration within 10 s"), "{why}");
    assert_eq!(why_none(&destination, 0), "virsh has not answered within 10 s");
    // It was said when it was found out, too.
    assert!(destination.stderr.contains("\nlibvirt's own figures: virsh has not"), "{}", destination.stderr);
}

#[test]
fn libvirt_is_asked_at_the_source_only_when_it_has_ended_qemu() {
    let mut lab = shared_libvirt_lab().unwrap();
    let (folder, guest) = (tempfile::tempdir().unwrap(), &lab.guest().name);
    let file =
        format!("/run/migtrace-lab/{}/{}/run/libvirt/qemu/{guest}.pid", lab.name(), lab.guest_host().role());
    let pid = fs::read_to_string(file).unwrap();
    // Each answer is new. It notes whether QEMU still runs: the command line of one that has ended is empty.
    let asked = folder.path().join("asked");
    let lines = format!(
        "[ -n \"$(tr -d '\\0' </proc/{}/cmdline)\" ] && echo runs >>{1} || echo ended >>{1}\n\
         printf 'Job type: 3\\n\\noperation: 5\\nasked: %s\\n' \"$(wc -l <{1})\"",
        pid.trim(),
        asked.display()
    );
    let virsh = stand_in(&folder, "virsh", &lines);
    let recording = Recording::start(lab.guest_host(), &["--domjobinfo", "--virsh", &virsh]).unwrap();
    let [source, destination] = lab.daemons().map(u32::cast_signed).map(Pid::from_raw);
    let other = if lab.other_host().role() == "dst" { destination } else { source };
    let delayed = std::thread::spawn(move || {
        // For some seconds the source's libvirt hears nothing of what has become of the guest.
        recording.wait_for_event("\"name\":\"STOP\"", PATIENCE).unwrap();
        kill(other, Signal::SIGSTOP).unwrap();
        std::thread::sleep(Duration::from_secs(4));
        kill(other, Signal::SIGCONT).unwrap();
        recording
    });
    lab.migrate(&PLAIN).unwrap();
    let recorded = delayed.join().unwrap().finish(GUEST_PATIENCE).unwrap();
    let record = assert_recorded(&recorded, 0);
    assert_eq!(record["libvirt"]["stats"]["asked"], 2);
    assert_eq!(fs::read_to_string(asked).unwrap(), "runs\nended\n");
}

#[test]
fn a_recorder_that_hears_of_everything_at_once_when_qemu_has_gone_still_knows_whom_to_ask_about() {
    let mut lab = shared_libvirt_lab().unwrap();
    let options = options(&lab);
    let recording = Recording::start(lab.guest_host(), &as_options(&options)).unwrap();
    let stopped = std::thread::spawn(move || {
        recording.wait_for_event("\"name\":\"STOP\"", PATIENCE).unwrap();
        recording.signal(Signal::SIGSTOP).unwrap();
        recording
    });
    // libvirt has ended the source's QEMU by the time virsh returns.
    let migrated = lab.migrate(&PLAIN).unwrap();
    let recording = stopped.join().unwrap();
    assert!(!recording.events().contains("\"completed\""), "it was stopped too late");
    recording.signal(Signal::SIGCONT).unwrap();
    let recorded = recording.finish(GUEST_PATIENCE).unwrap();
    assert_figures(&assert_recorded(&recorded, 0), "source", &migrated.source);
}

#[test]
fn a_virsh_that_cannot_be_run_is_found_before_anything_is_recorded() {
    let lab = shared_libvirt_lab().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.txt");
    fs::write(&report, "of an earlier migration").unwrap();
    let arguments =
        ["record", "--domjobinfo", "--virsh", "/no/such/virsh -q", "--output", report.to_str().unwrap()];
    let output = migtrace_command::run(lab.guest_host(), &arguments).unwrap();
    assert_eq!(output.code, Some(1));
    let said = "cannot run `/no/such/virsh`";
    assert!(output.stderr.contains(said) && output.stderr.contains("No such file"), "{}", output.stderr);
    assert_eq!(fs::read_to_string(&report).unwrap(), "of an earlier migration");
}
