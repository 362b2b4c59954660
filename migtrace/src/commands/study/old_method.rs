//! The method of 2014, in each run: `ping` every 200 ms, and the counters of whole interfaces.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use migtrace::study::meter::Counters;
use migtrace::study::pings;
use migtrace::study::run::{Meter, Pings};
use migtrace::vocabulary::NotMeasured;
use nix::sys::signal::Signal;

use super::collected::{Collected, bytes};
use super::group::{Groups, Pipes, Running};
use crate::commands::explain;

pub(super) const PING: &str = "lost pings (the method of 2014)";
pub(super) const METER: &str = "bytes of whole interfaces (the method of 2014)";

/// How long a host may take to show its counters.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long ping may take to end.
const PING_PATIENCE: Duration = Duration::from_secs(5);
/// A day of pings is shorter.
const MOST_PING_BYTES: u64 = 64 << 20;
/// `/proc/net/dev` of a host with thousands of interfaces is shorter.
const MOST_COUNTERS_BYTES: u64 = 4 << 20;

/// A host, and how it is reached.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// None for this one.
    pub(super) name: Option<String>,
    /// The remote shell and its options; empty for `ssh`.
    pub(super) remote_shell: Vec<String>,
}

impl Host {
    /// What runs a line of `sh` there.
    pub(super) fn command(&self, line: &str) -> Command {
        let Some(name) = &self.name else {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", line]);
            return command;
        };
        let (program, options) = match self.remote_shell.split_first() {
            Some((program, options)) => (program.as_str(), options),
            None => ("ssh", [].as_slice()),
        };
        let mut command = Command::new(program);
        // The shell of the user there may be another one.
        command.args(options).arg(name).arg(shell_words::join(["sh", "-c", line]));
        command
    }

    fn shown(&self) -> &str {
        self.name.as_deref().unwrap_or("this host")
    }
}

/// What `sh` runs to ping an address until its standard input ends. So nothing is left there when the connection breaks.
pub(super) fn ping_line(address: &str) -> String {
    let interval_s = pings::INTERVAL.as_secs_f64();
    let ping = shell_words::join(["ping", "-n", "-i", &interval_s.to_string(), "-O", "--", address]);
    format!(
        "command -v ping >/dev/null || {{ echo 'ping is not installed' >&2; exit 127; }}; \
         LC_ALL=C {ping} & ping=$!; cat >/dev/null; kill -INT $ping 2>/dev/null; wait $ping"
    )
}

/// What `sh` runs to show the counters.
pub(super) const METER_LINE: &str = "cat /proc/net/dev";

/// A ping that runs.
pub(super) struct Pinging {
    running: Running,
    /// Closing it ends ping.
    stdin: Option<ChildStdin>,
    started: Instant,
    copying: Option<Collected<u64>>,
    log: PathBuf,
    host: Host,
}

impl Pinging {
    /// Starts to ping. What ping prints goes to `ping.log` in the folder.
    pub(super) fn start(
        groups: &mut Groups,
        command: &mut Command,
        host: &Host,
        folder: &Path,
    ) -> Result<Self> {
        let log = folder.join("ping.log");
        let mut file = File::create(&log).with_context(|| format!("cannot write to {}", log.display()))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::from(file.try_clone()?));
        let started = Instant::now();
        let (running, Pipes { stdin, stdout, .. }) = start(groups, command)?;
        let copying = stdout
            .map(|stdout| Collected::start(move || io::copy(&mut stdout.take(MOST_PING_BYTES), &mut file)));
        let copying = copying.transpose()?;
        Ok(Self { running, stdin, started, copying, log, host: host.clone() })
    }

    /// Ends it, and reads what it has seen.
    pub(super) async fn finish(&mut self) -> Result<Pings> {
        drop(self.stdin.take());
        let ended = self.running.ended_within(PING_PATIENCE).await;
        let ran = self.started.elapsed();
        self.running.terminate().await;
        if let Some(copying) = self.copying.take()
            && copying.end().await.context("ping")? == MOST_PING_BYTES
        {
            bail!("{} wrote more than ping does", self.host.shown());
        }
        let text = String::from_utf8_lossy(&fs::read(&self.log)?).into_owned();
        pings::parse(&text, ran).map_err(|why| {
            let said = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
            let ending = ended.map_or_else(|| "it did not end".to_owned(), |(ending, _)| ending.to_string());
            anyhow!("{why} on {} ({ending}): {said}", self.host.shown())
        })
    }
}

/// Reads the counters of a host.
pub(super) async fn counters(groups: &mut Groups, command: &mut Command, host: &Host) -> Result<Counters> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut running, Pipes { stdout, stderr, .. }) = start(groups, command)?;
    let stdout = Collected::start(bytes(stdout, MOST_COUNTERS_BYTES))?;
    let stderr = Collected::start(bytes(stderr, MOST_COUNTERS_BYTES))?;
    let ended = running.ended_within(PATIENCE).await;
    running.signal(Signal::SIGKILL);
    let text = |bytes: Result<Vec<u8>>| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
    let (stdout, stderr) = (text(stdout.end().await), text(stderr.end().await));
    match ended {
        None => bail!("{} has not shown its counters within {} s", host.shown(), PATIENCE.as_secs()),
        Some((ending, _)) if !ending.is_success() => {
            bail!("{} has not shown its counters ({ending}): {}", host.shown(), stderr.trim())
        }
        Some(_) => Counters::parse(&stdout).map_err(|why| anyhow!("{}: {why}", host.shown())),
    }
}

fn start(groups: &mut Groups, command: &mut Command) -> Result<(Running, Pipes)> {
    let program = command.get_program().to_string_lossy().into_owned();
    groups.start(command).with_context(|| format!("cannot run {program}"))
}

/// What was metered between two readings; why not, or not of all interfaces.
pub(super) fn metered(
    readings: (Result<Counters>, Result<Counters>),
    host: &Host,
    interface: Option<&str>,
) -> (Option<Meter>, Option<NotMeasured>) {
    let not = |why: String| NotMeasured { what: METER.to_owned(), why };
    let (before, after) = match readings {
        (Ok(before), Ok(after)) => (before, after),
        (Err(error), _) | (_, Err(error)) => return (None, Some(not(explain(&error)))),
    };
    match after.since(&before, host.name.as_deref(), interface) {
        Err(why) => (None, Some(not(format!("{}: {why}", host.shown())))),
        Ok(metered) if metered.unknown.is_empty() => (Some(metered.meter), None),
        Ok(metered) => {
            let names = metered.unknown.join(", ");
            let why = format!("{}: without {names}, which came, went or began to count anew", host.shown());
            (Some(metered.meter), Some(not(why)))
        }
    }
}
