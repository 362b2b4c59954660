//! Runs long commands quietly: with a spinner on a terminal, else a line now and then. Shows the log only on failure.

use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::paths;

/// How often the spinner turns, and the child is checked for its end.
const TICK: Duration = Duration::from_millis(100);
/// How often a line is printed without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(20);
/// How much of the log of a failed command is shown.
const LOG_LINES_SHOWN: usize = 25;

/// Runs `command` with its output in `target/setup/LOG.log`, and shows `what` on stderr meanwhile.
///
/// # Errors
/// When the command cannot be started or fails; the end of its log is printed first.
pub(crate) fn run(what: &str, log: &str, command: &mut Command) -> Result<()> {
    let directory = paths::target().join("setup");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let path = directory.join(log).with_extension("log");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let errors = file.try_clone().context("cannot share the log between stdout and stderr")?;
    command.stdin(Stdio::null()).stdout(file).stderr(errors);

    let mut display = Display::new(what);
    let mut child = command.spawn().with_context(|| format!("{what}: cannot start {command:?}"))?;
    let status = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("{what}: lost {command:?}"))? {
            break status;
        }
        display.update(|| tail(&path, 1).unwrap_or_default());
        thread::sleep(TICK);
    };
    display.finish(status.success());
    if !status.success() {
        for line in tail(&path, LOG_LINES_SHOWN).unwrap_or_default().lines() {
            eprintln!("  | {line}");
        }
        bail!("{what}: {command:?} ended with {status}; its log is {}", path.display());
    }
    Ok(())
}

/// What is shown while a command runs.
struct Display {
    what: String,
    started: Instant,
    /// `None` where stderr is no terminal.
    spinner: Option<ProgressBar>,
    last_line: Instant,
}

impl Display {
    fn new(what: &str) -> Self {
        let spinner = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {prefix} ({elapsed}) {wide_msg:.dim}");
            let spinner = ProgressBar::new_spinner().with_prefix(what.to_owned());
            spinner.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            spinner
        });
        if spinner.is_none() {
            eprintln!("{what} ...");
        }
        let now = Instant::now();
        Self { what: what.to_owned(), started: now, spinner, last_line: now }
    }

    fn update(&mut self, newest: impl Fn() -> String) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(newest());
            spinner.tick();
        } else if self.last_line.elapsed() >= LINE_INTERVAL {
            self.last_line = Instant::now();
            eprintln!("  {} s: {}", self.started.elapsed().as_secs(), newest());
        }
    }

    fn finish(self, success: bool) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        let word = if success { "done" } else { "failed" };
        eprintln!("{}: {word} ({:.1} s)", self.what, self.started.elapsed().as_secs_f64());
    }
}

/// The last `count` lines of the file that are not empty. A carriage return ends a line too: progress bars use it.
fn tail(path: &Path, count: usize) -> io::Result<String> {
    const ENOUGH_BYTES: u64 = 16 << 10;
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(ENOUGH_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.split(['\n', '\r']).map(str::trim_end).filter(|line| !line.is_empty());
    let mut lines: Vec<_> = lines.rev().take(count).collect();
    lines.reverse();
    Ok(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_shows_the_last_lines_and_skips_what_was_overwritten() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "one\ntwo\n 5%\r 50%\r100%\n\nlast\n\n").unwrap();
        assert_eq!(tail(file.path(), 1).unwrap(), "last");
        assert_eq!(tail(file.path(), 3).unwrap(), " 50%\n100%\nlast");
    }

    #[test]
    fn tail_of_an_empty_log_is_empty() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(tail(file.path(), 3).unwrap(), "");
    }
}
