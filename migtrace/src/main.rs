//! The `migtrace` command.

// These macros panic on a closed pipe; `streams` does not.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod cli;
mod commands;
mod streams;

use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(instead) => return cli::show(&instead),
    };
    match commands::run(cli) {
        Ok(code) => code.into(),
        Err(error) => {
            streams::say(&format!("migtrace: {}", commands::explain(&error)));
            commands::Exit::CouldNot.into()
        }
    }
}
