//! `cargo xtask bench`: builds what is measured and what measures, then measures.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::prerequisites::{self, Group};
use crate::{paths, setup};

/// How often the guest falls silent in each of the two ways.
const SILENCES: u32 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// What migtrace costs and how exactly it counts bytes, compared with tcpdump and iftop
    Costs,
    /// How exactly it measures the time in which a guest does not answer, compared with ping and fping; and the stop
    /// of a migration, compared with QEMU's own figure and libvirt's
    Downtime,
    /// Only the stops of migrations
    Migrations,
    /// What `migtrace watch` holds while a guest goes there and back for a long time
    Watch,
    /// What it takes to merge all logs of a fleet, and to ask its records
    Fleet,
}

#[derive(Args)]
pub(crate) struct Options {
    /// What to measure
    #[arg(value_enum, default_value_t = What::Costs)]
    what: What,
    /// How often each tool is compared with running none
    #[arg(long, value_name = "NUMBER", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How often the guest of `watch` moves
    #[arg(long, value_name = "NUMBER", default_value_t = 300, value_parser = clap::value_parser!(u32).range(10..))]
    moves: u32,
    /// With `fleet`: how many migrations
    #[arg(long, value_name = "NUMBER", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    migrations: u32,
    /// With `fleet`: the number from which the fleet is made; the same number makes the same logs
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// With `fleet`: keep the logs and records in this directory
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Also write the figures to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Sets up, builds and measures; prints the tables to standard output. Takes up to ten minutes after the build.
///
/// # Errors
/// When the machine lacks something, or a measurement fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let needs_lab = options.what != What::Fleet;
    if needs_lab && !prerequisites::is_root() {
        bail!("the benchmark creates network namespaces and loads programs into the kernel: run it as root");
    }
    let groups = [Group::Build, if needs_lab { Group::Lab } else { Group::Test }];
    setup::ensure(&groups)?;
    let mut build = paths::cargo();
    build.args(["build", "--release", "--package", "migtrace", "--bin", "migtrace"]);
    build.args(["--package", "xtask", "--example", "bench"]);
    if !build.status().context("cannot run cargo build")?.success() {
        bail!("migtrace and its benchmark do not build; see cargo's messages above");
    }
    let release = paths::target().join("release");
    let mut bench = Command::new(release.join("examples/bench"));
    bench.arg("--migtrace").arg(release.join("migtrace")).args(["--rounds", &options.rounds.to_string()]);
    match options.what {
        What::Costs => {}
        What::Downtime => _ = bench.args(["--silences", &SILENCES.to_string()]),
        What::Migrations => _ = bench.arg("--migrations"),
        What::Watch => _ = bench.args(["--watch", &options.moves.to_string()]),
        What::Fleet => {
            bench.args(["--fleet", &options.migrations.to_string(), "--seed", &options.seed.to_string()]);
            bench.args(options.directory.iter().flat_map(|path| ["--directory".as_ref(), path.as_os_str()]));
        }
    }
    bench.env("MIGTRACE_BIN", release.join("migtrace"));
    // Debian installs iftop in /usr/sbin, which root's PATH may lack without a login.
    let path = env::var("PATH").unwrap_or_default();
    bench.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    if let Some(file) = &options.json {
        bench.arg("--json").arg(file);
    }
    let status = bench.status().with_context(|| format!("cannot run {bench:?}"))?;
    if !status.success() {
        bail!("the benchmark ended with {status}; see its messages above");
    }
    Ok(())
}
