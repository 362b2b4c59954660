//! `migtrace merge --directory`: the records of all event logs in a directory.
//!
//! Every file is looked at once, to find out which logs belong together; then each group of logs is read and folded by
//! itself. So memory grows with the largest group and, slowly, with the number of logs.

mod faults;
mod files;
mod outputs;

use std::io::BufReader;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use migtrace::files::open_regular;
use migtrace::fleet::{self, Summary};
use migtrace::selection::Selection;
use migtrace::timeline::{self, Merged};
use rayon::prelude::*;

use super::super::Exit;
use super::super::report::{Replayed, replay, whose};
use crate::cli::{MergeArgs, RecordFormat};
use crate::streams::say;
use faults::{Fault, Faults};
use files::Content;
use outputs::Outputs;

/// How many groups are folded before their records are written: enough that no thread waits for another for long.
const GROUPS_AT_ONCE: usize = 1_024;

pub(super) fn run(options: &MergeArgs, directory: &Path) -> Result<Exit> {
    if !matches!(options.output.format, None | Some(RecordFormat::Text | RecordFormat::Json)) {
        bail!("--directory writes JSON or text: give the records that are wanted to `migtrace report`");
    }
    let outputs = Outputs::open(options)?;
    let selection = Selection::new(options.vm.clone(), None);
    let mut faults = Faults::default();
    let logs = Logs::of(directory, &selection, &mut faults)?;
    let mut merging =
        Merging { options, logs: &logs, outputs, faults, migrations: 0, of_one_host: 0, used: 0 };
    merging.all()?;
    merging.end(directory)
}

/// The event logs of a directory.
struct Logs {
    paths: Vec<PathBuf>,
    summaries: Vec<Summary>,
}

impl Logs {
    fn of(directory: &Path, selection: &Selection, faults: &mut Faults) -> Result<Self> {
        let files = files::below(directory, faults)?;
        let contents: Vec<_> = files.par_iter().map(|file| files::content(file, selection)).collect();
        let (mut paths, mut summaries) = (Vec::new(), Vec::new());
        for (path, content) in files.into_iter().zip(contents) {
            match content {
                Content::Log(summary) => {
                    paths.push(path);
                    summaries.push(*summary);
                }
                Content::Other => {}
                Content::Fault(fault) => faults.add(&path, fault),
            }
        }
        if paths.is_empty() {
            faults.say();
            bail!("no event log in {}", directory.display());
        }
        Ok(Self { paths, summaries })
    }
}

/// What a group of logs has given.
struct Folded {
    records: Vec<Merged>,
    faults: Vec<(usize, Fault)>,
}

struct Merging<'a> {
    options: &'a MergeArgs,
    logs: &'a Logs,
    outputs: Outputs,
    faults: Faults,
    migrations: usize,
    of_one_host: usize,
    /// How many logs were folded.
    used: usize,
}

impl Merging<'_> {
    fn all(&mut self) -> Result<()> {
        let groups = fleet::groups(&self.logs.summaries);
        let mut used = vec![false; self.logs.paths.len()];
        groups.iter().flatten().for_each(|log| used[*log] = true);
        self.used = used.into_iter().filter(|is_used| *is_used).count();
        for groups in groups.chunks(GROUPS_AT_ONCE) {
            let (logs, vm) = (self.logs, self.options.vm.as_ref());
            // In the order of the groups, whichever thread is done first.
            let rendered = groups.par_iter().map(|group| {
                let Folded { records, faults } = fold(logs, group, vm);
                let rendered: Result<Vec<_>> =
                    records.iter().map(|merged| self.outputs.render(merged)).collect();
                let of_one_host = records.iter().filter(|merged| is_of_one_host(merged)).count();
                rendered.map(|rendered| (rendered, of_one_host, faults))
            });
            let rendered: Vec<_> = rendered.collect();
            for rendered in rendered {
                let (rendered, of_one_host, faults) = rendered?;
                self.migrations += rendered.len();
                self.of_one_host += of_one_host;
                for (log, fault) in faults {
                    self.faults.add(&self.logs.paths[log], fault);
                }
                for rendered in &rendered {
                    self.outputs.write(rendered)?;
                }
            }
        }
        Ok(())
    }

    fn end(self, directory: &Path) -> Result<Exit> {
        let Self { options, logs, outputs, faults, migrations, of_one_host, used } = self;
        faults.say();
        if migrations == 0 {
            bail!(
                "no migration{} in the {} event logs in {}",
                whose(options.vm.as_ref()),
                logs.paths.len(),
                directory.display()
            );
        }
        let written = outputs.finish()?;
        let unused = logs.paths.len() - used;
        let none = if unused > 0 && options.vm.is_none() {
            format!(", {unused} of them without a migration")
        } else {
            String::new()
        };
        let alone =
            if of_one_host > 0 { format!(", {of_one_host} of them of one host") } else { String::new() };
        say(&format!(
            "migtrace: {} event logs{none}: {migrations} records{alone}{written}",
            logs.paths.len()
        ));
        Ok(if faults.are_none() { Exit::Done } else { Exit::CouldNot })
    }
}

fn is_of_one_host(merged: &Merged) -> bool {
    merged.record.observers.len() < 2
}

/// Reads the logs of a group and folds them together.
fn fold(logs: &Logs, group: &[usize], vm: Option<&String>) -> Folded {
    let mut folded = Folded { records: Vec::new(), faults: Vec::new() };
    let (mut timelines, mut read) = (Vec::new(), Vec::new());
    for &log in group {
        let path = &logs.paths[log];
        match replay_file(path, vm) {
            Ok(replayed) => {
                timelines.push(replayed.timeline);
                read.push(log);
                folded.faults.extend(replayed.broken.map(|why| (log, Fault::Damaged(why))));
            }
            Err(error) => folded.faults.push((log, Fault::Unreadable(format!("{error:#}")))),
        }
    }
    let (records, copies) = timeline::merged_as_found(&timelines);
    folded.records = records;
    folded.faults.extend(copies.into_iter().map(|copy| (read[copy.host], Fault::Copy)));
    folded
}

fn replay_file(path: &Path, vm: Option<&String>) -> Result<Replayed> {
    let file = BufReader::with_capacity(1 << 16, open_regular(path)?);
    Ok(replay(vm.cloned(), file)?)
}
