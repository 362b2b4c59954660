//! What a study would do.

use std::path::Path;

use anyhow::Result;
use migtrace::study::environment;
use migtrace::study::order::{self, PlannedRun};
use migtrace::study::plan::{Plan, Variables, text_of};

use super::{attempt, old_method, recording};
use crate::streams::Stream;

/// Prints the runs in their order, with their environment and commands.
pub(super) fn show(plan: &Plan, output: &Path) -> Result<()> {
    let output = std::path::absolute(output)?;
    let runs = order::runs(plan);
    let cells = order::cells(plan).len();
    let mut text = format!("{}: {} runs of {cells} cells\n", plan.title, runs.len());
    for run in &runs {
        text += &of_run(plan, run, runs.len(), &output)?;
    }
    Ok(Stream::Output.print(&text)?)
}

fn of_run(plan: &Plan, run: &PlannedRun, total: usize, output: &Path) -> Result<String> {
    let folder = output.join("runs").join(run.folder(plan, 1));
    let environment = environment::of_run(plan, run, 1, &folder);
    let value = |text: &str| value(plan, &environment, text);
    let mut text = format!("\nRun {} of {total}: {}\n", run.number, run.title(plan));
    for (name, value) in &environment {
        text += &format!("  {name}={}\n", shell_words::quote(value));
    }
    let mut add = |what: &str, line: &str| text += &format!("  {what:<9} {line}\n");
    if let Some(line) = &plan.driver.prepare {
        add("prepare", line);
    }
    add("record", &shell_words::join(recording::command_line(plan, &folder, value)?));
    let method = &plan.old_method;
    if let Some(address) = &method.ping {
        let host = attempt::host(plan, method.ping_from.as_deref(), value)?;
        add("ping", &line_of(&host.command(&old_method::ping_line(&value(address)?))));
    }
    let host = attempt::host(plan, method.meter_host.as_deref(), value)?;
    add("meter", &line_of(&host.command(old_method::METER_LINE)));
    add("migrate", &plan.driver.migrate);
    let after = plan.convergence.as_ref().and_then(|convergence| convergence.after);
    if let (Some(line), Some(after)) = (&plan.driver.converge, after) {
        add("converge", &format!("{line}    # after {}", text_of(after)));
    }
    if let Some(line) = &plan.driver.clean_up {
        add("clean up", line);
    }
    Ok(text)
}

/// A text with its variables. What only `driver.prepare` can set stays as it is.
fn value(plan: &Plan, environment: &Variables, text: &str) -> Result<String> {
    match attempt::value(environment, text) {
        Err(_) if plan.driver.prepare.is_some() => Ok(text.to_owned()),
        value => value,
    }
}

fn line_of(command: &std::process::Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    shell_words::join(words.map(std::ffi::OsStr::to_string_lossy))
}
