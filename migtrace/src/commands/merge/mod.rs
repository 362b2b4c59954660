//! `migtrace merge`: makes one record of the event logs of several hosts.

mod directory;

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use migtrace::timeline::{self, NotTogether};

use super::Exit;
#[cfg(feature = "otlp")]
use super::otlp::{Export, News};
use super::report::{Replayed, open, render, replay, say_broken, whose};
use crate::cli::MergeArgs;
use crate::streams::Stream;

pub(super) fn run(options: &MergeArgs) -> Result<Exit> {
    if let Some(directory) = &options.directory {
        return directory::run(options, directory);
    }
    #[cfg(feature = "otlp")]
    let export = Export::start(&options.otlp, News::Old)?;
    let logs = options.logs.iter().map(|log| replayed(options, log)).collect::<Result<Vec<_>>>()?;
    let (timelines, broken): (Vec<_>, Vec<_>) =
        logs.into_iter().map(|log| (log.timeline, log.broken)).unzip();
    let records = match timeline::merged(&timelines) {
        Ok(records) => records,
        Err(NotTogether { host, why, .. }) => {
            bail!("{} does not belong to the other logs: {why}", options.logs[host].display());
        }
    };
    if records.is_empty() {
        bail!("no migration{} in {}", whose(options.vm.as_ref()), names(&options.logs));
    }
    let output = open(&options.output, Stream::Output)?;
    output.write(&render(&records, options.output.format(), &options.otlp)?)?;
    let mut exit = Exit::Done;
    for (log, broken) in options.logs.iter().zip(&broken) {
        if let Some(broken) = broken {
            say_broken(log, broken);
            exit = Exit::CouldNot;
        }
    }
    #[cfg(feature = "otlp")]
    if let Some(export) = export {
        export.finish(&records)?;
    }
    Ok(exit)
}

fn replayed(options: &MergeArgs, log: &Path) -> Result<Replayed> {
    let cannot = || format!("cannot read {}", log.display());
    replay(options.vm.clone(), BufReader::new(File::open(log).with_context(cannot)?)).with_context(cannot)
}

fn names(logs: &[PathBuf]) -> String {
    logs.iter().map(|log| log.display().to_string()).collect::<Vec<_>>().join(", ")
}
