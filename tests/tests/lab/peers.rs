//! `record --peer` records on several hosts of the lab with one command. All of them have the same clock.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::GUEST_PATIENCE;
use migtrace_lab::migtrace_command::{self, Recorded, Recording, remote_shell};
use migtrace_lab::record_checks::not_measured;
use migtrace_lab::{Action, Host, Lab, Migration, Outcome, shared_lab};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// A migration that takes some seconds.
fn slow() -> Migration {
    Migration { max_bandwidth_bytes_per_s: 48 << 20, ..Migration::default() }
}

/// Starts to record on `host`, and on the peers, with event logs in `logs`.
fn start(lab: &Lab, host: &Host, logs: &Path, peers: &[&str], options: &[&str]) -> Recording {
    let remote_shell = remote_shell(lab).unwrap();
    let mut arguments = vec!["--rsh", &remote_shell, "--events", logs.to_str().unwrap()];
    arguments.extend(peers.iter().flat_map(|peer| ["--peer", peer]));
    arguments.extend_from_slice(options);
    Recording::start(host, &arguments).unwrap()
}

/// The record, which the logs must give again.
fn record_of(recorded: &Recorded, logs: &Path) -> Value {
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    let logs: Vec<PathBuf> = fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().path()).collect();
    let logs: Vec<&Path> = logs.iter().map(PathBuf::as_path).collect();
    let merged = migtrace_command::merge(&logs).unwrap();
    assert!(
        merged.stdout == recorded.json,
        "the logs give another record: {}{}",
        merged.stderr,
        merged.stdout
    );
    recorded.record().unwrap()
}

/// The part of each host, and how its clock is known. The true offset of each is 0.
fn observers(record: &Value) -> Vec<(&str, &str)> {
    record["observers"].as_array().unwrap().iter().map(observer).collect()
}

fn observer(observer: &Value) -> (&str, &str) {
    let alignment = &observer["alignment"];
    if let (Some(low), Some(high)) = (alignment["low_ns"].as_i64(), alignment["high_ns"].as_i64()) {
        assert!(low <= 0 && 0 <= high, "the clocks are the same, so 0 is the truth: {alignment}");
    }
    (observer["role"].as_str().unwrap(), alignment["method"].as_str().unwrap_or("own"))
}

/// The processes that record for another host and have this VM's name among their arguments.
fn serving(vm: &str) -> Vec<u32> {
    let is_serving = |pid: &u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments: Vec<_> = arguments.split(|byte| *byte == 0).collect();
        arguments.get(1) == Some(&&b"serve"[..]) && arguments.contains(&format!("--vm={vm}").as_bytes())
    };
    let pids =
        fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(is_serving).collect()
}

