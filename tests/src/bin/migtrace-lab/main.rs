//! `migtrace-lab`: play with live migrations on one machine.

mod cli;
mod commands;
mod load;

use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    match commands::run(cli::Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("migtrace-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
