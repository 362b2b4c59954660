//! `migtrace` itself, run on a host of the lab.

use crate::host::Host;
use crate::process::Process;
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Names the command under test; without it, the one that cargo has built beside the tests.
pub const BINARY_VARIABLE: &str = "MIGTRACE_BIN";

/// Programs are loaded in well under a second; several machines' worth of load may lie on this one.
const READY_PATIENCE: Duration = Duration::from_secs(20);
/// A command that neither waits nor records ends at once; QMP's greeting is waited for up to five seconds.
const SHORT_PATIENCE: Duration = Duration::from_secs(10);

/// The `migtrace` command under test.
///
/// # Errors
///
/// When there is none; the message says how to build it.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
        return Ok(path.into());
    }
    let test = std::env::current_exe().context("cannot tell where this program is")?;
    // target/debug/deps/TEST, or target/debug/lab
    let found = test.ancestors().skip(1).take(2).map(|folder| folder.join("migtrace")).find(|p| p.is_file());
    found.with_context(|| {
        format!(
            "there is no `migtrace` beside {}: `cargo build -p migtrace` makes it, or name one with {BINARY_VARIABLE}",
            test.display()
        )
    })
}

/// The command with these arguments, for the caller to change further.
///
/// # Errors
///
/// As [`binary`].
pub fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(arguments).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    // glibc's own figure. Named, it stays: what is freed goes back to the kernel, and what is kept can be told from it.
    command.env("MALLOC_TRIM_THRESHOLD_", "131072");
    Ok(command)
}

/// What the command said, and how it ended.
#[derive(Debug)]
pub struct CommandOutput {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl From<Output> for CommandOutput {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
    }
}

/// Runs `migtrace` with these arguments on a host to its end.
///
/// # Errors
///
/// When it cannot be started, or has not ended after ten seconds.
pub fn run(host: &Host, arguments: &[&str]) -> Result<CommandOutput> {
    run_command(host, command(arguments)?)
}

/// As [`run`], of a command that the caller has made.
///
/// # Errors
///
/// As [`run`].
pub fn run_command(host: &Host, mut command: Command) -> Result<CommandOutput> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(host.spawn(&mut command)?.output(SHORT_PATIENCE)?.into())
}

/// A `migtrace record` at work. It is killed when this goes.
#[derive(Debug)]
pub struct Recording {
    process: Process,
    lines: Receiver<String>,
    stderr: String,
    directory: TempDir,
}

/// What a recording gave.
#[derive(Debug)]
pub struct Recorded {
    /// Its exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard error, line by line.
    pub stderr: String,
    /// The record's JSON; empty when none was written.
    pub json: String,
    directory: TempDir,
}

impl Recording {
    /// Starts `migtrace record` on a host, with a record and an event log of its own, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it ends before it is ready, or takes too long; the message has what it said.
    pub fn start(host: &Host, arguments: &[&str]) -> Result<Self> {
        let mut recording = Self::begin(host, arguments)?;
        recording.wait_for_line("ready", READY_PATIENCE)?;
        Ok(recording)
    }

    /// As [`Recording::start`], without the wait.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn begin(host: &Host, arguments: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a folder for a recording")?;
        let mut command = command(&["record"])?;
        command.args(arguments);
        for (option, file) in [("--output", "record.json"), ("--events", "events.jsonl")] {
            if !arguments.contains(&option) {
                command.arg(option).arg(directory.path().join(file));
            }
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = host.spawn(&mut command)?;
        let stderr = process.child().stderr.take().context("standard error is piped")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // Who asked for the lines may have gone; the pipe must be read all the same.
                let _ = sender.send(line);
            }
        });
        Ok(Self { process, lines, stderr: String::new(), directory })
    }

    /// Waits until it has written this line to standard error.
    ///
    /// # Errors
    ///
    /// When it ends without it, or takes longer than `patience`; the message has what it said.
    pub fn wait_for_line(&mut self, wanted: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.stderr.push_str(&line);
                    self.stderr.push('\n');
                    if line == wanted {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.process.wait(SHORT_PATIENCE)?;
                    bail!("migtrace ended ({status}) and never said `{wanted}`:\n{}", self.stderr);
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("migtrace has not said `{wanted}` within {patience:?}:\n{}", self.stderr);
                }
            }
        }
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

    /// How it ended, if it has.
    ///
    /// # Errors
    ///
    /// When the kernel does not know it.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.process.try_wait()
    }

    /// The event log as it is now.
    #[must_use]
    pub fn events(&self) -> String {
        read(&events_path(&self.directory))
    }

    /// Waits until the event log has a line with this text.
    ///
    /// # Errors
    ///
    /// When it has none after `patience`.
    pub fn wait_for_event(&self, text: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !self.events().contains(text) {
            if Instant::now() > deadline {
                bail!("no `{text}` within {patience:?} in the event log:\n{}", self.events());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    ///
    /// When it still runs after `patience`; the message has what it said.
    pub fn finish(mut self, patience: Duration) -> Result<Recorded> {
        let status = self.process.wait(patience);
        drop(self.process);
        for line in &self.lines {
            self.stderr.push_str(&line);
            self.stderr.push('\n');
        }
        let status = status.with_context(|| self.stderr.clone())?;
        let json = read(&self.directory.path().join("record.json"));
        Ok(Recorded { code: status.code(), stderr: self.stderr, json, directory: self.directory })
    }
}

impl Recorded {
    /// The record.
    ///
    /// # Errors
    ///
    /// When none was written, or it is no JSON; the message has what migtrace said.
    pub fn record(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.json).with_context(|| format!("no record: {}", self.stderr))
    }

    /// Where its event log is.
    #[must_use]
    pub fn events_path(&self) -> PathBuf {
        events_path(&self.directory)
    }

    /// The folder of its files: the record, the event log, and nothing else.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The events of its log.
    ///
    /// # Errors
    ///
    /// When a line is no JSON.
    pub fn events(&self) -> Result<Vec<serde_json::Value>> {
        let log = read(&self.events_path());
        log.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }
}

fn events_path(directory: &TempDir) -> PathBuf {
    directory.path().join("events.jsonl")
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
