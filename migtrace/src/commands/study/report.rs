//! `migtrace study report`: what the runs of a study say together.

use anyhow::{Context as _, Result};
use migtrace::report;
use migtrace::study::answer::{Answer, Choice, answer};
use migtrace::study::directory::StudyDirectory;
use migtrace::study::material;

use crate::cli::{StudyFormat, StudyReportArgs};
use crate::commands::Exit;
use crate::commands::output::ReportOutput;
use crate::streams::Stream;

pub(super) fn run(options: &StudyReportArgs) -> Result<Exit> {
    let directory = StudyDirectory::new(options.directory.clone());
    // Only the folder of a study has it; a plan may lie anywhere.
    directory.study()?;
    let plan = directory.plan()?;
    let choice = Choice { rows: options.rows.clone(), columns: options.columns.clone(), run: options.run };
    let answer = answer(&plan, &material::read(&directory), &choice)?;
    let output = ReportOutput::open(options.output.output.as_deref(), Stream::Output)?;
    output.write(&render(&answer, options.output.format())?.into())?;
    Ok(Exit::Done)
}

fn render(answer: &Answer, format: StudyFormat) -> Result<String> {
    match format {
        StudyFormat::Text => Ok(report::study::text::render(answer)),
        StudyFormat::Html => Ok(report::html::study::render(answer)),
        StudyFormat::Csv => report::study::csv::render(answer).context("cannot write the answer as CSV"),
        StudyFormat::Json => report::json(answer).context("cannot write the answer as JSON"),
    }
}
