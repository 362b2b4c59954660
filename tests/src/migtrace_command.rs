//! Runs the built `migtrace` command on hosts of the lab.

use crate::Lab;
use crate::host::Host;
use crate::process::Process;
use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::cell::Cell;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Names the `migtrace` under test. The default is the one that cargo has built beside the tests.
pub const BINARY_VARIABLE: &str = "MIGTRACE_BIN";

/// Programs load in well under a second, but this machine may be overloaded several times.
const READY_PATIENCE: Duration = Duration::from_secs(20);
/// A command that does not wait for a migration ends at once, or after five seconds without a QMP greeting.
const SHORT_PATIENCE: Duration = Duration::from_secs(10);

/// The `migtrace` command under test.
///
/// # Errors
///
/// When there is none. The message says how to build it.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY_VARIABLE) {
        return Ok(path.into());
    }
    let test = std::env::current_exe().context("cannot find the path of this program")?;
    // target/debug/deps/TEST, or target/debug/migtrace-lab
    let found = test.ancestors().skip(1).take(2).map(|folder| folder.join("migtrace")).find(|p| p.is_file());
    found.with_context(|| {
        format!(
            "there is no `migtrace` beside {}: `cargo build -p migtrace` makes it, or name one with {BINARY_VARIABLE}",
            test.display()
        )
    })
}

/// How `migtrace record --rsh` reaches the hosts of a lab, which are called `src`, `dst` and `observer`.
///
/// # Errors
///
/// As [`binary`]: `migtrace-lab` is beside it.
pub fn remote_shell(lab: &Lab) -> Result<String> {
    Ok(format!("'{}' rsh --name {}", lab_command()?.display(), lab.name()))
}

/// The `migtrace-lab` beside the `migtrace` under test.
pub(crate) fn lab_command() -> Result<PathBuf> {
    let lab_command = binary()?.with_file_name("migtrace-lab");
    if !lab_command.is_file() {
        bail!("there is no `{}`: `cargo build --bins` makes it", lab_command.display());
    }
    Ok(lab_command)
}

/// A `migtrace` command with these arguments, which the caller may change further.
///
/// # Errors
///
/// As [`binary`].
pub fn command(arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.args(arguments).env("RUST_BACKTRACE", "0").stdin(Stdio::null());
    // glibc's default value. When it is set explicitly, glibc does not raise it: freed memory goes back to the kernel, so that
    // the resident memory shows what migtrace keeps.
    command.env("MALLOC_TRIM_THRESHOLD_", "131072");
    if let Some(capability) = GIVEN_UP.get() {
        let give_up = move || {
            // SAFETY: no memory is passed.
            let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability) };
            Errno::result(result).map(|_| ()).map_err(Into::into)
        };
        // SAFETY: it is one system call.
        unsafe { command.pre_exec(give_up) };
    }
    Ok(command)
}

thread_local! {
    static GIVEN_UP: Cell<Option<libc::c_ulong>> = const { Cell::new(None) };
}

/// Every `migtrace` that the calling thread makes from now on lacks this capability, which has this number.
pub fn give_up(capability: libc::c_ulong) {
    GIVEN_UP.set(Some(capability));
}

/// What a command wrote, and how it ended.
#[derive(Debug)]
pub struct CommandOutput {
    /// Its exit code; none if a signal ended it.
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

/// Runs `migtrace` with these arguments on a host until it ends.
///
/// # Errors
///
/// When it cannot be started, or has not ended after ten seconds.
pub fn run(host: &Host, arguments: &[&str]) -> Result<CommandOutput> {
    run_command(host, command(arguments)?)
}

/// As [`run`], with a command that the caller has made.
///
/// # Errors
///
/// As [`run`].
pub fn run_command(host: &Host, mut command: Command) -> Result<CommandOutput> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(host.spawn(&mut command)?.output(SHORT_PATIENCE)?.into())
}

/// Makes one record, as JSON, of the event logs of several hosts.
///
/// # Errors
///
/// When the command cannot be started. What it says of the logs is in the output.
pub fn merge(logs: &[&Path]) -> Result<CommandOutput> {
    merge_of(None, logs)
}

/// As [`merge`], of this VM only, if one is named.
///
/// # Errors
///
/// As [`merge`].
pub fn merge_of(vm: Option<&str>, logs: &[&Path]) -> Result<CommandOutput> {
    let mut command = command(&["merge", "--format", "json"])?;
    if let Some(vm) = vm {
        command.args(["--vm", vm]);
    }
    Ok(command.args(logs).output().context("cannot run migtrace merge")?.into())
}

/// A running `migtrace record`. Dropping this kills it.
#[derive(Debug)]
pub struct Recording {
    process: Process,
    lines: Receiver<String>,
    stderr: String,
    directory: TempDir,
}

/// A recording that has ended.
#[derive(Debug)]
pub struct Recorded {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard error.
    pub stderr: String,
    /// The record's JSON; empty if none was written.
    pub json: String,
    directory: TempDir,
}

impl Recording {
    /// Starts `migtrace record` on a host, with new files for the record and the event log, and waits until it is ready.
    ///
    /// # Errors
    ///
    /// When it ends before it is ready, or takes too long. The message has what it wrote.
    pub fn start(host: &Host, arguments: &[&str]) -> Result<Self> {
        let mut recording = Self::begin(host, arguments)?;
        recording.wait_for_line("ready", READY_PATIENCE)?;
        Ok(recording)
    }

    /// As [`Recording::start`], but without the wait.
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
                // The pipe must be read even if nobody receives the lines any more.
                let _ = sender.send(line);
            }
        });
        Ok(Self { process, lines, stderr: String::new(), directory })
    }

    /// Waits until it has written this line to standard error.
    ///
    /// # Errors
    ///
    /// When it ends without that line, or takes longer than `patience`. The message has what it wrote.
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
                    bail!("migtrace ended ({status}) without writing `{wanted}`:\n{}", self.stderr);
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("migtrace has not written `{wanted}` within {patience:?}:\n{}", self.stderr);
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

    /// Its exit status, if it has ended.
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

    /// Waits until a line of the event log contains this text.
    ///
    /// # Errors
    ///
    /// When none does within `patience`.
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
    /// When it still runs after `patience`. The message has what it wrote.
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
    /// When none was written, or it is not JSON. The message has what migtrace wrote.
    pub fn record(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.json).with_context(|| format!("no record: {}", self.stderr))
    }

    /// The path of its event log.
    #[must_use]
    pub fn events_path(&self) -> PathBuf {
        events_path(&self.directory)
    }

    /// The folder that contains only its record and its event log.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The events of its log.
    ///
    /// # Errors
    ///
    /// When a line is not JSON.
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
