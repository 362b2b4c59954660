//! `cargo xtask test`: every check and every test, one step after the other.

mod durations;
mod steps;

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::prerequisites::{self, Group};
use crate::setup;
use durations::{Durations, readable};
use steps::Step;

#[derive(Args)]
pub(crate) struct Options {
    /// Run only what is quick once all is built, and needs no root: format, lints, documentation, most unit tests
    #[arg(long)]
    fast: bool,
    /// Run only this step, after the setup; may be given again
    #[arg(long, value_enum, value_name = "STEP", conflicts_with = "fast")]
    only: Vec<Step>,
    /// Run only the tests whose name contains this
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Show the steps and how long each takes, and run none of them
    #[arg(long)]
    list: bool,
}

impl Options {
    fn steps(&self) -> Vec<Step> {
        let set: &[_] = if self.fast { &Step::FAST } else { &Step::ALL };
        let chosen = |step: &Step| *step == Step::Setup || self.only.is_empty() || self.only.contains(step);
        set.iter().copied().filter(chosen).collect()
    }

    fn prerequisites(&self) -> Vec<Group> {
        let mut groups = vec![Group::Build, Group::Lint, Group::Test];
        let steps = self.steps();
        if steps.iter().any(|step| matches!(step, Step::Lab | Step::Kernels | Step::Packages)) {
            groups.push(Group::Lab);
        }
        if steps.contains(&Step::Packages) {
            groups.extend([Group::Packages, Group::Installation]);
        }
        groups
    }
}

/// Shows the plan, then sets up, checks and tests. Stops at the first step that fails.
///
/// # Errors
/// When the machine lacks something, or a step fails: names the step.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut durations = Durations::read(options.fast);
    let steps = options.steps();
    print!("{}", plan(&steps, &durations));
    if options.list {
        return Ok(());
    }
    if steps.contains(&Step::Lab) && !prerequisites::is_root() {
        bail!("the tests in the lab load programs into the kernel: run this as root, or with --fast");
    }

    let started = Instant::now();
    let mut done = Vec::new();
    let mut failure = None;
    for step in steps {
        println!("\n== {}", step.name());
        let step_started = Instant::now();
        let outcome = perform(step, options);
        let duration = step_started.elapsed();
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("== {}: {word} ({})", step.name(), readable(duration));
        done.push((step, word, duration));
        if let Err(error) = outcome {
            failure = Some(error);
            break;
        }
        // A part of the tests takes a part of the time.
        if options.filter.is_none() {
            durations.set(step, duration)?;
        }
    }
    print!("{}", summary(&done, started.elapsed()));
    failure.map_or(Ok(()), Err)
}

fn perform(step: Step, options: &Options) -> Result<()> {
    if step == Step::Setup {
        return setup::ensure(&options.prerequisites());
    }
    step.commands(options)?.into_iter().try_for_each(|commands| execute(step.name(), commands))
}

/// Runs commands side by side. What the first one prints is seen at once; what the others print, when they have ended.
fn execute(step: &str, commands: Vec<Command>) -> Result<()> {
    let mut running = Vec::new();
    for (index, mut command) in commands.into_iter().enumerate() {
        let typed = as_typed(&command);
        println!("$ {typed}");
        io::stdout().flush().context("cannot write to stdout")?;
        let printed = if index == 0 { None } else { Some(divert(&mut command)?) };
        let child = command.spawn().with_context(|| format!("{step}: cannot run {typed}"))?;
        running.push((typed, child, printed));
    }
    let mut failure = None;
    for (typed, mut child, printed) in running {
        let status = child.wait().with_context(|| format!("{step}: cannot wait for {typed}"))?;
        if let Some(mut printed) = printed {
            println!("\n$ {typed}");
            printed.rewind().context("cannot read what was printed")?;
            io::copy(&mut printed, &mut io::stdout()).context("cannot write to stdout")?;
        }
        if !status.success() {
            failure.get_or_insert(format!("the step \"{step}\" failed: `{typed}` ended with {status}"));
        }
    }
    failure.map_or(Ok(()), |failure| bail!("{failure}"))
}

/// Makes a command print to a file that has no name.
fn divert(command: &mut Command) -> Result<File> {
    let file = tempfile::tempfile().context("cannot make a file for what a command prints")?;
    let (output, errors) = (file.try_clone()?, file.try_clone()?);
    command.stdout(output).stderr(errors);
    Ok(file)
}

/// The steps to come, and how long each is expected to take.
fn plan(steps: &[Step], durations: &Durations) -> String {
    let mut text = String::from("Step                            Expected\n");
    let mut total = Duration::ZERO;
    for &step in steps {
        let (expected, source) = match durations.get(step) {
            Some(duration) => (duration, "as last time"),
            None => (step.typical(), "typical, with everything to build"),
        };
        total += expected;
        text += &format!("{:<30}{:>10}  {source}\n", step.name(), readable(expected));
    }
    text + &format!("{:<30}{:>10}\n", "total", readable(total))
}

fn summary(done: &[(Step, &str, Duration)], total: Duration) -> String {
    let mut text = String::from("\n== summary\n");
    for (step, outcome, duration) in done {
        text += &format!("{:<30} {outcome:<6} {:>10}\n", step.name(), readable(*duration));
    }
    text + &format!("{:<30} {:<6} {:>10}\n", "total", "", readable(total))
}

/// The command as a person types it.
fn as_typed(command: &Command) -> String {
    let environment = command.get_envs().filter_map(|(key, value)| {
        let (key, value) = (key.to_string_lossy(), value?.to_string_lossy());
        let quote = if value.contains([' ', '"']) { "'" } else { "" };
        Some(format!("{key}={quote}{value}{quote}"))
    });
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or_default().to_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    environment.chain([program]).chain(arguments).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_is_typed() {
        let mut command = Command::new("/usr/bin/cargo");
        command.args(["doc", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings").env_remove("RUSTC");
        assert_eq!(as_typed(&command), "RUSTDOCFLAGS='-D warnings' cargo doc --no-deps");
    }

    #[test]
    fn the_plan_sums_up_the_last_durations_and_the_typical_ones() {
        let mut durations = Durations::default();
        durations.remember(Step::Format, Duration::from_secs(61));
        let plan = plan(&[Step::Format, Step::Lints], &durations);
        let lines: Vec<_> = plan.lines().collect();
        assert!(lines[1].starts_with("format ") && lines[1].ends_with("1 min 1 s  as last time"), "{plan}");
        assert!(lines[2].ends_with("typical, with everything to build"), "{plan}");
        let total = readable(Duration::from_secs(61) + Step::Lints.typical());
        assert!(lines[3].starts_with("total") && lines[3].ends_with(&total), "{plan}");
    }

    #[test]
    fn the_summary_names_the_step_that_failed() {
        let summary =
            summary(&[(Step::Lints, "FAILED", Duration::from_millis(1500))], Duration::from_secs(2));
        assert!(summary.contains("lints                          FAILED      1.5 s"), "{summary}");
    }
}
