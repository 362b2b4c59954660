//! `migtrace study run`: all runs of a plan, one after the other.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use migtrace::study::directory::{RunFolder, StudyDirectory};
use migtrace::study::order::PlannedRun;
use migtrace::study::plan::Plan;
use migtrace::study::run::{Run, RunOutcome};

use super::attempt::Attempt;
use super::folder::{self, Opened};
use super::progress::{Lengths, Progress, about};
use super::{dry_run, leftovers};
use crate::cli::StudyRunArgs;
use crate::commands::signals::Signals;
use crate::commands::{Exit, runtime};

/// How often the time that is left is shown anew.
const REPAINT: Duration = Duration::from_secs(1);

pub(super) fn run(options: &StudyRunArgs) -> Result<Exit> {
    let path = &options.plan;
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let plan = Plan::parse(&text).map_err(|error| anyhow!("{}: {error}", path.display()))?;
    if options.dry_run {
        dry_run::show(&plan, &options.output)?;
        return Ok(Exit::Done);
    }
    let plan_folder = folder::of_plan(path)?;
    let opened = folder::open(&options.output, &plan, &text)?;
    let Opened { directory, study, .. } = &opened;
    runtime()?.block_on(async {
        let mut signals = Signals::catch()?;
        let mut session = Session {
            plan: &study.plan,
            plan_folder: &plan_folder,
            directory,
            progress: Progress::new(),
            states: vec![State::default(); study.order.len()],
            order: &study.order,
            lengths: Lengths::default(),
        };
        let ended = session.go(&mut signals, options.retry_failed).await;
        session.progress.end();
        let exit = ended?;
        session.conclude(exit, options);
        Ok(exit)
    })
}

/// A study that is run.
struct Session<'a> {
    plan: &'a Plan,
    plan_folder: &'a Path,
    directory: &'a StudyDirectory,
    progress: Progress,
    order: &'a [PlannedRun],
    /// Of each run in the order.
    states: Vec<State>,
    lengths: Lengths,
}

/// What has become of a run.
#[derive(Clone, Default)]
struct State {
    completed: bool,
    failed_attempts: u32,
    /// More are not made.
    most_attempts: u32,
    /// Why the latest attempt has failed, and where.
    why: Option<String>,
}

impl State {
    fn is_over(&self) -> bool {
        self.completed || self.failed_attempts >= self.most_attempts
    }
}

