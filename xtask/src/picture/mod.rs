//! `cargo xtask picture`: makes the README's pictures: of the first part of a report, and of a study's answer.

mod study;
mod svg;

use std::fs;
use std::path::{self, Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::prerequisites::Group;
use crate::{paths, setup};

/// The event logs of a migration in the demo, and its picture.
const LOGS: [&str; 3] = ["docs/demo/local.jsonl", "docs/demo/dst.jsonl", "docs/demo/observer.jsonl"];
const PICTURE: &str = "docs/report.svg";
/// The answer of the lab's study, and its picture.
const ANSWER: &str = "docs/study/lab/answer.json";
const ANSWER_PICTURE: &str = "docs/study/lab/answer.svg";
/// The sections of a report that are shown, by the start of their first line. The headline comes before all of them.
const SHOWN: [&str; 3] = ["Downtime", "The stop, part by part", "Phases"];
/// Stands for the sections between them.
const LEFT_OUT: &str = "[...]";

#[derive(Args)]
pub(crate) struct Options {
    /// An event log of the migration whose report is shown; again for each host [default: those in docs/demo, and the answer
    /// in docs/study/lab is drawn, too]
    #[arg(long = "log", value_name = "FILE")]
    logs: Vec<PathBuf>,
    /// Where to write the picture of the report [default: docs/report.svg]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Draw only docs/perfetto.png: the demo in Perfetto, as a browser shows it
    #[arg(long, conflicts_with_all = ["logs", "output"])]
    perfetto: bool,
    /// Draw only docs/page.png: the demo as a page, as a browser shows it
    #[arg(long, conflicts_with_all = ["logs", "output", "perfetto"])]
    page: bool,
}

/// Builds migtrace, lets it report, and draws what it prints. Draws the kept answer. The same report and the same answer give
/// the same pictures, byte for byte.
///
/// # Errors
/// When the machine lacks something, or there is no report to draw.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.perfetto {
        return in_browser("traces");
    }
    if options.page {
        return in_browser("browser");
    }
    setup::ensure(&[Group::Build])?;
    let logs = if options.logs.is_empty() {
        of_study(&paths::root().join(ANSWER), &paths::root().join(ANSWER_PICTURE))?;
        LOGS.map(|log| paths::root().join(log)).to_vec()
    } else {
        options.logs.clone()
    };
    let output = options.output.clone().unwrap_or_else(|| paths::root().join(PICTURE));
    // Cargo runs in the root of the repository, whatever the current folder.
    let absolute =
        |log: &PathBuf| path::absolute(log).with_context(|| format!("cannot find {}", log.display()));
    let logs: Vec<PathBuf> = logs.iter().map(absolute).collect::<Result<_>>()?;
    let mut report = paths::cargo();
    report.args(["run", "--quiet", "--package", "migtrace", "--", "merge"]).args(&logs);
    let reported = report.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    if !reported.status.success() {
        bail!("no report of {logs:?}; see the messages above");
    }
    let text = String::from_utf8(reported.stdout).context("the report is not UTF-8")?;
    let picture = draw(&text, &logs)?;
    fs::write(&output, picture).with_context(|| format!("cannot write {}", output.display()))?;
    eprintln!("{}", output.display());
    Ok(())
}

/// These tests show the trace and the page anyway, so they draw the pictures, too. A browser does not draw the same pixels everywhere, so nothing
/// compares it.
fn in_browser(test: &str) -> Result<()> {
    setup::ensure(&[Group::Build, Group::Test])?;
    let mut cargo = paths::cargo();
    cargo.args(["test", "--quiet", "--package", "migtrace", "--test", test, "--", "--ignored"]);
    let status = cargo.stdout(Stdio::null()).status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the picture was not drawn; see the messages above");
    }
    Ok(())
}

/// Draws the answer of the lab's study, a file of JSON.
///
/// # Errors
/// When that file cannot be read, or the picture not be written.
pub(crate) fn of_study(answer: &Path, output: &Path) -> Result<()> {
    let text = fs::read_to_string(answer).with_context(|| format!("cannot read {}", answer.display()))?;
    let parsed = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", answer.display()))?;
    fs::write(output, study::draw(&parsed)?).with_context(|| format!("cannot write {}", output.display()))
}

