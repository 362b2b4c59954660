//! The programs, run on canned logs; and that they are made without what only observing a host needs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics where it stands")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests")
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn run(program: &str, logs: &[PathBuf]) -> Output {
    Command::new(program).args(logs).output().unwrap()
}

#[test]
fn fold_prints_the_stop_with_its_bounds_and_its_parts() {
    let output = run(
        env!("CARGO_BIN_EXE_fold"),
        &["logs/vcpus", "merged/precopy-7.2/source"].map(|name| tests().join(format!("{name}.jsonl"))),
    );
    assert!(output.status.success() && output.stderr.is_empty());
    let printed = text(output.stdout);
    let wanted = "  stop 36.8 ms (at least 36.8 ms, at most 37.9 ms), by vcpus
    drain at the source: 1.3 ms (at least 1.2 ms, at most 2.4 ms)
    switchover at the source: 35.0 ms (at least 35.0 ms, at most 35.1 ms)
    start at the destination: 500.0 µs (at least 450.0 µs, at most 530.1 µs)
  not measured: the bytes of some parts of the stop:";
    assert!(printed.contains(wanted), "{printed}");
    assert!(printed.contains("; nothing bounds it from above), by "), "{printed}");
}

#[test]
fn merge_prints_the_record_of_both_hosts_and_how_well_their_clocks_are_known() {
    let folder = tests().join("merged/observed-7.2");
    let output = run(
        env!("CARGO_BIN_EXE_merge"),
        &["source", "destination", "observer"].map(|host| folder.join(format!("{host}.jsonl"))),
    );
    assert!(output.status.success());
    let record: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected: Value = serde_json::from_slice(&fs::read(folder.join("record.json")).unwrap()).unwrap();
    assert_eq!(record, expected);
    let clocks = text(output.stderr);
    assert_eq!(clocks.lines().count(), 3, "{clocks}");
    assert_eq!(clocks.matches("its clock is the record's").count(), 1, "{clocks}");
    assert_eq!(clocks.matches("its clock is known to within ").count(), 2, "{clocks}");
}

#[test]
fn logs_of_two_migrations_are_refused_by_name() {
    let logs = ["precopy-7.2/source", "postcopy-7.2/destination"]
        .map(|log| tests().join(format!("merged/{log}.jsonl")));
    let output = run(env!("CARGO_BIN_EXE_merge"), &logs);
    let error = text(output.stderr);
    assert!(!output.status.success() && output.stdout.is_empty());
    assert!(error.contains("does not belong to the others"), "{error}");
}

/// What such a program is spared.
#[test]
fn nothing_that_observes_a_host_is_among_the_dependencies() {
    let packages = |features: &[&str]| -> Vec<String> {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args([
            "tree",
            "--offline",
            "--package",
            "migtrace",
            "--edges",
            "normal,build",
            "--prefix",
            "none",
        ]);
        let output = cargo.args(features).current_dir(tests()).output().unwrap();
        assert!(output.status.success(), "{}", text(output.stderr));
        let mut names: Vec<_> =
            text(output.stdout).lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
        names.sort();
        names.dedup();
        names
    };
    let observing =
        ["aya", "aya-build", "migtrace-toolchain", "nix", "tokio", "clap", "netlink-sys"].map(str::to_owned);
    let all = packages(&[]);
    assert!(observing.iter().all(|package| all.contains(package)), "{all:?}");
    let few = packages(&["--no-default-features"]);
    assert!(!observing.iter().any(|package| few.contains(package)), "{few:?}");
    assert!(few.len() * 3 < all.len(), "{} of {}", few.len(), all.len());
}