impl Session<'_> {
    async fn go(&mut self, signals: &mut Signals, retry_failed: bool) -> Result<Exit> {
        let folders = self.directory.runs().into_iter().collect::<Result<Vec<_>, _>>()?;
        self.take_stock(&folders, retry_failed);
        for folder in folders.iter().filter(|folder| folder.needs_clean_up()) {
            if !self.clean_up_after(folder, signals).await? {
                return Ok(Exit::StudyInterrupted);
            }
        }
        let mut is_first = true;
        while let Some(index) = self.states.iter().position(|state| !state.is_over()) {
            if !is_first && !pause(self.plan.runs.pause, signals).await {
                return Ok(Exit::StudyInterrupted);
            }
            is_first = false;
            if !self.attempt(index, signals).await? {
                return Ok(Exit::StudyInterrupted);
            }
        }
        let all = self.states.iter().all(|state| state.completed);
        Ok(if all { Exit::Done } else { Exit::RunsFailed })
    }

    /// Finds out what earlier calls have done.
    fn take_stock(&mut self, folders: &[RunFolder], retry_failed: bool) {
        for folder in folders {
            let index = usize::try_from(folder.number).ok().and_then(|number| number.checked_sub(1));
            let state = index.and_then(|index| self.states.get_mut(index));
            if let (Some(state), Some(run)) = (state, &folder.run) {
                self.lengths.add(run);
                state.take(run, &folder.name());
            }
        }
        let attempts = self.plan.runs.attempts;
        for state in &mut self.states {
            let more = if retry_failed { state.failed_attempts } else { 0 };
            state.most_attempts = attempts.saturating_add(more);
        }
        if !folders.is_empty() {
            let (completed, failed) = self.counts();
            let total = self.order.len();
            self.progress.say(&format!("Going on: {completed} of {total} runs completed, {failed} failed"));
        }
    }

    /// How many runs have completed, and how many have failed for good.
    fn counts(&self) -> (usize, usize) {
        let completed = self.states.iter().filter(|state| state.completed).count();
        let failed = self.states.iter().filter(|state| !state.completed && state.is_over()).count();
        (completed, failed)
    }

    /// Cleans up after a run that was cut off by a crash, and keeps its folder under another name. False if interrupted.
    async fn clean_up_after(&self, folder: &RunFolder, signals: &mut Signals) -> Result<bool> {
        self.progress.say(&format!("{} was cut off: cleaning up after it", folder.name()));
        leftovers::kill(&folder.path);
        let planned = self.order.iter().find(|planned| planned.number == folder.number);
        let planned =
            planned.with_context(|| format!("{} is of no run of this study", folder.path.display()))?;
        let show = |what: &str| self.progress.show(what);
        let mut attempt =
            Attempt::new(self.plan, self.plan_folder, planned, folder.attempt(), folder.path.clone(), &show);
        // It may not have come so far.
        let _ = attempt.take_variables();
        let ended = tokio::select! {
            () = attempt.break_off() => true,
            () = signals.any() => false,
        };
        if ended {
            self.warn(&attempt);
            put_aside(folder)?;
        }
        Ok(ended)
    }

    /// Makes the next attempt at a run. False if interrupted.
    async fn attempt(&mut self, index: usize, signals: &mut Signals) -> Result<bool> {
        let planned = &self.order[index];
        let number = self.states[index].failed_attempts + 1;
        let name = planned.folder(self.plan, number);
        let path = self.directory.runs_path().join(&name);
        let title = self.title(index, number);
        self.progress.begin(&format!("{title}{}", self.left(index, Duration::ZERO)));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let (begun, step) = (Instant::now(), RefCell::new(String::new()));
        let paint = || {
            let left = self.left(index, begun.elapsed());
            self.progress.show(&format!("{title}: {}{left}", step.borrow()));
        };
        let show = |what: &str| {
            step.replace(what.to_owned());
            paint();
        };
        let mut attempt = Attempt::new(self.plan, self.plan_folder, planned, number, path.clone(), &show);
        let repaint = async {
            loop {
                tokio::time::sleep(REPAINT).await;
                paint();
            }
        };
        let run = tokio::select! {
            run = attempt.carry_out() => Some(run),
            () = signals.any() => None,
            never = repaint => never,
        };
        let Some(run) = run else {
            self.interrupt(&mut attempt, path, signals).await?;
            return Ok(false);
        };
        let run = run?;
        self.warn(&attempt);
        drop(attempt);
        self.account(index, &title, &run, &name);
        Ok(true)
    }

    /// Takes in what an attempt has left in its folder, and says what has become of it.
    fn account(&mut self, index: usize, title: &str, run: &Run, folder: &str) {
        self.lengths.add(run);
        let state = &mut self.states[index];
        state.take(run, folder);
        let took = about(Duration::from_nanos(run.run_ns));
        let line = match run.outcome {
            RunOutcome::Completed => format!("{title}: completed, after {took}"),
            _ => {
                let again = if state.is_over() { "" } else { "; it is tried again" };
                format!("{title}: failed, after {took}: {}{again}", state.why.as_deref().unwrap_or_default())
            }
        };
        self.progress.say(&line);
    }

    /// Ends an attempt that was interrupted. A second signal ends it at once.
    async fn interrupt(&self, attempt: &mut Attempt<'_>, path: PathBuf, signals: &mut Signals) -> Result<()> {
        self.progress.say("Interrupted: ending this run and cleaning up; once more to leave that");
        let cleaned = tokio::select! {
            () = attempt.break_off() => true,
            () = signals.any() => false,
        };
        if cleaned {
            self.warn(attempt);
            let folder = RunFolder::read(path)?.filter(RunFolder::needs_clean_up);
            folder.as_ref().map_or(Ok(()), put_aside)?;
        }
        Ok(())
    }

    /// What does not decide whether a run has completed.
    fn warn(&self, attempt: &Attempt<'_>) {
        for why in [attempt.converge_failed(), attempt.clean_up_failed()].into_iter().flatten() {
            self.progress.say(&format!("Warning: {why}"));
        }
    }

    fn title(&self, index: usize, attempt: u32) -> String {
        let planned = &self.order[index];
        let attempt = if attempt > 1 { format!(", attempt {attempt}") } else { String::new() };
        format!("Run {} of {}: {}{attempt}", planned.number, self.order.len(), planned.title(self.plan))
    }

    /// How long this run, of which so much has passed, and those after it will take.
    fn left(&self, index: usize, passed: Duration) -> String {
        let of = |from: usize| {
            let left = self.order.iter().zip(&self.states).skip(from).filter(|(_, state)| !state.is_over());
            self.lengths.of(left.map(|(planned, _)| planned), self.plan.runs.pause)
        };
        // A run that takes longer than expected does not make the others shorter.
        let left = of(index).zip(of(index + 1)).map(|(all, others)| all.saturating_sub(passed).max(others));
        left.map(|left| format!(" (about {} left)", about(left))).unwrap_or_default()
    }

    /// Says how the study stands at the end.
    fn conclude(&self, exit: Exit, options: &StudyRunArgs) {
        let (completed, failed) = self.counts();
        let total = self.order.len();
        for (planned, state) in self.order.iter().zip(&self.states) {
            if let Some(why) = state.why.as_ref().filter(|_| !state.completed && state.is_over()) {
                self.progress.say(&format!("Failed: {}: {why}", planned.title(self.plan)));
            }
        }
        self.progress.say(&format!("{completed} of {total} runs completed, {failed} failed"));
        let paths = [&options.plan, &options.output].map(|path| path.display().to_string());
        let again = format!(
            "migtrace study run {} --output {}",
            shell_words::quote(&paths[0]),
            shell_words::quote(&paths[1])
        );
        match exit {
            Exit::StudyInterrupted => self.progress.say(&format!("To go on: {again}")),
            Exit::RunsFailed => {
                self.progress.say(&format!("To try those that failed again: {again} --retry-failed"));
            }
            _ => {}
        }
    }
}

impl State {
    fn take(&mut self, run: &Run, folder: &str) {
        match &run.outcome {
            RunOutcome::Completed => self.completed = true,
            RunOutcome::Failed { why } => {
                self.failed_attempts = self.failed_attempts.max(run.attempt);
                self.why = Some(format!("{why} (see {folder})"));
            }
            _ => {}
        }
    }
}

/// Gives the folder of a run that was cut off a name that no attempt has.
fn put_aside(folder: &RunFolder) -> Result<()> {
    fs::rename(&folder.path, folder.path_when_cut_off())
        .with_context(|| format!("cannot rename {}", folder.path.display()))
}

/// Waits between two runs. False if interrupted.
async fn pause(length: Duration, signals: &mut Signals) -> bool {
    tokio::select! {
        () = tokio::time::sleep(length) => true,
        () = signals.any() => false,
    }
}
