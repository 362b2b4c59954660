//! `migtrace study` over migrations of the lab, from its plan to its report.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::lab_itself::{assert_gone, remains_of};
use crate::support::{GUEST_PATIENCE, number, one_at_a_time};
use migtrace_lab::migtrace_command;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Two cells with a small guest and disk. Around each migration, the source's kernel is asked what has crossed its uplink.
const PLAN: &str = r#"
title = "A small study"

[variables]
LAB = "@NAME@"

[[axis]]
name = "load"
values = [
  { name = "unloaded", set = { DIRTY_MIB = 0 } },
  { name = "loaded", set = { DIRTY_MIB = 48 } },
]

[runs]
shuffle = false
repetitions = 1

[convergence]
action = "suspend"
after = "1m"

[driver]
prepare = """
migtrace-lab up --name $LAB --memory 128 --dirty $DIRTY_MIB --dirty-rate 10 --rate 400mbit --disk 256 --disk-data 16
"""
migrate = """
count() { migtrace-lab exec --name $LAB src -- cat /proc/thread-self/net/dev > "$STUDY_DIRECTORY/$1"; }
count before && migtrace-lab migrate --name $LAB --like-libvirt ${STUDY_CONVERGENCE:+--converge-by $STUDY_CONVERGENCE} &&
count after
"""
converge = "migtrace-lab converge --name $LAB --action $STUDY_CONVERGENCE"
clean_up = "migtrace-lab down --name $LAB --if-exists"

[record]
command = "migtrace-lab exec --name $LAB src -- migtrace"
rsh = "migtrace-lab rsh --name $LAB"
vm = "$GUEST"
peers = ["dst", "observer"]
probe = "$GUEST_ADDRESS"
probe_from = "observer"
probe_interval = "2ms"
options = ["--qmp", "$QMP"]

[old_method]
ping = "$GUEST_ADDRESS"
ping_from = "observer"
meter_host = "src"
meter_interface = "uplink"

[report]
rows = "load"
"#;

/// A study whose lab has this name.
struct Study {
    name: String,
    directory: tempfile::TempDir,
    running: Option<Child>,
}

impl Study {
    fn new() -> Self {
        let name = format!("study-{}", std::process::id());
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("plan.toml"), PLAN.replace("@NAME@", &name)).unwrap();
        Self { name, directory, running: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `migtrace study run`. The commands of the plan find `migtrace` and `migtrace-lab` without a path.
    fn start(&mut self, plan: &str) {
        let mut command = migtrace_command::command(&["study", "run"]).unwrap();
        let programs = Path::new(env!("CARGO_BIN_EXE_migtrace-lab")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", programs.display()));
        command.arg(self.path(plan)).arg("--output").arg(self.path("study"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.running = Some(command.spawn().unwrap());
    }

    /// Waits until it ends. Returns its exit code and what it said.
    fn end(&mut self) -> (Option<i32>, String) {
        let Output { status, stdout, stderr } = self.running.take().unwrap().wait_with_output().unwrap();
        (status.code(), String::from_utf8([stdout, stderr].concat()).unwrap())
    }

    /// The folders of its runs, in their order.
    fn runs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.path("study/runs")).into_iter().flatten();
        let mut runs: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        runs.sort();
        runs
    }
}

impl Drop for Study {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !remains_of(&self.name).is_empty() {
            let _ = migtrace_lab::tear_down(&self.name);
        }
    }
}

fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The bytes that the source's kernel counted at its uplink, in a copy of its /proc/net/dev.
fn sent_bytes(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    let uplink = text.lines().find_map(|line| line.trim().strip_prefix("uplink:")).unwrap();
    uplink.split_whitespace().nth(8).unwrap().parse().unwrap()
}

/// Checks that a run was recorded on all hosts, and that its figures are those of the kernel of the lab's source.
fn assert_recorded(run: &Path) {
    let record = json(&run.join("record.json"));
    assert_eq!(record["migration"]["outcome"], "completed", "{}", run.display());
    for log in ["local.jsonl", "dst.jsonl", "observer.jsonl"] {
        let text = fs::read_to_string(run.join("events").join(log)).unwrap();
        assert!(text.lines().last().unwrap().contains("\"log_end\""), "{log} is cut off");
    }
    let counted = sent_bytes(&run.join("after")) - sent_bytes(&run.join("before"));
    let sent = &record["traffic"]["total"]["tx"];
    // The kernel counts the headers of what it cuts only once, and also echo replies and what the peers' recordings say.
    let (payload, wire) = (number(&sent["payload_bytes"]), number(&sent["wire_bytes"]));
    assert!((payload..wire + wire / 20).contains(&counted), "{payload} of {wire} bytes, counted {counted}");
    assert!(payload > 16 << 20, "less than the data of the disk: {payload}");

    let run = json(&run.join("run.json"));
    assert_eq!(run["outcome"]["is"], "completed");
    let old = &run["old_method"];
    assert!(number(&old["pings"]["sent"]) > number(&old["pings"]["lost"]), "{old}");
    // It is on from before until after what this test counts.
    let metered = number(&old["meter"]["tx_bytes"]);
    assert!((counted..counted + counted / 5).contains(&metered), "{metered} metered, {counted} counted");
}

#[test]
fn a_study_is_interrupted_goes_on_and_is_answered() {
    let _lock = one_at_a_time();
    let mut study = Study::new();
    study.start("plan.toml");
    let started = Instant::now();
    // The second migration has just begun.
    while !study.runs().get(1).is_some_and(|run| run.join("before").exists()) {
        assert!(started.elapsed() < 2 * GUEST_PATIENCE, "{:?}", study.runs());
        assert!(study.running.as_mut().unwrap().try_wait().unwrap().is_none(), "{}", study.end().1);
        thread::sleep(Duration::from_millis(10));
    }
    let pid = study.running.as_ref().unwrap().id();
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT).unwrap();
    let (code, text) = study.end();
    assert_eq!(code, Some(3), "{text}");
    assert_gone(&study.name, Duration::from_secs(1));
    let first = study.runs().remove(0);
    assert_recorded(&first);
    let before = fs::read(first.join("run.json")).unwrap();

    let other =
        fs::read_to_string(study.path("plan.toml")).unwrap().replace("repetitions = 1", "repetitions = 2");
    fs::write(study.path("other.toml"), other).unwrap();
    let there = study.runs();
    study.start("other.toml");
    let (code, text) = study.end();
    assert!(code == Some(1) && text.contains("repetitions"), "{code:?}: {text}");
    assert_eq!(study.runs(), there);

    study.start("plan.toml");
    let (code, text) = study.end();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(fs::read(first.join("run.json")).unwrap(), before, "the first run was made again");
    let complete: Vec<_> = study.runs().into_iter().filter(|run| run.join("run.json").exists()).collect();
    assert_eq!(complete.len(), 2, "{complete:?}");
    assert_recorded(&complete[1]);
    assert_gone(&study.name, Duration::from_secs(1));

    let mut report = migtrace_command::command(&["study", "report", "--format", "json"]).unwrap();
    let output = report.arg(study.path("study")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer = String::from_utf8(output.stdout).unwrap();
    for cell in ["unloaded", "loaded"] {
        assert!(answer.contains(&format!("\"load\": \"{cell}\"")), "{answer}");
    }
}