fn wait_until_none_serves(vm: &str) {
    let deadline = Instant::now() + GUEST_PATIENCE;
    while !serving(vm).is_empty() {
        assert!(Instant::now() < deadline, "{:?} still record", serving(vm));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn source_destination_and_observer_make_one_record() {
    let mut lab = shared_lab().unwrap();
    let (vm, guest) = (lab.guest().name.clone(), lab.guest().ipv4.to_string());
    // Once from the source, once from the destination.
    for from_source in [true, false] {
        let logs = tempfile::tempdir().unwrap();
        let (here, there) = match from_source {
            true => (lab.guest_host().clone(), lab.other_host().clone()),
            false => (lab.other_host().clone(), lab.guest_host().clone()),
        };
        let peers = [there.role(), "observer"];
        let recording = start(&lab, &here, logs.path(), &peers, &["--vm", &vm, "--probe", &guest]);
        assert_eq!(serving(&vm).len(), 2);
        let migrated = lab.migrate(&Migration::default()).unwrap();
        assert_eq!(migrated.outcome, Outcome::Completed);
        let recorded = recording.finish(GUEST_PATIENCE).unwrap();
        let record = record_of(&recorded, logs.path());
        let expected = [("source", "own"), ("destination", "tcp"), ("observer", "control-connection")];
        assert_eq!(observers(&record), expected, "{record:#}");
        assert!(serving(&vm).is_empty());
        for figure in ["stop", "network", "reachability", "tail"] {
            assert!(record["downtime"][figure].is_object(), "{figure}: {:#}", record["downtime"]);
        }
        let marks = record["downtime"]["marks"].as_array().unwrap();
        let of = |name: &str| marks.iter().find(|mark| mark["name"] == name);
        let resumed = marks.iter().find(|mark| mark["name"] == "resume" && mark["role"] == "destination");
        // When the machine stalls for as long as the guest is gone, no gap surely lies around its stop.
        if let Some((reply, resumed)) = of("first-reply").zip(resumed) {
            assert_eq!(reply["role"], "observer");
            // The guest cannot answer before it runs.
            let error = reply["error_ns"].as_i64().unwrap() + resumed["error_ns"].as_i64().unwrap();
            assert!(resumed["at_ns"].as_i64() <= reply["at_ns"].as_i64().map(|at| at + error), "{marks:#?}");
        }
        assert!(record["echo"]["sent"].as_u64() > Some(0));
        let lacking = not_measured(&record);
        assert!(!lacking.contains("saw") && !lacking.contains("must be recorded too"), "{lacking}");
    }
}

#[test]
fn a_host_without_a_part_records_what_its_peers_see() {
    let mut lab = shared_lab().unwrap();
    let vm = lab.guest().name.clone();
    let logs = tempfile::tempdir().unwrap();
    let recording = start(&lab, lab.observer(), logs.path(), &["src", "dst"], &["--vm", &vm]);
    lab.migrate(&Migration::default()).unwrap();
    let recorded = recording.finish(GUEST_PATIENCE).unwrap();
    let record = record_of(&recorded, logs.path());
    assert_eq!(observers(&record), [("source", "own"), ("destination", "tcp")], "{record:#}");
    assert!(!not_measured(&record).contains("saw"), "{}", not_measured(&record));
    assert!(serving(&vm).is_empty());
}

#[test]
fn an_idle_peer_has_seen_nothing_and_the_record_says_so() {
    let mut lab = shared_lab().unwrap();
    let logs = tempfile::tempdir().unwrap();
    let here = lab.guest_host().clone();
    let recording = start(&lab, &here, logs.path(), &["observer"], &[]);
    lab.migrate(&Migration::default()).unwrap();
    let recorded = recording.finish(GUEST_PATIENCE).unwrap();
    let record = record_of(&recorded, logs.path());
    assert_eq!(observers(&record), [("source", "own")]);
    assert!(not_measured(&record).contains("it recorded at the same time, and saw neither"), "{record:#}");
}

/// A remote shell: what it does with each host.
fn shell(directory: &Path, lab: &Lab, cases: &str) -> String {
    let path = directory.join("rsh");
    let script = format!("#!/bin/sh\nreal() {{ exec {} \"$@\"; }}\n{cases}\n", remote_shell(lab).unwrap());
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn peers_that_cannot_record_are_missed_and_the_rest_is_recorded() {
    let mut lab = shared_lab().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let logs = directory.path().join("logs");
    let cases = r#"
        case "$1" in
            unreachable) echo "ssh: connect to host $1 port 22: No route to host" >&2; exit 255;;
            bare) PATH=/usr/bin:/bin; shift; sh -c "$*";;
            powerless) real observer "setpriv --bounding-set -bpf,-sys_admin $2";;
            older) echo "error: unrecognized subcommand 'serve'" >&2; exit 2;;
            newer) echo '{"at_ns":1,"event":"log_start","schema":"migtrace.events/9"}';;
            chatty) echo "Welcome to $1!"; cat >/dev/null;;
            gone) kill -9 $$;;
        esac"#;
    let shell = shell(directory.path(), &lab, cases);
    let reasons = [
        ("unreachable", "it cannot be reached: ssh: connect to host unreachable port 22: No route to host"),
        ("bare", "there is no `migtrace` on it: "),
        ("powerless", "it could not record: CAP_BPF missing; run as root"),
        ("older", "its migtrace is of another version: unrecognized subcommand 'serve'; install the same"),
        ("newer", "its migtrace is of another version; install the same version on all hosts"),
        ("chatty", "it wrote something else than events: "),
        ("gone", "it could not record"),
    ];
    let mut arguments = vec!["--rsh", &shell, "--events", logs.to_str().unwrap()];
    arguments.extend(reasons.iter().flat_map(|(peer, _)| ["--peer", peer]));
    let recording = Recording::start(lab.guest_host(), &arguments).unwrap();
    lab.migrate(&Migration::default()).unwrap();
    let recorded = recording.finish(GUEST_PATIENCE).unwrap();
    assert_eq!(recorded.code, Some(0), "{}", recorded.stderr);
    let record = recorded.record().unwrap();
    assert_eq!(observers(&record), [("source", "own")]);
    for (peer, reason) in reasons {
        let said = format!("{peer}: {reason}");
        assert!(recorded.stderr.lines().any(|line| line.starts_with(&said)), "{said}: {}", recorded.stderr);
        let lacks = record["not_measured"].as_array().unwrap().iter().any(|entry| {
            entry["what"] == format!("what {peer} sees") && entry["why"].as_str().unwrap().starts_with(reason)
        });
        assert!(lacks, "{peer}: {}", not_measured(&record));
    }
}

#[test]
fn a_peer_that_is_lost_in_the_middle_does_not_end_the_recording() {
    let mut lab = shared_lab().unwrap();
    for (signal, why) in
        [(Signal::SIGKILL, "the connection broke off"), (Signal::SIGTERM, "its recording was ended there")]
    {
        let logs = tempfile::tempdir().unwrap();
        let (vm, here) = (lab.guest().name.clone(), lab.guest_host().clone());
        let there = lab.other_host().role();
        let recording = start(&lab, &here, logs.path(), &[there], &["--vm", &vm]);
        let mut victims = serving(&vm);
        assert_eq!(victims.len(), 1);
        let migrated = lab.migrate_with(&slow(), |progress| {
            if progress.transferred_bytes > 4 << 20 {
                for pid in victims.drain(..) {
                    kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
                }
            }
            Action::Continue
        });
        assert_eq!(migrated.unwrap().outcome, Outcome::Completed);
        let recorded = recording.finish(GUEST_PATIENCE).unwrap();
        let record = record_of(&recorded, logs.path());
        let lost = format!("{there}: {why}");
        assert!(recorded.stderr.contains(&lost), "{}", recorded.stderr);
        // Half of it was seen.
        assert_eq!(observers(&record), [("source", "own"), ("destination", "tcp")]);
        let lacking = not_measured(&record);
        assert!(lacking.contains(&format!("what {there} saw after its recording broke off")), "{lacking}");
        assert_eq!(record["migration"]["outcome"], "completed");
        wait_until_none_serves(&vm);
    }
}

