//! One file a subcommand.

mod cleanup;
mod destination;
mod doctor;
mod probe;
mod progress;
mod record;
mod report;

use std::process::ExitCode;

use anyhow::Result;

use crate::cli::{Cli, Command};

/// How the command ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    Done,
    CouldNot,
    /// Two, as for wrong usage: `doctor` found that nothing can be measured.
    Unusable,
    /// The migration failed, was cancelled, or the recording was interrupted.
    MigrationDidNotComplete,
    /// A probe was interrupted before its end.
    ProbeInterrupted,
    LimitExceeded,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::CouldNot => 1,
            Exit::Unusable => 2,
            Exit::MigrationDidNotComplete | Exit::ProbeInterrupted => 3,
            Exit::LimitExceeded => 4,
        })
    }
}

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> Result<Exit> {
    match cli.command {
        Command::Record(options) => record::run(&options),
        Command::Probe(options) => probe::run(&options),
        Command::Report(options) => report::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Cleanup => cleanup::run(),
    }
}
