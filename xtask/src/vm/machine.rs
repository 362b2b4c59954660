//! The virtual machine: boots, is watched on its console, and always ends.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use migtrace_lab::kernels::Kernel;
use migtrace_lab::vm;

/// Two guests of 256 MiB, their QEMUs, and the initramfs twice while it is unpacked.
const MEMORY: &str = "2560M";

/// Init's last line.
const SUCCESS: &str = "init: success";
const FAILURE: &str = "init: failure";
/// Messages of the kernel after which a run cannot succeed.
const FATAL: [&str; 4] = ["Kernel panic", "BUG: soft lockup", "BUG: unable to handle", "Oops:"];
/// After a fatal message the kernel still prints a backtrace.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long QEMU may take to end after init's verdict.
const POWER_OFF_PATIENCE: Duration = Duration::from_secs(20);
/// How many lines of the console of a failed run are shown, if no test failed.
const TAIL_LINES: usize = 40;

/// A virtual machine that is about to run.
pub(super) struct Machine<'a> {
    /// What it is called, beside others that run at the same time.
    pub(super) series: &'a str,
    pub(super) kernel: &'a Kernel,
    pub(super) initramfs: PathBuf,
    /// Where its console goes.
    pub(super) console: PathBuf,
    pub(super) timeout: Duration,
    /// More parameters of its kernel.
    pub(super) parameters: &'a str,
    /// More arguments of QEMU.
    pub(super) devices: Vec<OsString>,
    /// Whether everything on the console is shown.
    pub(super) verbose: bool,
}

/// The outcome of the tests inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Passed,
    Failed,
}

impl Machine<'_> {
    /// Prints a line about this machine.
    pub(super) fn say(&self, line: &str) {
        println!("{}: {line}", self.series);
    }

    /// Runs the tests inside that this init begins. Shows each when it has ended, and the end of the console if one fails.
    ///
    /// # Errors
    /// When the machine does not get to the end of the tests.
    pub(super) fn test(&self, init_arguments: &[&str]) -> Result<Verdict> {
        let mut command = self.command(init_arguments);
        command.args(["-serial", "stdio", "-monitor", "none"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut qemu = Qemu(command.spawn().with_context(|| format!("cannot start {command:?}"))?);
        let stdout = qemu.0.stdout.take().context("QEMU's standard output is gone")?;
        let lines = read_lines(BufReader::new(stdout));
        // Results of tests are the progress that a person waits for.
        let show = |line: &str| {
            if self.verbose || line.starts_with("test ") {
                self.say(line);
            }
        };
        let mut console = Console::create(&self.console, show)?;
        let verdict = watch(&lines, self.timeout, &mut console);
        drop(qemu);
        if !matches!(verdict, Ok(Verdict::Passed)) && !self.verbose {
            for line in console.explanation() {
                self.say(&format!("| {line}"));
            }
        }
        verdict.with_context(|| format!("its whole console is in {}", self.console.display()))
    }

    /// Opens a shell inside, on this terminal.
    ///
    /// # Errors
    /// When QEMU does not run.
    pub(super) fn shell(&self) -> Result<()> {
        let mut command = self.command(&["shell"]);
        command.args(["-serial", "mon:stdio"]);
        let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
        if !status.success() {
            bail!("QEMU ended with {status}");
        }
        Ok(())
    }

    fn command(&self, init_arguments: &[&str]) -> Command {
        let machine = vm::Machine {
            kernel: self.kernel,
            initramfs: &self.initramfs,
            memory: MEMORY,
            parameters: self.parameters,
            init: init_arguments,
        };
        // The kernel kills QEMU when this process ends in any way.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(machine.arguments())
            .args(&self.devices);
        command
    }
}

/// A running QEMU; dropping this kills it.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of a console until it closes.
fn read_lines(mut console: impl io::BufRead + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut line = Vec::new();
        while console.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                break;
            }
            line.clear();
        }
    });
    lines
}

/// Follows a console until init's verdict.
fn watch(
    lines: &Receiver<String>,
    timeout: Duration,
    console: &mut Console<impl Fn(&str)>,
) -> Result<Verdict> {
    let mut deadline = Instant::now() + timeout;
    let mut verdict: Option<Result<Verdict>> = None;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let outcome = judge(&line);
                console.take(line)?;
                if let (None, Some(outcome)) = (&verdict, outcome) {
                    deadline = Instant::now() + outcome.patience();
                    verdict = Some(outcome.result());
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                return verdict.unwrap_or_else(|| {
                    bail!(
                        "it has not finished after {} s (raise the limit with --timeout)",
                        timeout.as_secs()
                    )
                });
            }
            Err(RecvTimeoutError::Disconnected) => {
                return verdict.unwrap_or_else(|| bail!("QEMU ended before the tests did"));
            }
        }
    }
}

