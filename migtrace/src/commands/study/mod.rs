//! `migtrace study`: how a migration's conditions change its cost.

mod attempt;
mod collected;
mod dry_run;
mod folder;
mod group;
mod leftovers;
mod old_method;
mod progress;
mod recording;
mod report;
mod run;

use anyhow::Result;

use super::Exit;
use crate::cli::StudyCommand;

pub(super) fn run(command: &StudyCommand) -> Result<Exit> {
    match command {
        StudyCommand::Run(options) => run::run(options),
        StudyCommand::Report(options) => report::run(options),
    }
}
