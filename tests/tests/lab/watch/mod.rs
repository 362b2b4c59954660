//! `migtrace watch`: every migration of a host, against what it has not produced: the driver's stamps, and a packet socket's
//! counts of the connections.

mod collector;
mod embedded;
mod endings;
mod faults;
mod journeys;
mod scrapes;
mod sleep;
mod textfile;

use crate::support::PATIENCE;
use crate::support::merged::merge;
use migtrace_lab::record_checks::assert_consistent;
use migtrace_lab::watch_command::{Pair, Watch, wait_for_pairs};
use migtrace_lab::{Host, migtrace_command};
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What `migtrace report` makes of the log of a pair, and its exit code.
fn replayed(pair: &Pair) -> (String, Option<i32>) {
    let mut report = migtrace_command::command(&["report", "--format", "json"]).unwrap();
    let output = report.arg(&pair.log).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

/// Waits for so many pairs, and checks that each log replays into its record, byte for byte, and ended properly.
fn whole_pairs(directory: &Path, count: usize) -> Vec<Pair> {
    let pairs = wait_for_pairs(directory, count, PATIENCE).unwrap();
    for pair in &pairs {
        assert_consistent(&pair.record);
        assert_eq!(replayed(pair), (pair.json.clone(), Some(0)), "{}", pair.name);
        let log = std::fs::read_to_string(&pair.log).unwrap();
        assert!(log.lines().last().unwrap().contains("log_end"), "{}", pair.name);
    }
    pairs
}

/// Waits until something is so.
fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A directory for a host.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A file system of some KiB. Dropping it unmounts it.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(kib: u32) -> Self {
        let folder = directory();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]).arg(folder.path());
        assert!(mount.status().unwrap().success());
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// Starts a watch on a host of this name, so that several can write into one directory, and waits until it is ready.
fn named_watch(host: &Host, name: &str, directory: &Path, options: &[&str]) -> Watch {
    let watch = migtrace_command::command(&["watch", "--directory"]).unwrap();
    let mut named = Command::new("unshare");
    named.args(["--uts", "sh", "-c", "hostname \"$0\" && exec \"$@\"", name]);
    named.arg(watch.get_program()).args(watch.get_args()).arg(directory).args(options);
    named.stdin(Stdio::null()).env("OTEL_EXPORTER_OTLP_TIMEOUT", "2000");
    let mut watch = Watch::begin(host, named).unwrap();
    watch.wait_until_said("ready", PATIENCE).unwrap();
    watch
}

/// What `migtrace merge --directory` makes of all logs below a directory.
fn merged_directory(directory: &Path) -> Vec<Value> {
    let mut merge = migtrace_command::command(&["merge", "--directory"]).unwrap();
    let output = merge.arg(directory).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The record that `migtrace merge` makes of both halves of a migration.
fn merged(pairs: [&Pair; 2]) -> Value {
    let text = merge(&[&pairs[0].log, &pairs[1].log]).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