/// The picture of the first part of the report of `logs`.
fn draw(report: &str, logs: &[impl AsRef<Path>]) -> Result<String> {
    let name = |log: &Path| log.file_name().unwrap_or_default().display().to_string();
    let names: Vec<_> = logs.iter().map(|log| name(log.as_ref())).collect();
    let command = format!("$ migtrace merge {}", names.join(" "));
    let mut lines = vec![command.as_str(), ""];
    lines.extend(excerpt(report)?);
    Ok(svg::draw("The report of a live migration", &lines))
}

/// The headline and the sections that are shown: whole lines as migtrace prints them.
fn excerpt(report: &str) -> Result<Vec<&str>> {
    // The lines of a section are indented, or empty.
    let mut sections: Vec<Vec<&str>> = Vec::new();
    for line in report.lines() {
        match sections.last_mut() {
            Some(section) if line.is_empty() || line.starts_with(' ') => section.push(line),
            _ => sections.push(vec![line]),
        }
    }
    let mut shown = Vec::new();
    let mut left_out = false;
    for (index, section) in sections.iter().enumerate() {
        if index == 0 || SHOWN.iter().any(|start| section[0].starts_with(start)) {
            if left_out {
                shown.extend([LEFT_OUT, ""]);
            }
            left_out = false;
            shown.extend(section);
        } else {
            left_out = true;
        }
    }
    for start in SHOWN {
        if !shown.iter().any(|line| line.starts_with(start)) {
            bail!("the report has no section {start:?}");
        }
    }
    if left_out {
        shown.push(LEFT_OUT);
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::BufReader;

    use migtrace::event::LogReader;
    use migtrace::report;
    use migtrace::selection::Selection;
    use migtrace::timeline::{self, Timeline};

    use super::*;

    #[test]
    fn an_excerpt_has_whole_sections_and_shows_where_some_are_left_out() {
        let parts = "The stop, part by part\n drain\n\n";
        let report = format!(
            "vm-1: completed\n\n  VM vm-1\n\nDowntime\n stop 1 s\n\n  bar\n\n{parts}Gaps\n none\n\nPhases (wire bytes)\n setup\n\n\
             Flows\n one\n"
        );
        let expected = format!(
            "vm-1: completed\n\n  VM vm-1\n\nDowntime\n stop 1 s\n\n  bar\n\n{parts}[...]\n\nPhases (wire bytes)\n setup\n\n[...]"
        );
        assert_eq!(excerpt(&report).unwrap().join("\n"), expected);
        let error =
            excerpt("vm-1: failed\n\nDowntime\n none\n\nThe stop, part by part\n").unwrap_err().to_string();
        assert!(error.contains("Phases"), "{error}");
    }

    #[test]
    fn the_picture_in_the_documentation_is_that_of_its_log() {
        let timelines = LOGS.map(|log| {
            let mut timeline = Timeline::new(Selection::default());
            let log = File::open(paths::root().join(log)).unwrap();
            for event in LogReader::new(BufReader::new(log)) {
                timeline.push(&event.unwrap());
            }
            timeline
        });
        let records = timeline::merged(&timelines).unwrap();
        let picture = draw(&report::text::render(&records[0]), &LOGS).unwrap();
        let kept = fs::read_to_string(paths::root().join(PICTURE)).unwrap();
        assert!(picture == kept, "the report looks different now: run `cargo xtask picture`");
    }

    #[test]
    fn the_picture_of_the_study_is_that_of_its_answer() {
        let answer = fs::read_to_string(paths::root().join(ANSWER)).unwrap();
        let picture = study::draw(&serde_json::from_str(&answer).unwrap()).unwrap();
        let kept = fs::read_to_string(paths::root().join(ANSWER_PICTURE)).unwrap();
        assert!(picture == kept, "the answer looks different now: run `cargo xtask picture`");
    }
}