#[test]
fn peers_end_with_the_recording_however_it_ends() {
    let mut lab = shared_lab().unwrap();
    let (vm, there) = (lab.guest().name.clone(), lab.other_host().role());
    let guest = lab.guest().ipv4.to_string();
    let logs = tempfile::tempdir().unwrap();
    let options = ["--vm", &vm, "--probe", &guest];
    let recording = start(&lab, &lab.guest_host().clone(), logs.path(), &[there, "observer"], &options);
    let mut recording_pid = Some(Pid::from_raw(recording.pid().cast_signed()));
    lab.migrate_with(&slow(), |progress| {
        if progress.transferred_bytes > 4 << 20
            && let Some(pid) = recording_pid.take()
        {
            kill(pid, Signal::SIGINT).unwrap();
        }
        Action::Continue
    })
    .unwrap();
    let recorded = recording.finish(GUEST_PATIENCE).unwrap();
    assert_eq!(recorded.code, Some(3), "{}", recorded.stderr);
    let record = recorded.record().unwrap();
    assert_eq!(record["migration"]["outcome"], "interrupted");
    // All of them ended properly, with what they had seen until then.
    for host in ["local", there, "observer"] {
        let log = fs::read_to_string(logs.path().join(format!("{host}.jsonl"))).unwrap();
        assert!(log.lines().last().unwrap().contains(r#""log_end""#), "{host}");
    }
    assert!(record["echo"]["sent"].as_u64() > Some(0), "{record:#}");
    assert!(serving(&vm).is_empty());

    // And when it is killed.
    let recording = start(&lab, &lab.guest_host().clone(), logs.path(), &["observer"], &["--vm", &vm]);
    assert_eq!(serving(&vm).len(), 1);
    recording.signal(Signal::SIGKILL).unwrap();
    wait_until_none_serves(&vm);
}

/// What a terminal does to all of its processes.
#[test]
fn an_interrupt_that_reaches_the_peers_too_is_left_to_the_recording() {
    let lab = shared_lab().unwrap();
    let vm = lab.guest().name.clone();
    let logs = tempfile::tempdir().unwrap();
    let recording = start(&lab, lab.guest_host(), logs.path(), &["observer"], &["--vm", &vm]);
    let pids = serving(&vm);
    assert_eq!(pids.len(), 1);
    for signal in [Signal::SIGINT, Signal::SIGHUP] {
        kill(Pid::from_raw(pids[0].cast_signed()), signal).unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(serving(&vm), pids);
    recording.signal(Signal::SIGINT).unwrap();
    let recorded = recording.finish(GUEST_PATIENCE).unwrap();
    assert!(!recorded.stderr.contains("goes on without it"), "{}", recorded.stderr);
    let log = fs::read_to_string(logs.path().join("observer.jsonl")).unwrap();
    assert!(log.lines().last().unwrap().contains(r#""log_end""#), "{log}");
}

#[test]
fn names_and_places_that_cannot_be_meant_are_refused() {
    let lab = crate::support::network();
    let file = tempfile::NamedTempFile::new().unwrap();
    let file = file.path().to_str().unwrap();
    let refused: [(&[&str], i32, &str); 7] = [
        (&["--peer", "-oProxyCommand=x"], 2, "not the name of a host"),
        (&["--peer", "a/b"], 2, "not the name of a host"),
        (&["--peer", "b", "--peer", "root@b"], 1, "--peer names b twice"),
        (&["--peer", "b", "--probe", "::1", "--probe-from", "c"], 1, "there is no --peer c"),
        (&["--peer", "b", "--events", "-"], 1, "name a directory"),
        (&["--peer", "b", "--events", file], 1, "must be a directory"),
        (&["--peer", "b", "--rsh", "ssh '"], 1, "is not a command"),
    ];
    for (arguments, code, why) in refused {
        let mut command = Command::new(migtrace_command::binary().unwrap());
        command.arg("record").args(["--timeout", "100ms"]);
        // An option's value may begin with a dash only if it is attached.
        for pair in arguments.chunks(2) {
            command.arg(format!("{}={}", pair[0], pair[1]));
        }
        let output = migtrace_command::run_command(lab.source(), command).unwrap();
        assert_eq!(output.code, Some(code), "{arguments:?}: {}", output.stderr);
        assert!(output.stderr.contains(why), "{arguments:?}: {}", output.stderr);
    }
}
