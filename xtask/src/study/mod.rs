//! `cargo xtask study`: the study of live migrations of 2014, repeated in the lab.

mod about;
mod flavours;
mod plan;

use std::env;
use std::ffi::c_int;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::sys::signal::{SigHandler, Signal, signal};

use crate::prerequisites::{self, Group};
use crate::{paths, picture, setup};
use flavours::{Flavour, Qemu, Storage};

/// What `migtrace study run` ends with when it was interrupted.
const INTERRUPTED: i32 = 3;
/// What it ends with when some runs have failed, and all others have completed.
const SOME_FAILED: i32 = 7;

#[derive(Args)]
pub(crate) struct Options {
    /// What part of the memory and the disks of 2014 the guests have
    #[arg(long, value_name = "FACTOR", default_value_t = 0.25, value_parser = scale)]
    scale: f64,
    /// How often each combination is run
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repetitions: u32,
    /// Only these flavours [default: all]
    #[arg(long, value_name = "FLAVOUR", value_enum, value_delimiter = ',')]
    only: Vec<Flavour>,
    /// Where the guests' disks are
    #[arg(long, value_enum, value_delimiter = ',', default_value = "block")]
    storage: Vec<Storage>,
    /// Which QEMU runs
    #[arg(long, value_enum, default_value_t = Qemu::Backports)]
    qemu: Qemu,
    /// Where the plan, the runs and the answer go [default: target/study]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl Options {
    /// The flavours to run, from small to large.
    fn flavours(&self) -> impl Iterator<Item = Flavour> + '_ {
        let wanted = |flavour: &Flavour| self.only.is_empty() || self.only.contains(flavour);
        Flavour::ALL.into_iter().filter(wanted)
    }
}

/// A factor by which guests are made smaller.
fn scale(text: &str) -> Result<f64, String> {
    let factor: Option<f64> = text.parse().ok();
    factor
        .filter(|factor| *factor > 0.0 && *factor <= 1.0)
        .ok_or_else(|| "not above 0 and up to 1".to_owned())
}

/// Sets up, builds, runs what is still missing of the study, and prints and keeps the answer.
///
/// # Errors
/// When the machine lacks something, or a run fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !prerequisites::is_root() {
        bail!("the study creates network namespaces and loads programs into the kernel: run it as root");
    }
    let plan = plan::plan(options)?;
    about::check_memory(plan::most_memory_mib(options)?)?;
    setup::ensure(&[Group::Build, Group::Lab])?;
    build()?;

    let directory = options.output.clone().unwrap_or_else(|| paths::target().join("study"));
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let [plan_file, study] = ["plan.toml", "study"].map(|name| directory.join(name));
    fs::write(&plan_file, plan).with_context(|| format!("cannot write {}", plan_file.display()))?;
    about::keep(&directory.join("about.json"), options)?;

    let mut run = migtrace()?;
    run.args(["study", "run"]).arg(&plan_file).arg("--output").arg(&study);
    outlive_ctrl_c()?;
    let ran = run.status().with_context(|| format!("cannot run {run:?}"))?;
    match ran.code() {
        Some(0 | SOME_FAILED) => report(&study, &directory)?,
        Some(INTERRUPTED) => bail!("interrupted; the same `cargo xtask study` goes on"),
        _ => bail!("the study did not end: migtrace ended with {ran}; see its messages above"),
    }
    if !ran.success() {
        bail!("some runs have failed; see above");
    }
    Ok(())
}

/// Ctrl-C reaches migtrace too, which cleans up before it ends. This program waits for that.
fn outlive_ctrl_c() -> Result<()> {
    extern "C" fn do_nothing(_signal: c_int) {}
    // SAFETY: the handler does nothing. A signal with a handler, unlike one that is ignored, has its default effect in children.
    unsafe { signal(Signal::SIGINT, SigHandler::Handler(do_nothing)) }.context("cannot handle Ctrl-C")?;
    Ok(())
}

fn build() -> Result<()> {
    let mut build = paths::cargo();
    build.args(["build", "--release", "--package", "migtrace", "--package", "migtrace-lab", "--bins"]);
    if !build.status().context("cannot run cargo build")?.success() {
        bail!("migtrace and its lab do not build; see cargo's messages above");
    }
    Ok(())
}

/// The built migtrace. The commands of the plan find it, and `migtrace-lab` beside it.
fn migtrace() -> Result<Command> {
    let release = paths::target().join("release");
    let path = env::var_os("PATH").unwrap_or_default();
    let path = [release.clone()].into_iter().chain(env::split_paths(&path));
    let mut command = Command::new(release.join("migtrace"));
    command.env("PATH", env::join_paths(path).context("PATH is damaged")?);
    Ok(command)
}

/// Prints the answer, and keeps it in every form.
fn report(study: &Path, directory: &Path) -> Result<()> {
    for (format, file) in [("csv", "answer.csv"), ("json", "answer.json"), ("html", "answer.html")] {
        let file = directory.join(file);
        let mut report = migtrace()?;
        report.args(["study", "report"]).arg(study).args(["--format", format, "--output"]).arg(&file);
        let status = report.status().with_context(|| format!("cannot run {report:?}"))?;
        expect_success(status)?;
    }
    picture::of_study(&directory.join("answer.json"), &directory.join("answer.svg"))?;
    let text = directory.join("answer.txt");
    let file = File::create(&text).with_context(|| format!("cannot write {}", text.display()))?;
    let mut report = migtrace()?;
    report.args(["study", "report"]).arg(study);
    expect_success(report.stdout(file).status()?)?;
    println!();
    print!("{}", fs::read_to_string(&text).with_context(|| format!("cannot read {}", text.display()))?);
    eprintln!("\nThe plan, the runs and the answer: {}", directory.display());
    Ok(())
}

fn expect_success(status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("migtrace study report ended with {status}; see its message above");
    }
    Ok(())
}
