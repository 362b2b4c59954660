//! The `migtrace` command.

mod cli;
mod commands;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match commands::run(cli::Cli::parse()) {
        Ok(code) => code.into(),
        Err(error) => {
            eprintln!("migtrace: {}", commands::explain(&error));
            commands::Exit::CouldNot.into()
        }
    }
}
