//! Measures what migtrace costs and how exactly it counts, compared with other tools.
//!
//! Everything is compared within one run: times differ between machines, ratios hardly.

mod bytes;
mod counting_tools;
mod cpu_time;
mod downtime;
mod fleet;
mod idle;
mod migrations;
mod packets;
mod pinging_tools;
mod report;
mod statistics;
mod throughput;
mod traffic;
mod watch;

use std::fmt::Display;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use migtrace_lab::Lab;
use serde::Serialize;

use counting_tools::Tool;
use report::{Machine, Report};
use traffic::Receiver;

#[derive(Parser)]
struct Options {
    /// The command to measure
    #[arg(long)]
    migtrace: PathBuf,
    /// How often each tool is compared with running none
    #[arg(long)]
    rounds: u32,
    /// Measure instead how exactly gaps are measured, with this number of silences of a guest, and the stops of migrations
    #[arg(long)]
    silences: Option<u32>,
    /// Measure instead only how exactly the stops of migrations are measured
    #[arg(long)]
    migrations: bool,
    /// Measure instead what a watch holds during this number of migrations
    #[arg(long)]
    watch: Option<u32>,
    /// Measure instead what merging the logs of this number of migrations takes
    #[arg(long)]
    fleet: Option<u32>,
    /// With --fleet: from which number all that varies is made
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// With --fleet: where the logs and records go, and stay
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Also write the figures to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let result = match traffic::sender_target() {
        Some(target) => traffic::send(&target),
        None => run(&Options::parse()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    // Before minutes are spent on measuring.
    let json = match &options.json {
        Some(path) => {
            Some((path, File::create(path).with_context(|| format!("cannot write {}", path.display()))?))
        }
        None => None,
    };
    if let Some(moves) = options.watch {
        return publish(&watch::measure(moves)?, json);
    }
    if let Some(migrations) = options.fleet {
        let measured =
            fleet::measure(&options.migtrace, migrations, options.seed, options.directory.as_deref());
        return publish(&measured?, json);
    }
    match options.silences {
        _ if options.migrations => publish(&migrations::report()?, json),
        Some(number) => publish(&downtime::measure(&options.migtrace, number)?, json),
        None => publish(&costs(options)?, json),
    }
}

fn publish(report: &(impl Display + Serialize), json: Option<(&PathBuf, File)>) -> Result<()> {
    print!("{report}");
    if let Some((path, file)) = json {
        serde_json::to_writer_pretty(file, report)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn costs(options: &Options) -> Result<Report> {
    let machine = Machine::read()?;
    eprintln!("1/4 the cost of the programs for single packets");
    let packets = packets::measure()?;
    let lab = Lab::builder().without_guests().start().context("cannot make the lab")?;
    let receiver = Receiver::start(lab.destination())?;
    let migtrace = Tool::Migtrace(options.migtrace.clone());
    eprintln!("2/4 the cost of waiting for a migration (two minutes)");
    let idle = idle::measure(&lab, &migtrace)?;
    let tools = [migtrace, Tool::Tcpdump, Tool::Iftop];
    eprintln!("3/4 a stream at full rate, with and without each tool ({} rounds)", options.rounds);
    let throughput = throughput::measure(&lab, &receiver, &tools, options.rounds)?;
    eprintln!("4/4 the bytes that each tool counts, compared with those that the receiver saw");
    let bytes = bytes::measure(&lab, &receiver, &tools)?;
    Ok(Report { machine, packets, idle, throughput, bytes })
}

/// The first line of a file that the kernel writes.
fn line_of(path: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}
