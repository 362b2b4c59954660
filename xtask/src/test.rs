//! `cargo xtask test`: every check and every test, one step after the other.

use std::env;
use std::io::{self, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::prerequisites::{self, Group};
use crate::{paths, setup, vm};
use migtrace_toolchain::Toolchain;

#[derive(Args)]
pub(crate) struct Options {
    /// Leave out the tests that need root, and what only they need
    #[arg(long)]
    fast: bool,
    /// Run only the tests whose name contains this
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
}

/// A step: its name and its commands.
struct Step {
    name: &'static str,
    commands: Vec<Command>,
}

/// Sets up, checks and tests; stops at the first step that fails.
///
/// # Errors
/// When the machine lacks something, or a step fails: names the step.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !options.fast && !prerequisites::is_root() {
        bail!(
            "most tests put programs into the kernel: run this as root, or with --fast for those that do not"
        );
    }
    let started = Instant::now();
    let groups: &[_] =
        if options.fast { &[Group::Build, Group::Lint] } else { &[Group::Build, Group::Lint, Group::Lab] };
    setup::ensure(groups)?;
    let mut durations = vec![("setup", started.elapsed())];

    let mut failure = None;
    for Step { name, commands } in steps(options)? {
        println!("\n== {name}");
        let step_started = Instant::now();
        let outcome = commands.into_iter().try_for_each(|command| execute(name, command));
        let duration = step_started.elapsed();
        println!("== {name}: {} ({})", if outcome.is_ok() { "ok" } else { "FAILED" }, seconds(duration));
        durations.push((name, duration));
        if let Err(error) = outcome {
            failure = Some(error);
            break;
        }
    }

    println!("\n== summary");
    let last = durations.len() - 1;
    for (index, (name, duration)) in durations.iter().enumerate() {
        let outcome = if failure.is_some() && index == last { "FAILED" } else { "ok" };
        println!("{name:<30} {outcome:<6} {:>10}", seconds(*duration));
    }
    println!("{:<30} {:<6} {:>10}", "total", "", seconds(started.elapsed()));
    failure.map_or(Ok(()), Err)
}

fn steps(options: &Options) -> Result<Vec<Step>> {
    let filter = options.filter.as_deref();
    let mut steps = vec![
        Step { name: "format", commands: vec![cargo(&["fmt", "--all", "--check"]), fuzz_format()] },
        Step { name: "lints", commands: vec![lints(&["--workspace", "--all-targets"], paths::cargo())] },
        Step { name: "lints of the eBPF programs", commands: vec![ebpf_lints()?] },
        Step { name: "documentation", commands: vec![documentation()] },
        Step { name: "unit tests", commands: unit_tests(options) },
    ];
    if !options.fast {
        let tests = ["--package", "migtrace-tests", "--tests"];
        steps.push(Step { name: "the command", commands: vec![cargo(&["build", "--package", "migtrace"])] });
        steps.push(Step {
            name: "tests in the lab",
            commands: vec![test(&tests, filter, &["--test-threads=1"])],
        });
    }
    steps.push(Step {
        name: "examples in the documentation",
        commands: vec![test(&["--workspace", "--doc"], filter, &[])],
    });
    if !options.fast {
        steps.push(Step { name: "tests on other kernels", commands: vec![other_kernels(filter)?] });
    }
    Ok(steps)
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
    // What aya-build passes, so that the same code is looked at.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH));
    let target_directory = paths::target().join("ebpf-lints");
    cargo.env("CARGO_TARGET_DIR", target_directory);
    let selection = ["--package", "migtrace-ebpf", "--lib", "--bins"];
    let build_core = ["--target", "bpfel-unknown-none", "-Zbuild-std=core"];
    Ok(lints(&[&selection[..], &build_core[..]].concat(), cargo))
}

/// The fuzz targets are a workspace of their own.
fn fuzz_format() -> Command {
    cargo(&["fmt", "--manifest-path", "migtrace/fuzz/Cargo.toml", "--check"])
}

fn documentation() -> Command {
    let mut cargo = cargo(&["doc", "--no-deps", "--workspace"]);
    cargo.env("RUSTDOCFLAGS", "-D warnings");
    cargo
}

/// `cargo xtask vm`: this very program.
fn other_kernels(filter: Option<&str>) -> Result<Command> {
    let mut command = Command::new(env::current_exe().context("cannot tell where this program is")?);
    command.current_dir(paths::root()).arg("vm");
    for series in vm::KERNELS_OF_EVERY_TEST {
        command.args(["--kernel", series]);
    }
    if let Some(filter) = filter {
        command.args(["--filter", filter]);
    }
    Ok(command)
}

fn unit_tests(options: &Options) -> Vec<Command> {
    let filter = options.filter.as_deref();
    let packages = ["migtrace", "migtrace-ebpf", "migtrace-guest", "xtask"];
    let all_targets = [&packages.map(|name| ["--package", name]).concat()[..], &["--all-targets"]].concat();
    let mut tests = vec![test(&all_targets, filter, &[])];
    if options.fast {
        // Else they run with the other tests of that package.
        tests.push(test(&["--package", "migtrace-tests", "--lib"], filter, &[]));
    }
    tests
}

fn test(selection: &[&str], filter: Option<&str>, arguments: &[&str]) -> Command {
    let mut cargo = cargo(&["test"]);
    cargo.args(selection).args(filter);
    if !arguments.is_empty() {
        cargo.arg("--").args(arguments);
    }
    cargo
}

fn execute(step: &str, mut command: Command) -> Result<()> {
    println!("$ {}", shown(&command));
    io::stdout().flush().context("cannot write to stdout")?;
    let status = command.status().with_context(|| format!("{step}: cannot run {}", shown(&command)))?;
    if !status.success() {
        bail!("the step \"{step}\" failed: `{}` ended with {status}", shown(&command));
    }
    Ok(())
}

/// The command as a person types it.
fn shown(command: &Command) -> String {
    let environment = command.get_envs().filter_map(|(key, value)| {
        let (key, value) = (key.to_string_lossy(), value?.to_string_lossy());
        let quote = if value.contains([' ', '"']) { "'" } else { "" };
        Some(format!("{key}={quote}{value}{quote}"))
    });
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    environment.chain([program]).chain(arguments).collect::<Vec<_>>().join(" ")
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_so_that_it_can_be_typed() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["doc", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings").env_remove("RUSTC");
        assert_eq!(shown(&command), "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps");
    }

    #[test]
    fn the_filter_and_the_arguments_of_the_tests_are_kept_apart() {
        let command = test(&["--package", "x"], Some("name"), &["--test-threads=1"]);
        assert!(
            shown(&command).ends_with("test --package x name -- --test-threads=1"),
            "{}",
            shown(&command)
        );
    }
}
