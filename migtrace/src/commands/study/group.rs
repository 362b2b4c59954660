//! The processes that a study starts: each command is a process group of its own.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use tokio::sync::watch;

use super::leftovers;

/// How long a command may take to end once it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// How often to look whether a process that was killed is gone.
const POLL: Duration = Duration::from_millis(2);

/// How a command has ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ending {
    Code(i32),
    Signal(Signal),
    /// The kernel does not say.
    Unknown,
}

impl Ending {
    pub(super) fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "killed by {signal}"),
            Self::Unknown => write!(f, "ended in an unknown way"),
        }
    }
}

/// A process group. Its first process is not waited for before the whole group was killed: until then no other group can get
/// its number.
struct Group {
    child: Child,
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = killpg(pid_of(&self.child), Signal::SIGKILL);
        // What `sudo` has started cannot be killed without it.
        let until = Instant::now() + GRACE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(POLL);
        }
    }
}

fn pid_of(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// The process groups of a run. Dropping this kills whatever is left of them.
pub(super) struct Groups {
    /// That of the run.
    folder: PathBuf,
    all: Vec<Group>,
    ended: Vec<watch::Receiver<Option<(Ending, Instant)>>>,
}

/// A command that was started. Its group is held by [`Groups`].
#[derive(Clone)]
pub(super) struct Running {
    pid: Pid,
    started: Instant,
    ended: watch::Receiver<Option<(Ending, Instant)>>,
}

/// What is read from a command, and written to it, if that was asked for.
pub(super) struct Pipes {
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

impl Groups {
    /// None yet of the run in this folder.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, all: Vec::new(), ended: Vec::new() }
    }

    /// Starts a command in a group of its own.
    pub(super) fn start(&mut self, command: &mut Command) -> Result<(Running, Pipes)> {
        let started = Instant::now();
        let mut child = command.process_group(0).spawn()?;
        let pipes =
            Pipes { stdin: child.stdin.take(), stdout: child.stdout.take(), stderr: child.stderr.take() };
        let pid = pid_of(&child);
        self.all.push(Group { child });
        // So that the next study kills it, should this one be killed.
        leftovers::note(&self.folder, pid).context("cannot write into the folder of the run")?;
        let (tell, ended) = watch::channel(None);
        self.ended.push(ended.clone());
        thread::Builder::new().name("wait".to_owned()).spawn(move || {
            let ending = wait(pid);
            tell.send_replace(Some((ending, Instant::now())));
        })?;
        Ok((Running { pid, started, ended }, pipes))
    }

    /// Asks all that still run to end, and gives them a moment.
    pub(super) async fn terminate_all(&mut self) {
        for group in &self.all {
            let _ = killpg(pid_of(&group.child), Signal::SIGTERM);
        }
        let all_ended = async {
            for ended in &mut self.ended {
                let _ = ended.wait_for(Option::is_some).await;
            }
        };
        let _ = tokio::time::timeout(GRACE, all_ended).await;
    }

    /// Kills what is left of them.
    pub(super) fn kill_all(&mut self) {
        self.all.clear();
        self.ended.clear();
    }
}

/// Waits until the first process of a group has ended, and leaves it to [`Group`].
fn wait(pid: Pid) -> Ending {
    loop {
        match waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Ok(WaitStatus::Exited(_, code)) => return Ending::Code(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ending::Signal(signal),
            Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => return Ending::Unknown,
        }
    }
}

impl Running {
    /// How the command has ended, and how long it took. Cancel-safe.
    pub(super) async fn ended(&mut self) -> (Ending, Duration) {
        let started = self.started;
        match self.ended.wait_for(Option::is_some).await.ok().and_then(|ended| *ended) {
            Some((ending, at)) => (ending, at.duration_since(started)),
            None => (Ending::Unknown, started.elapsed()),
        }
    }

    /// The same, unless it takes longer than this.
    pub(super) async fn ended_within(&mut self, limit: Duration) -> Option<(Ending, Duration)> {
        tokio::time::timeout(limit, self.ended()).await.ok()
    }

    /// Sends a signal to its whole group. False if that is not permitted: what `sudo` has started belongs to root.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        killpg(self.pid, signal) != Err(Errno::EPERM)
    }

    /// Asks the group to end, and kills it if it does not.
    pub(super) async fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
        let _ = self.ended_within(GRACE).await;
        self.signal(Signal::SIGKILL);
    }
}
