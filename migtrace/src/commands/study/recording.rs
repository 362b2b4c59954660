//! The recording of a run: `migtrace record`, as a process of its own.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use migtrace::record::{self, Outcome};
use migtrace::study::directory::RECORD_FILE;
use migtrace::study::plan::{Plan, Recording};
use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::group::{Groups, Pipes, Running};

/// How long a recording may take to begin. Its peers have a minute.
const BEGIN_PATIENCE: Duration = Duration::from_secs(120);
/// How long it may go on after the driver has said that the migration has completed: libvirt and the peers have their say.
const END_PATIENCE: Duration = Duration::from_secs(60);
/// After the driver has failed there may be no migration that ends.
const FAILED_PATIENCE: Duration = Duration::from_secs(15);
/// How long it may write its report once it was asked to end.
const REPORT_PATIENCE: Duration = Duration::from_secs(60);
/// So long after the limit of the migration it ends in any case: one that `sudo` has started cannot be told to.
const BEYOND_LIMIT: Duration = Duration::from_secs(300);
/// How long something of it may go on after its first process has ended.
const LAST_WORDS: Duration = Duration::from_secs(15);
/// So much of the last line that it says explains why it did not begin.
const MOST_SAID_CHARACTERS: usize = 2000;

/// The arguments of `migtrace record`, and what comes before them. `value` gives the texts of the plan their variables.
pub(super) fn command_line(
    plan: &Plan,
    folder: &Path,
    value: impl Fn(&str) -> Result<String>,
) -> Result<Vec<String>> {
    let Recording { command, vm, peers, rsh, probe, probe_from, probe_interval, options, .. } = &plan.record;
    let mut words = match command {
        Some(command) => {
            let command = value(command)?;
            shell_words::split(&command)
                .with_context(|| format!("record.command: `{command}` is no command"))?
        }
        None => vec![this_program()?],
    };
    let file = |name: &str| folder.join(name).display().to_string();
    // With peers it is a folder.
    let events = if peers.is_empty() { file("events/local.jsonl") } else { file("events") };
    words.extend(["record".into(), "--format".into(), "json".into()]);
    words.extend(["--output".into(), file(RECORD_FILE), "--events".into(), events]);
    if !options.iter().any(|option| option.split('=').next() == Some("--timeout")) {
        let limit = plan.limits.migrate.saturating_add(BEYOND_LIMIT).as_secs();
        words.extend(["--timeout".into(), format!("{limit}s")]);
    }
    let mut add = |option: &str, text: &str| -> Result<()> {
        let text = value(text)?;
        if !text.is_empty() {
            words.extend([option.to_owned(), text]);
        }
        Ok(())
    };
    if let Some(vm) = vm {
        add("--vm", vm)?;
    }
    for peer in peers {
        add("--peer", peer)?;
    }
    if let Some(rsh) = rsh.as_ref().filter(|_| !peers.is_empty()) {
        add("--rsh", rsh)?;
    }
    let probing = [("--probe", probe), ("--probe-from", probe_from), ("--probe-interval", probe_interval)];
    for (option, text) in probing {
        if let Some(text) = text {
            add(option, text)?;
        }
    }
    for option in options {
        words.push(value(option)?);
    }
    Ok(words)
}

fn this_program() -> Result<String> {
    let path = std::env::current_exe().context("cannot find out which program this is")?;
    path.into_os_string()
        .into_string()
        .map_err(|path| anyhow!("{} is no text", PathBuf::from(path).display()))
}

/// A recording that runs.
pub(super) struct Recorder {
    running: Running,
    said: watch::Receiver<Said>,
}

/// What it has said so far.
#[derive(Clone, Default)]
struct Said {
    ready: bool,
    /// Nothing more will come.
    over: bool,
    last: String,
}

