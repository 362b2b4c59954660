//! Runs `migtrace watch` on hosts of the lab, and reads what it keeps.

use crate::host::Host;
use crate::migtrace_command::command;
use crate::process::Process;
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// As for a recording.
const READY_PATIENCE: Duration = Duration::from_secs(20);

/// A running `migtrace watch`. Dropping this kills it.
#[derive(Debug)]
pub struct Watch {
    process: Process,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    said: String,
}

/// A watch that has ended.
#[derive(Debug)]
pub struct Watched {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// The lines of its standard output that nobody has taken.
    pub lines: Vec<String>,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Watch {
    /// Starts `migtrace watch` with this directory and these options on a host, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it ends before it is ready, or takes too long. The message has what it wrote.
    pub fn start(host: &Host, directory: &Path, arguments: &[&str]) -> Result<Self> {
        let mut command = command(&["watch", "--directory"])?;
        command.arg(directory).args(arguments);
        let mut watch = Self::begin(host, command)?;
        watch.wait_until_said("ready", READY_PATIENCE)?;
        Ok(watch)
    }

    /// Starts a command that the caller has made, without waiting.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn begin(host: &Host, mut command: Command) -> Result<Self> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = host.spawn(&mut command)?;
        let stdout = lines_of(process.child().stdout.take().context("standard output is piped")?);
        let stderr = lines_of(process.child().stderr.take().context("standard error is piped")?);
        Ok(Self { process, stdout, stderr, said: String::new() })
    }

    /// Waits until a line of standard error contains this text.
    ///
    /// # Errors
    ///
    /// When none does within `patience`. The message has what it wrote.
    pub fn wait_until_said(&mut self, text: &str, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            let Ok(line) = self.stderr.recv_timeout(deadline.saturating_duration_since(Instant::now()))
            else {
                bail!("migtrace watch has not said `{text}` within {patience:?}:\n{}", self.said);
            };
            self.said.push_str(&line);
            self.said.push('\n');
            if line.contains(text) {
                return Ok(line);
            }
        }
    }

    /// The next line of standard output.
    ///
    /// # Errors
    ///
    /// When there is none within `patience`.
    pub fn next_line(&mut self, patience: Duration) -> Result<String> {
        let line = self.stdout.recv_timeout(patience);
        line.with_context(|| {
            format!("no line within {patience:?}; {:?}", self.stderr.try_iter().collect::<Vec<_>>())
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Tells it to end, and waits for that.
    ///
    /// # Errors
    ///
    /// When it still runs after `patience`.
    pub fn stop(self, patience: Duration) -> Result<Watched> {
        self.signal(Signal::SIGTERM)?;
        self.finish(patience)
    }

    /// Waits until it ends.
    ///
    /// # Errors
    ///
    /// When it still runs after `patience`. The message has what it wrote.
    pub fn finish(mut self, patience: Duration) -> Result<Watched> {
        let status = self.process.wait(patience);
        drop(self.process);
        self.said.extend(self.stderr.iter().map(|line| line + "\n"));
        let status = status.with_context(|| self.said.clone())?;
        Ok(Watched { code: status.code(), lines: self.stdout.iter().collect(), stderr: self.said })
    }
}

/// A migration's record and event log, as a watch keeps them.
#[derive(Debug)]
pub struct Pair {
    /// The name of both files, without what follows the dot.
    pub name: String,
    /// The record as it is written.
    pub json: String,
    /// The record.
    pub record: Value,
    /// The log.
    pub log: PathBuf,
}

/// The pairs of a directory, in the order of their names.
///
/// # Errors
///
/// When a record is not JSON, or a file belongs to no pair.
pub fn pairs(directory: &Path) -> Result<Vec<Pair>> {
    let mut pairs = Vec::new();
    for name in file_names(directory)? {
        if name.starts_with('.') {
            continue;
        }
        if let Some(stem) = name.strip_suffix(".json") {
            let json = fs::read_to_string(directory.join(&name))?;
            let record = serde_json::from_str(&json).with_context(|| json.clone())?;
            let log = directory.join(format!("{stem}.jsonl"));
            if !log.is_file() {
                bail!("{name} has no event log");
            }
            pairs.push(Pair { name: stem.to_owned(), json, record, log });
        } else if !name.strip_suffix(".jsonl").is_some_and(|s| directory.join(format!("{s}.json")).is_file())
        {
            bail!("{name} belongs to no pair");
        }
    }
    Ok(pairs)
}

/// The names of the files in a directory, sorted.
///
/// # Errors
///
/// When it cannot be read.
pub fn file_names(directory: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Waits until a directory has so many pairs and no other files.
///
/// # Errors
///
/// When it has not within `patience`. The message has the names.
pub fn wait_for_pairs(directory: &Path, count: usize, patience: Duration) -> Result<Vec<Pair>> {
    let deadline = Instant::now() + patience;
    loop {
        match pairs(directory) {
            Ok(pairs) if pairs.len() == count => return Ok(pairs),
            found if Instant::now() > deadline => {
                let why = found.map(|pairs| format!("{} pairs", pairs.len()));
                bail!("not {count} pairs, but {why:?}: {:#?}", file_names(directory)?);
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

fn lines_of(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // The pipe must be read even if nobody receives the lines any more.
            let _ = sender.send(line);
        }
    });
    lines
}
