//! `cargo xtask demo`: a real live migration in the lab, traced on both hosts and on an observer, up to the report.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::prerequisites::{self, Group};
use crate::{paths, setup};

#[derive(Args)]
pub(crate) struct Options {
    /// Memory of the guest
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u64,
    /// Memory that the guest keeps writing to during the migration
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    dirty: u64,
    /// How fast the guest writes to it
    #[arg(long, value_name = "MIB/S", default_value_t = 20)]
    dirty_rate: u64,
    /// Bandwidth between the hosts, in the units of tc
    #[arg(long, value_name = "RATE", default_value = "400mbit")]
    rate: String,
}

/// Sets up, builds, migrates once under load, and prints the report. The record, the event log of each host and the report, as
/// text and as a page, stay in `target/demo`.
///
/// # Errors
/// When the machine lacks something, or the migration or the recording fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !prerequisites::is_root() {
        bail!("the demo creates network namespaces and loads programs into the kernel: run it as root");
    }
    setup::ensure(&[Group::Build, Group::Lab])?;
    let mut build = paths::cargo();
    build.args(["build", "--release", "--package", "migtrace", "--package", "migtrace-lab", "--bins"]);
    if !build.status().context("cannot run cargo build")?.success() {
        bail!("migtrace and its lab do not build; see cargo's messages above");
    }

    let directory = paths::target().join("demo");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    // What an earlier demo left must not be mistaken for the outcome of this one.
    fs::remove_dir_all(&directory).with_context(|| format!("cannot empty {}", directory.display()))?;
    fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let [record, events, report, page] =
        ["record.json", "events", "report.txt", "report.html"].map(|file| directory.join(file));

    let release = paths::target().join("release");
    let mut lab = Command::new(release.join("migtrace-lab"));
    lab.current_dir(paths::root()).arg("run");
    lab.args(["--memory", &options.memory.to_string(), "--dirty", &options.dirty.to_string()]);
    lab.args(["--dirty-rate", &options.dirty_rate.to_string(), "--rate", &options.rate]);
    lab.args(["--like-libvirt", "--ready-line", "ready", "--"]);
    // The lab passes the guest's address, the monitor that migtrace may ask for QEMU's own figures, and how to reach the other
    // hosts, as ssh would.
    let passed = r#"exec "$@" --probe "$LAB_GUEST_ADDRESS" --qmp "$LAB_QMP" --rsh "$LAB_RSH""#;
    lab.args(["sh", "-c", passed, "sh"]);
    lab.arg(release.join("migtrace")).args(["record", "--peer", "dst", "--peer", "observer"]);
    lab.arg("--output").arg(&record).arg("--events").arg(&events);
    let status = lab.status().with_context(|| format!("cannot run {lab:?}"))?;

    if record.exists() {
        let text = reported(&record, &["--output", "-"])?;
        fs::write(&report, &text).with_context(|| format!("cannot write {}", report.display()))?;
        reported(&record, &["--output", &page.to_string_lossy()])?;
        println!();
        io::stdout().write_all(&text).context("cannot write to stdout")?;
    }
    if !status.success() {
        bail!("the demo did not complete: the lab ended with {status}; see its messages above");
    }
    eprintln!(
        "\nThis report: {}\nas a page:   {}\nthe record:  {}\nthe events:  {}",
        report.display(),
        page.display(),
        record.display(),
        events.display()
    );
    Ok(())
}

/// What `migtrace report` says of a record.
fn reported(record: &Path, options: &[&str]) -> Result<Vec<u8>> {
    let mut command = Command::new(paths::target().join("release").join("migtrace"));
    let shown = command.arg("report").arg(record).args(options).stderr(Stdio::inherit()).output();
    let shown = shown.context("cannot run migtrace report")?;
    if !shown.status.success() {
        bail!("migtrace report ended with {}; the record is {}", shown.status, record.display());
    }
    Ok(shown.stdout)
}
