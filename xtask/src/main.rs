//! Everything a person does to this repository, as `cargo xtask COMMAND`.

mod apt;
mod bench;
mod demo;
mod fuzz;
mod paths;
mod picture;
mod prerequisites;
mod progress;
#[cfg(test)]
mod rules;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "What a person does to this repository")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the other commands need and this machine lacks (they do this themselves)
    Setup,
    /// Check the format, the lints and the documentation, then run every test
    Test(test::Options),
    /// Run a real live migration in the lab, trace it, and print the report
    Demo(demo::Options),
    /// Measure what migtrace costs and how exact it is, beside the tools that people use instead
    Bench(bench::Options),
    /// Draw the first part of a report as `docs/report.svg`
    Picture(picture::Options),
    /// Look for event logs, records and lines of QMP that break migtrace
    Fuzz(fuzz::Options),
    /// Boot Debian kernels in a virtual machine, and run there the tests that need kprobes, KVM and other devices
    Vm(vm::Options),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup => setup::run(),
        Command::Test(options) => test::run(&options),
        Command::Demo(options) => demo::run(&options),
        Command::Bench(options) => bench::run(&options),
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
