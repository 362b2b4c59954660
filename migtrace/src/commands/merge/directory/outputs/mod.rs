//! Where the records go: one after the other, or a file each.

mod folder;

use anyhow::{Context as _, Result};
use migtrace::report;
use migtrace::timeline::Merged;

use crate::cli::{MergeArgs, RecordFormat};
use crate::commands::output::ReportOutput;
use crate::streams::Stream;
use folder::{Folder, Identity};

/// Where the records go.
pub(super) enum Outputs {
    OneAfterTheOther { output: ReportOutput, format: RecordFormat, is_first: bool },
    FileEach(Box<Folder>),
}

/// A record as it is written.
pub(super) struct Rendered {
    text: String,
    /// What its file is found by.
    identity: Option<Identity>,
}

impl Outputs {
    pub(super) fn open(options: &MergeArgs) -> Result<Self> {
        if let Some(folder) = &options.output_directory {
            let cannot = || format!("cannot write to {}", folder.display());
            return Ok(Self::FileEach(Box::new(Folder::open(folder).with_context(cannot)?)));
        }
        let output = ReportOutput::open(options.output.output.as_deref(), Stream::Output)?;
        let format = options.output.format.unwrap_or(RecordFormat::Json);
        Ok(Self::OneAfterTheOther { output, format, is_first: true })
    }

    /// The record as it is written here.
    pub(super) fn render(&self, merged: &Merged) -> Result<Rendered> {
        let json = || report::json_line(&merged.record).context("cannot write the record as JSON");
        Ok(match self {
            Self::OneAfterTheOther { format: RecordFormat::Text, .. } => {
                Rendered { text: report::text::render(&merged.record), identity: None }
            }
            Self::OneAfterTheOther { .. } => Rendered { text: json()?, identity: None },
            Self::FileEach(_) => Rendered { text: json()?, identity: Some(Identity::of(merged)) },
        })
    }

    pub(super) fn write(&mut self, rendered: &Rendered) -> Result<()> {
        match self {
            Self::OneAfterTheOther { output, format, is_first } => {
                if *format == RecordFormat::Text && !std::mem::take(is_first) {
                    output.append("\n")?;
                }
                output.append(&rendered.text)
            }
            Self::FileEach(folder) => match &rendered.identity {
                Some(identity) => folder.write(identity, &rendered.text),
                None => Ok(()),
            },
        }
    }

    /// Completes what was written, and says how many files are new.
    pub(super) fn finish(self) -> Result<String> {
        match self {
            Self::OneAfterTheOther { output, .. } => output.finish().map(|()| String::new()),
            Self::FileEach(folder) => folder.finish(),
        }
    }
}
