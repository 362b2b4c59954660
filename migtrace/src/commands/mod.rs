//! The subcommands, one module each, and what they share.

mod cleanup;
mod doctor;
mod generate;
mod memory;
mod merge;
mod names;
#[cfg(feature = "otlp")]
mod otlp;
mod output;
mod probe;
mod progress;
mod record;
mod report;
mod signals;
mod study;
mod watch;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use migtrace::errors::with_causes;
use migtrace::host::capabilities::{self, Capabilities, Capability};
use tokio::runtime::Runtime;

use self::signals::Signals;
use crate::cli::{Cli, Command};

/// How the command ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Exit {
    Done,
    CouldNot,
    /// The migration failed or was cancelled, or the recording was interrupted.
    MigrationDidNotComplete,
    /// A probe was interrupted before the end that was set.
    ProbeInterrupted,
    /// A study was interrupted, and can go on.
    StudyInterrupted,
    /// A limit cannot be shown to have been met.
    LimitNotMet,
    /// `doctor` found that something cannot be measured on this host, or less precisely.
    Lacking,
    /// `doctor` found that nothing can be measured on this host.
    Unusable,
    /// Some runs of a study have failed for good.
    RunsFailed,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::CouldNot => 1,
            // 2 is clap's, for wrong usage.
            Exit::MigrationDidNotComplete | Exit::ProbeInterrupted | Exit::StudyInterrupted => 3,
            Exit::LimitNotMet => 4,
            Exit::Lacking => 5,
            Exit::Unusable => 6,
            Exit::RunsFailed => 7,
        })
    }
}

/// An error with its causes, on one line.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    with_causes(&**error)
}

/// The asynchronous runtime of a command.
fn runtime() -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the asynchronous runtime")
}

/// The runtime of a command that ends cleanly when a signal comes.
fn runtime_that_catches(catch: impl FnOnce() -> Result<Signals>) -> Result<(Runtime, Signals)> {
    let runtime = runtime()?;
    let signals = {
        let _entered = runtime.enter();
        catch()?
    };
    Ok((runtime, signals))
}

/// Checks that this process holds the capabilities. The error says how to get them.
fn check_privileges(needed: &[Capability]) -> Result<()> {
    let held = Capabilities::read().context("cannot read this process' capabilities")?;
    match capabilities::advice(&held.missing(needed)) {
        Some(advice) => bail!("{advice}"),
        None => Ok(()),
    }
}

/// Runs the subcommand.
pub(crate) fn run(cli: Cli) -> Result<Exit> {
    memory::keep_large_blocks_apart();
    match cli.command {
        Command::Record(options) => record::run(&options),
        Command::Watch(options) => watch::run(&options),
        Command::Probe(options) => probe::run(&options),
        Command::Report(options) => report::run(&options),
        Command::Merge(options) => merge::run(&options),
        Command::Study(command) => study::run(&command),
        Command::Doctor(options) => doctor::run(&options),
        Command::Cleanup => cleanup::run(),
        Command::Generate(options) => generate::run(&options),
        Command::Serve(options) => record::serve::run(&options),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open it: {source}")]
    struct OpenError {
        source: io::Error,
    }

    #[test]
    fn each_cause_is_given_once() {
        let source = io::Error::from_raw_os_error(2);
        let words = source.to_string();
        let error = anyhow::Error::new(OpenError { source }).context("no record");
        assert_eq!(explain(&error), format!("no record: cannot open it: {words}"));
    }
}
