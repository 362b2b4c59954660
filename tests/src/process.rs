//! Processes of the lab, each in its network namespace. They end with this process unless they are started to stay.

use crate::netns::NetNs;
use crate::programs::line;
use anyhow::{Context as _, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::{Pid, setsid};
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Output};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(5);

/// A running process. Dropping this kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    line: String,
}

impl Process {
    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The standard library's handle, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// When it has ended and was waited for.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.id().cast_signed()), signal)
            .with_context(|| format!("cannot send {signal} to `{}`", self.line))
    }

    /// Waits until it ends.
    ///
    /// # Errors
    ///
    /// When it still runs after `patience`.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if started.elapsed() > patience {
                bail!("`{}` still runs after {} s", self.line, patience.as_secs_f32());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Its exit status, if it has ended.
    ///
    /// # Errors
    ///
    /// When the kernel does not know it.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for `{}`", self.line))
    }

    /// Waits until it ends and returns everything that it wrote to its pipes.
    ///
    /// # Errors
    ///
    /// When it still runs after `patience`. Then it is killed.
    pub fn output(mut self, patience: Duration) -> Result<Output> {
        // Both pipes are read while it runs: a full pipe would block it.
        let stdout = read_all(self.child.stdout.take());
        let stderr = read_all(self.child.stderr.take());
        let status = self.wait(patience)?;
        Ok(Output { status, stdout: stdout.recv()??, stderr: stderr.recv()?? })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_all(pipe: Option<impl io::Read + Send + 'static>) -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let result = pipe.map_or(Ok(0), |mut pipe| pipe.read_to_end(&mut bytes));
        let _ = sender.send(result.map(|_| bytes));
    });
    receiver
}

/// A namespace, and its kind.
pub(crate) type Namespace = (Arc<File>, CloneFlags);

/// Starts `command` inside these namespaces. It is killed when this process ends in any way.
pub(crate) fn spawn(namespaces: &[Namespace], command: &mut Command) -> Result<Process> {
    let line = line(command);
    let namespaces = namespaces.to_vec();
    let enter = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        for (file, kind) in &namespaces {
            setns(&**file, *kind)?;
        }
        // The tests may run under `nohup`, and their children must not inherit that.
        // SAFETY: the default handler runs no function of this program.
        unsafe { signal(Signal::SIGHUP, SigHandler::SigDfl)? };
        Ok(())
    };
    // SAFETY: only system calls and no allocation, which is all that may happen between fork and exec.
    unsafe { command.pre_exec(enter) };
    let child = spawn_on_lasting_thread(command).with_context(|| format!("cannot start `{line}`"))?;
    Ok(Process { child, line })
}

/// Starts `command` inside `netns`, detached (setsid), so that it stays when this process ends. Until then the caller must
/// wait for it, or it becomes a zombie when it ends.
pub(crate) fn spawn_detached(netns: &NetNs, command: &mut Command) -> Result<Child> {
    let line = line(command);
    let netns_file = netns.file();
    let enter = move || {
        setsid()?;
        setns(&*netns_file, CloneFlags::CLONE_NEWNET)?;
        Ok(())
    };
    // SAFETY: two system calls and no allocation, which is all that may happen between fork and exec.
    unsafe { command.pre_exec(enter) };
    command.spawn().with_context(|| format!("cannot start `{line}`"))
}

/// A number of `/proc/PID/status` (proc_pid_status(5)): sizes are in KiB.
///
/// # Errors
///
/// When there is no such process, or no such field with a number.
pub fn process_status(pid: u32, field: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{path} has no {field}"))
}

/// Replaces this process by `command` inside `netns`.
pub(crate) fn exec(netns: &NetNs, command: &mut Command) -> anyhow::Error {
    if let Err(error) = setns(netns, CloneFlags::CLONE_NEWNET) {
        return anyhow!(error).context(format!("cannot enter the network namespace {}", netns.name()));
    }
    anyhow!(command.exec()).context(format!("cannot run `{}`", line(command)))
}

type Order = (Command, mpsc::Sender<(Command, io::Result<Child>)>);

/// Spawns from a thread that lives as long as the process. The parent death signal is sent when the *thread* that forked
/// ends (prctl(2)), and a test runner's threads end with their tests.
fn spawn_on_lasting_thread(command: &mut Command) -> Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in orders {
                let child = command.spawn();
                let _ = reply.send((command, child));
            }
        });
        sender
    });
    let (sender, reply) = mpsc::channel();
    let order = std::mem::replace(command, Command::new(""));
    spawner.send((order, sender)).map_err(|_| anyhow!("the thread that starts processes has ended"))?;
    let (order, child) = reply.recv()?;
    *command = order;
    Ok(child?)
}
