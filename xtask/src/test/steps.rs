//! The steps of `cargo xtask test`, and the commands of each.

use std::env;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use migtrace_toolchain::Toolchain;

use super::Options;
use crate::{builds, paths, vm};

/// A step, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Step {
    Setup,
    Format,
    Lints,
    EbpfLints,
    Documentation,
    UnitTests,
    Examples,
    Lab,
    Kernels,
    Packages,
}

/// Patterns of the names of integration tests: every name that does not begin with `la`, as only `lab` does.
const ALL_BUT_THE_LAB: [&str; 2] = ["[!l]*", "l[!a]*"];

/// Tests in the lab that run beside the others. Most wait for guests and timers, and these take as long as all others.
const BESIDE_THE_OTHERS: [&str; 7] =
    ["lab_itself::", "libvirt::", "long_run::", "peers", "probe::", "reachability::", "study::"];

/// Tests that take longer than everything else that needs no root: the fast set leaves them out.
const SLOW_TESTS: [&str; 2] = [
    "a_long_log_is_replayed_in_little_time_and_memory",
    "a_log_four_times_as_long_takes_at_most_eight_times_as_long",
];
/// How many cases the fast set takes of each property (proptest's default is 256).
const FAST_PROPERTY_CASES: &str = "64";

/// A package that takes the library without the eBPF programs: this checks the library without them, too.
const WITHOUT_THE_PROGRAMS: [&str; 2] = ["--package", "migtrace-logs"];

/// The examples that need no root, as tests of themselves or run on canned logs.
const EXAMPLES: [&str; 7] =
    ["--workspace", "--example", "attributes", "--example", "watch", "--test", "logs"];

impl Step {
    pub(super) const ALL: [Self; 10] = [
        Self::Setup,
        Self::Format,
        Self::Lints,
        Self::EbpfLints,
        Self::Documentation,
        Self::UnitTests,
        Self::Examples,
        Self::Lab,
        Self::Kernels,
        Self::Packages,
    ];
    pub(super) const FAST: [Self; 6] =
        [Self::Setup, Self::Format, Self::Lints, Self::EbpfLints, Self::Documentation, Self::UnitTests];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Format => "format",
            Self::Lints => "lints",
            Self::EbpfLints => "lints of the eBPF programs",
            Self::Documentation => "documentation",
            Self::UnitTests => "unit tests",
            Self::Examples => "examples of the library",
            Self::Lab => "tests in the lab",
            Self::Kernels => "tests on other kernels",
            Self::Packages => "installation of the packages",
        }
    }

    /// How long it took in a fresh clone, on two cores.
    pub(super) const fn typical(self) -> Duration {
        Duration::from_secs(match self {
            Self::Setup => 3,
            Self::Format => 1,
            Self::Lints => 115,
            Self::EbpfLints => 40,
            Self::Documentation => 60,
            Self::UnitTests => 240,
            Self::Examples => 8,
            Self::Lab => 620,
            Self::Kernels => 280,
            Self::Packages => 60,
        })
    }

    /// What it runs: commands side by side, and such lists one after the other. [`Step::Setup`] runs no command.
    ///
    /// # Errors
    /// When there is no toolchain for the eBPF target.
    pub(super) fn commands(self, options: &Options) -> Result<Vec<Vec<Command>>> {
        let filter = options.filter.as_deref();
        let one = |command| vec![vec![command]];
        Ok(match self {
            Self::Setup => Vec::new(),
            Self::Format => one(cargo(&["fmt", "--all", "--check"])),
            Self::Lints => vec![
                vec![lints(&["--workspace", "--all-targets"], paths::cargo())],
                vec![lints(&WITHOUT_THE_PROGRAMS, paths::cargo())],
            ],
            Self::EbpfLints => one(ebpf_lints()?),
            Self::Documentation => one(documentation()),
            Self::UnitTests => one(unit_tests(options)),
            Self::Examples => {
                vec![vec![test(&["--workspace", "--doc"], filter, &[])], vec![test(&EXAMPLES, filter, &[])]]
            }
            // The tests run the command.
            Self::Lab => vec![vec![builds::command_under_test()], lab_tests(filter)],
            Self::Kernels => one(other_kernels(filter)),
            // They are no tests that a name could choose.
            Self::Packages if filter.is_some() => Vec::new(),
            Self::Packages => one(cargo(&["xtask", "vm", "--packages"])),
        })
    }
}

fn cargo(arguments: &[&str]) -> Command {
    let mut cargo = paths::cargo();
    cargo.args(arguments);
    cargo
}

fn lints(selection: &[&str], mut cargo: Command) -> Command {
    cargo.arg("clippy").args(selection).args(["--", "-D", "warnings"]);
    cargo
}

