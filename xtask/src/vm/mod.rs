//! `cargo xtask vm`: runs tests on other kernels than this machine's.
//!
//! Each kernel boots under QEMU with an initramfs that has the lab, its tests and the command. The CPU is emulated, so
//! this works without KVM. It emulates AMD's virtualization too, so the lab's guests inside are KVM guests.

mod image;
mod machine;
mod packages;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use migtrace_lab::kernels;

use crate::prerequisites::Group;
use crate::{builds, paths, setup};
use image::Binaries;
use machine::{Machine, Verdict};

/// The kernels that are tested: the oldest that migtrace supports, one without TCX that has all else, and one with TCX.
const KERNELS: [&str; 3] = ["5.10", "6.1", "6.12"];
/// Those that `cargo xtask test` boots. Each takes some minutes, and the oldest is of a Debian release that may leave the
/// mirrors any day.
pub(crate) const KERNELS_OF_EVERY_TEST: [&str; 2] = ["6.1", "6.12"];

#[derive(Args)]
pub(crate) struct Options {
    /// Series of a Debian cloud kernel, of any suite; may be given again [default: 5.10, 6.1 and 6.12]
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<String>,
    /// Run only the tests whose name contains this
    #[arg(long, value_name = "NAME", conflicts_with = "shell")]
    filter: Option<String>,
    /// Install the packages in a Debian with systemd instead, upgrade them and remove them
    #[arg(long, conflicts_with_all = ["kernels", "filter", "shell"])]
    packages: bool,
    /// Open a shell inside instead of running the tests
    #[arg(long)]
    shell: bool,
    /// Show everything that the kernel writes to its console
    #[arg(long, short)]
    verbose: bool,
    /// Stop waiting for a kernel after this time
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

/// Sets up, builds, and boots the kernels.
///
/// # Errors
/// When the machine lacks something, a kernel does not boot, or a test fails there: names these kernels.
pub(crate) fn run(options: &Options) -> Result<()> {
    let directory = paths::target().join("vm");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    if options.packages {
        return packages::run(options, &directory);
    }
    setup::ensure(&[Group::Build, Group::Lab])?;
    let series: Vec<_> =
        if options.kernels.is_empty() { KERNELS.map(Into::into).into() } else { options.kernels.clone() };
    if options.shell && series.len() > 1 {
        bail!(
            "--shell opens a shell on one kernel: choose it, as in `cargo xtask vm --shell --kernel {}`",
            series[0]
        );
    }
    // Before anything that takes long: the name of a kernel may be misspelt.
    let kernels = series.iter().map(|series| kernels::fetch(series)).collect::<Result<Vec<_>>>()?;
    let binaries = build()?;
    let machines = series.iter().zip(&kernels).map(|(series, kernel)| {
        let initramfs = directory.join(format!("{series}.cpio"));
        image::write(kernel, &binaries, &initramfs)
            .with_context(|| format!("cannot make the initramfs for Linux {}", kernel.release))?;
        Ok(Machine {
            series,
            kernel,
            initramfs,
            console: directory.join(format!("{series}.log")),
            timeout: Duration::from_secs(options.timeout),
            parameters: "",
            devices: Vec::new(),
            verbose: options.verbose,
        })
    });
    let machines = machines.collect::<Result<Vec<_>>>()?;
    if let ([machine], true) = (&machines[..], options.shell) {
        return machine.shell();
    }
    let failed = test_all(&machines, options.filter.as_deref())?;
    if failed.is_empty() {
        return Ok(());
    }
    bail!("failed on Linux {}", failed.join(", "))
}

/// Runs the tests in all machines, as many side by side as there are CPUs, since each emulates one. Returns on which kernels
/// they have failed.
fn test_all<'a>(machines: &[Machine<'a>], filter: Option<&str>) -> Result<Vec<&'a str>> {
    let workers = thread::available_parallelism().context("cannot count the CPUs")?.get().min(machines.len());
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(machine) = machines.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if !passes(machine, filter) {
                        failed
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(&machine.kernel.release[..]);
                    }
                }
            });
        }
    });
    Ok(failed.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Runs the tests inside, and says how they have ended.
fn passes(machine: &Machine<'_>, filter: Option<&str>) -> bool {
    let started = Instant::now();
    machine.say(&format!("Linux {} boots", machine.kernel.release));
    let outcome = test(machine, filter);
    let seconds = started.elapsed().as_secs_f64();
    let failure = match outcome {
        Ok(Verdict::Passed) => {
            machine.say(&format!("ok ({seconds:.1} s)"));
            return true;
        }
        Ok(Verdict::Failed) => "a test failed".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    machine.say(&format!("FAILED ({seconds:.1} s): {failure}"));
    false
}

/// Runs the tests inside. If the machine does not get to their end, they run once more: emulated machines break now and
/// then, while a defect of the kernel or of ours shows again. A test that fails has failed.
fn test(machine: &Machine<'_>, filter: Option<&str>) -> Result<Verdict> {
    let init = [&["test"], filter.as_slice()].concat();
    machine.test(&init).or_else(|error| {
        machine.say(&format!("the machine broke: {error:#}; trying once more"));
        machine.test(&init)
    })
}

/// Builds the command, as the tests in the lab use it, and the tests.
fn build() -> Result<Binaries> {
    let migtrace = build_one(builds::command_under_test(), "migtrace", false)?;
    let test = |name: &str, selection: &[&str]| {
        let mut command = paths::cargo();
        command.args(["test", "--no-run", "--workspace"]).args(selection);
        build_one(command, name, true)
    };
    let kernel_tests = test("migtrace", &["--lib"])?;
    let lab_tests = test("lab", &["--test", "lab"])?;
    Ok(Binaries { migtrace, kernel_tests, lab_tests })
}

/// Runs cargo and returns the executable of the target `name`.
fn build_one(mut command: Command, name: &str, is_test: bool) -> Result<PathBuf> {
    command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("{name} does not build; see cargo's messages above");
    }
    executable(&String::from_utf8_lossy(&output.stdout), name, is_test)
        .with_context(|| format!("cargo names no executable of {name}"))
}

/// The executable of a target, from cargo's messages (one JSON object a line).
fn executable(messages: &str, name: &str, is_test: bool) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    messages
        .filter(|message| message["target"]["name"] == name && message["profile"]["test"] == is_test)
        .find_map(|message| message["executable"].as_str().map(Into::into))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_the_one_that_cargo_names() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"vm"},"profile":{"test":false},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"vm"},"profile":{"test":true},"executable":"/t/vm-1"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(executable(messages, "vm", true), Some("/t/vm-1".into()));
        assert_eq!(executable(messages, "vm", false), None);
    }
}