impl Recorder {
    /// Starts it. Its events and its report go into the folder, what it says into `record.log` there.
    pub(super) fn start(groups: &mut Groups, command: &mut Command, folder: &Path) -> Result<Self> {
        let events = folder.join("events");
        fs::create_dir(&events).with_context(|| format!("cannot make {}", events.display()))?;
        let log = folder.join("record.log");
        let log = File::create(&log).with_context(|| format!("cannot write to {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(Stdio::piped());
        let program = command.get_program().to_string_lossy().into_owned();
        let (running, Pipes { stderr, .. }) = groups
            .start(command)
            .with_context(|| format!("cannot run {program}; see [record] of the plan"))?;
        let (tell, said) = watch::channel(Said::default());
        if let Some(stderr) = stderr {
            thread::Builder::new().name("record".to_owned()).spawn(move || listen(stderr, log, &tell))?;
        }
        Ok(Self { running, said })
    }

    /// Waits until it records.
    pub(super) async fn ready(&mut self) -> Result<()> {
        let is_known = |said: &Said| said.ready || said.over;
        let Ok(known) = tokio::time::timeout(BEGIN_PATIENCE, self.said.wait_for(is_known)).await else {
            bail!("the recording did not begin within {} s; see record.log", BEGIN_PATIENCE.as_secs());
        };
        if known.is_ok_and(|said| said.ready) {
            return Ok(());
        }
        let why = self.said.borrow().last.clone();
        bail!("the recording did not begin: {why}")
    }

    /// Waits until it has ended by itself, after a migration that has completed or not; ends it if it does not.
    pub(super) async fn finish(&mut self, completed: bool) {
        let patience = if completed { END_PATIENCE } else { FAILED_PATIENCE };
        if !self.is_over_within(patience).await {
            self.stop().await;
        }
    }

    /// Ends it, where that is permitted. It still writes its report.
    pub(super) async fn stop(&mut self) {
        if self.running.signal(Signal::SIGINT) {
            let _ = self.is_over_within(REPORT_PATIENCE).await;
            self.running.signal(Signal::SIGKILL);
        }
    }

    /// Whether the command has ended by then, and all that it started and that could say something.
    async fn is_over_within(&mut self, patience: Duration) -> bool {
        let over = async {
            self.running.ended().await;
            // What it runs below, such as `ip netns exec`, may have ended before it. Something else may hold its standard error.
            let _ = tokio::time::timeout(LAST_WORDS, self.said.wait_for(|said| said.over)).await;
        };
        tokio::time::timeout(patience, over).await.is_ok()
    }
}

/// Keeps what a recording says.
fn listen(stderr: ChildStderr, mut log: File, tell: &watch::Sender<Said>) {
    let mut stderr = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match stderr.by_ref().take(1 << 16).read_until(b'\n', &mut line) {
            Ok(1..) => {}
            Ok(0) | Err(_) => break,
        }
        let _ = log.write_all(&line);
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        tell.send_modify(|said| {
            said.ready |= text == "ready";
            if !text.is_empty() {
                said.last = text.chars().take(MOST_SAID_CHARACTERS).collect();
            }
        });
    }
    tell.send_modify(|said| said.over = true);
}

/// Checks the record that a recording has left: whether it is one of a migration that has completed. `None` if it is,
/// otherwise what it says instead.
pub(super) fn verdict(folder: &Path) -> Option<String> {
    let Ok(json) = fs::read(folder.join(RECORD_FILE)) else {
        return Some("the recording left no record; see record.log".into());
    };
    let records = match record::read(&json).collect::<Result<Vec<_>, _>>() {
        Ok(records) => records,
        Err(error) => return Some(format!("cannot read {RECORD_FILE}: {error}")),
    };
    match records.last().map(|record| record.migration.outcome) {
        Some(Outcome::Completed | Outcome::Unknown) => None,
        Some(Outcome::Failed) => Some("by its record, the migration has failed".into()),
        Some(Outcome::Cancelled) => Some("by its record, the migration was cancelled".into()),
        Some(Outcome::Interrupted) => Some("the recording did not see the migration's end".into()),
        None => Some("the recording saw no migration; see record.log".into()),
    }
}
