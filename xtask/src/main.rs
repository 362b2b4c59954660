//! Everything a person does to this repository, as `cargo xtask COMMAND`.

mod apt;
mod bench;
mod builds;
mod demo;
mod dist;
mod fuzz;
mod paths;
mod picture;
mod prerequisites;
mod progress;
#[cfg(test)]
mod rules;
mod setup;
mod study;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Set up, test, measure and demonstrate migtrace"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what this machine lacks (every other command installs what it needs itself)
    Setup,
    /// Check format, lints and documentation, and run every test
    Test(test::Options),
    /// Trace a real live migration in the lab, and print the report
    Demo(demo::Options),
    /// Measure what migtrace costs and how exact it is, compared with other tools
    Bench(bench::Options),
    /// Repeat a study of live migrations in the lab: five sizes of guests, unloaded and loaded
    Study(study::Options),
    /// Make the packages of a release: .deb, .rpm and a tarball
    Dist(dist::Options),
    /// Draw the first part of a report, for the README
    Picture(picture::Options),
    /// Search for inputs that break migtrace: frames, lines of QMP, event logs, records, events
    Fuzz(fuzz::Options),
    /// Test on Debian kernels in virtual machines, with kprobes, KVM and more devices
    Vm(vm::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup => setup::run(),
        Command::Test(options) => test::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Study(options) => study::run(&options),
        Command::Dist(options) => dist::run(&options),
        Command::Picture(options) => picture::run(&options),
        Command::Fuzz(options) => fuzz::run(&options),
        Command::Vm(options) => vm::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