/// What a line of the console means for the run.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Success,
    Failure,
    Fatal(String),
}

impl Outcome {
    /// How long to keep listening.
    fn patience(&self) -> Duration {
        match self {
            Self::Success | Self::Failure => POWER_OFF_PATIENCE,
            Self::Fatal(_) => LAST_WORDS,
        }
    }

    fn result(self) -> Result<Verdict> {
        match self {
            Self::Success => Ok(Verdict::Passed),
            Self::Failure => Ok(Verdict::Failed),
            Self::Fatal(line) => bail!("the kernel gave up: {line}"),
        }
    }
}

fn judge(line: &str) -> Option<Outcome> {
    match line {
        SUCCESS => Some(Outcome::Success),
        FAILURE => Some(Outcome::Failure),
        _ if FATAL.iter().any(|fatal| line.contains(fatal)) => Some(Outcome::Fatal(line.into())),
        _ => None,
    }
}

/// All output of the machine.
struct Console<F> {
    file: File,
    lines: Vec<String>,
    /// Shows a line to who waits, if it is of interest.
    show: F,
}

impl<F: Fn(&str)> Console<F> {
    fn create(path: &Path, show: F) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file, lines: Vec::new(), show })
    }

    fn take(&mut self, line: String) -> Result<()> {
        writeln!(self.file, "{line}").context("cannot write the console's log")?;
        (self.show)(&line);
        self.lines.push(line);
        Ok(())
    }

    /// The lines that explain a failure: the test runner's report of failed tests, or else the last lines.
    fn explanation(&self) -> &[String] {
        let of_tests = self.lines.iter().position(|line| line == "failures:");
        let last = self.lines.len().saturating_sub(TAIL_LINES);
        &self.lines[of_tests.unwrap_or(last).min(last)..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn watched(console_text: &'static str, timeout: Duration) -> (Result<Verdict>, Vec<String>) {
        let directory = tempfile::tempdir().unwrap();
        let mut console = Console::create(&directory.path().join("log"), |_: &str| {}).unwrap();
        let lines = read_lines(console_text.as_bytes());
        let verdict = watch(&lines, timeout, &mut console);
        (verdict, console.explanation().to_vec())
    }

    #[test]
    fn the_verdict_is_that_of_init() {
        let (verdict, _) = watched("init: testing\r\ntest one ... ok\r\ninit: success\r\n", LONG);
        assert_eq!(verdict.unwrap(), Verdict::Passed);
        let (verdict, _) = watched("init: testing\r\ninit: failure\r\n", LONG);
        assert_eq!(verdict.unwrap(), Verdict::Failed);
    }

    #[test]
    fn a_kernel_panic_is_a_failure_whatever_follows() {
        let (verdict, tail) = watched("[ 1.0] Kernel panic - not syncing: why\ninit: success\n", LONG);
        assert!(verdict.unwrap_err().to_string().ends_with("Kernel panic - not syncing: why"));
        assert_eq!(tail.len(), 2);
    }

    #[test]
    fn a_machine_that_ends_early_is_a_failure() {
        let (verdict, _) = watched("[ 0.1] Booting\n", LONG);
        assert!(verdict.unwrap_err().to_string().contains("ended before"));
    }

    #[test]
    fn a_silent_machine_is_stopped_at_the_timeout() {
        let (_sender, lines) = mpsc::channel();
        let directory = tempfile::tempdir().unwrap();
        let mut console = Console::create(&directory.path().join("log"), |_: &str| {}).unwrap();
        let error = watch(&lines, Duration::from_millis(20), &mut console).unwrap_err();
        assert!(error.to_string().contains("has not finished"), "{error}");
    }

    #[test]
    fn the_failing_assertion_is_shown_however_long_it_is() {
        let mut text = String::from("noise\nfailures:\nassertion\n");
        text.push_str(&"more\n".repeat(2 * TAIL_LINES));
        let (_, shown) = watched(text.leak(), LONG);
        assert_eq!(shown[..2], ["failures:", "assertion"]);
    }
}