/// The programs as the kernel gets them: for the eBPF target, with the compiler that builds them.
fn ebpf_lints() -> Result<Command> {
    let toolchain =
        Toolchain::find().map_err(anyhow::Error::msg).context("no toolchain for the eBPF target")?;
    let mut cargo = toolchain.command("cargo");
    cargo.current_dir(paths::root());
    // What aya-build passes, so that the same code is checked.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH));
    cargo.env("CARGO_TARGET_DIR", paths::target().join("ebpf-lints"));
    let selection = ["--package", "migtrace-ebpf", "--lib", "--bins"];
    let build_core = ["--target", "bpfel-unknown-none", "-Zbuild-std=core"];
    Ok(lints(&[&selection[..], &build_core[..]].concat(), cargo))
}

fn documentation() -> Command {
    let mut cargo = cargo(&["doc", "--no-deps", "--workspace"]);
    cargo.env("RUSTDOCFLAGS", "-D warnings");
    cargo
}

/// The tests in the lab, in two processes: each has a lab of its own, and runs its tests one after the other.
fn lab_tests(filter: Option<&str>) -> Vec<Command> {
    let lab = |filter, arguments: &[&str]| {
        test(&["--workspace", "--test", "lab"], filter, &[&["--test-threads=1"], arguments].concat())
    };
    if filter.is_some() {
        return vec![lab(filter, &[])];
    }
    let skips = BESIDE_THE_OTHERS.map(|tests| ["--skip", tests]).concat();
    vec![lab(None, &skips), lab(None, &BESIDE_THE_OTHERS)]
}

/// All tests but those in the lab. Every step selects from the tests of the whole workspace: a part of it would ask for
/// other features of the dependencies, and cargo would build them again.
fn unit_tests(options: &Options) -> Command {
    let filter = options.filter.as_deref();
    let mut selection = vec!["--workspace", "--lib", "--bins", "--examples"];
    selection.extend(ALL_BUT_THE_LAB.iter().flat_map(|names| ["--test", *names]));
    if !options.fast {
        return test(&selection, filter, &[]);
    }
    let skips = SLOW_TESTS.map(|name| ["--skip", name]).concat();
    let mut tests = test(&selection, filter, &skips);
    tests.env("PROPTEST_CASES", FAST_PROPERTY_CASES);
    tests
}

/// Runs `cargo xtask vm` by cargo and not by this program's own file: an earlier step has built another in its place, with
/// the features of the whole workspace.
fn other_kernels(filter: Option<&str>) -> Command {
    let mut command = cargo(&["xtask", "vm"]);
    for series in vm::KERNELS_OF_EVERY_TEST {
        command.args(["--kernel", series]);
    }
    if let Some(filter) = filter {
        command.args(["--filter", filter]);
    }
    command
}

fn test(selection: &[&str], filter: Option<&str>, arguments: &[&str]) -> Command {
    let mut cargo = cargo(&["test"]);
    cargo.args(selection).args(filter);
    if !arguments.is_empty() {
        cargo.arg("--").args(arguments);
    }
    cargo
}

#[cfg(test)]
mod tests {
    use super::super::as_typed;
    use super::*;
    use crate::rules;

    #[test]
    fn the_filter_and_the_arguments_of_the_tests_are_kept_apart() {
        let typed = as_typed(&test(&["--package", "x"], Some("name"), &["--test-threads=1"]));
        assert!(typed.ends_with("test --package x name -- --test-threads=1"), "{typed}");
    }

    #[test]
    fn the_fast_set_is_a_part_of_the_whole_set_in_the_same_order() {
        let fast: Vec<_> = Step::ALL.into_iter().filter(|step| Step::FAST.contains(step)).collect();
        assert_eq!(fast, Step::FAST);
    }

    #[test]
    fn every_integration_test_but_the_lab_is_a_unit_test() {
        let mut cargo = paths::cargo();
        cargo.args(["metadata", "--no-deps", "--format-version=1"]);
        let metadata: serde_json::Value = serde_json::from_slice(&cargo.output().unwrap().stdout).unwrap();
        let packages = metadata["packages"].as_array().unwrap().iter();
        let targets = packages.flat_map(|package| package["targets"].as_array().unwrap());
        let tests = targets
            .filter(|target| target["kind"][0] == "test")
            .map(|target| target["name"].as_str().unwrap());
        let missed: Vec<_> = tests.filter(|name| name.starts_with("la")).collect();
        assert_eq!(missed, ["lab"]);
    }

    #[test]
    fn every_test_that_the_fast_set_leaves_out_exists() {
        rules::assert_tests_exist(&SLOW_TESTS);
    }
}
