//! A QEMU process with a booted guest.

mod command_line;
mod files;
mod program;

pub(crate) use command_line::{Plan, Start};
pub(crate) use files::converge_qmp_socket;
pub(crate) use program::MEMORY_GAP_KIB;
pub use program::{QemuChoice, QemuProgram};

use crate::guest::READY;
use crate::process::{self, Process};
use crate::qmp::Qmp;
use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// From its start to its monitor.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// From `quit` to its end.
const QUIT_PATIENCE: Duration = Duration::from_secs(5);

const POLL: Duration = Duration::from_millis(10);

/// A running QEMU and the connection to its monitor.
#[derive(Debug)]
pub struct Qemu {
    pid: u32,
    qmp: Qmp,
    directory: PathBuf,
    /// None if it stays when this process ends.
    process: Option<Process>,
}

/// A QEMU that was just started.
enum Started {
    /// It ends with this process.
    Bound(Process),
    Detached(Child),
}

impl Started {
    fn child(&mut self) -> &mut Child {
        match self {
            Self::Bound(process) => process.child(),
            Self::Detached(child) => child,
        }
    }

    /// Waits until its monitor accepts a connection.
    fn connect(&mut self, directory: &Path) -> Result<Qmp> {
        let log = files::log(directory);
        let started = Instant::now();
        loop {
            if let Some(status) = self.child().try_wait()? {
                bail!("QEMU ended right after its start ({status}): {}", tail(&log));
            }
            match Qmp::connect(&files::qmp_socket(directory)) {
                Ok(qmp) => return Ok(qmp),
                Err(error) if started.elapsed() > START_PATIENCE => {
                    return Err(error).with_context(|| format!("QEMU does not answer: {}", tail(&log)));
                }
                Err(_) => std::thread::sleep(POLL),
            }
        }
    }
}

impl Qemu {
    /// Starts QEMU and connects to its monitor. All of its files are in the plan's directory.
    pub(crate) fn start(plan: &Plan<'_>) -> Result<Self> {
        let directory = plan.directory;
        clear(directory)?;
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let mut command = command_line::command(plan)?;
        let log = files::log(directory);
        let log_file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        command.stdin(std::process::Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
        let mut started = if plan.lasting {
            Started::Detached(process::spawn_detached(plan.host.netns(), &mut command)?)
        } else {
            Started::Bound(process::spawn(&plan.host.namespaces(), &mut command)?)
        };
        let pid = started.child().id();
        fs::write(files::pid(directory), pid.to_string())?;
        let qmp = started.connect(directory)?;
        let process = match started {
            Started::Bound(process) => Some(process),
            Started::Detached(mut child) => {
                std::thread::spawn(move || child.wait());
                None
            }
        };
        Ok(Self { pid, qmp, directory: directory.into(), process })
    }

    /// Connects to a QEMU that stayed from an earlier process, if there is one.
    pub(crate) fn attach(directory: &Path) -> Result<Option<Self>> {
        let Some(pid) = recorded_pid(directory).filter(|pid| is_alive(*pid, directory)) else {
            return Ok(None);
        };
        let qmp = Qmp::connect(&files::qmp_socket(directory))?;
        Ok(Some(Self { pid, qmp, directory: directory.into(), process: None }))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The driver's connection to the monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// The socket of the driver's monitor. A second client gets no greeting there.
    #[must_use]
    pub fn qmp_socket(&self) -> PathBuf {
        files::qmp_socket(&self.directory)
    }

    /// The socket of a second monitor, which no client uses yet.
    #[must_use]
    pub fn spare_qmp_socket(&self) -> PathBuf {
        files::spare_qmp_socket(&self.directory)
    }

    /// What the guest wrote to its serial console while it ran here.
    #[must_use]
    pub fn console(&self) -> String {
        read(&files::console(&self.directory))
    }

    /// What QEMU itself wrote to its standard output and error.
    #[must_use]
    pub fn log(&self) -> String {
        read(&files::log(&self.directory))
    }

    /// Whether its process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        is_alive(self.pid, &self.directory)
    }

    /// Waits until the guest's init writes that it is ready.
    pub(crate) fn wait_ready(&self, patience: Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            let console = self.console();
            if console.contains(READY) {
                return Ok(());
            }
            if !self.is_alive() {
                let words = [last_lines(&console), last_lines(&self.log())].concat();
                let words =
                    if words.is_empty() { "neither the guest nor QEMU wrote anything" } else { &words };
                bail!("the guest ended while it booted: {words}");
            }
            if started.elapsed() > patience {
                bail!("the guest is not ready after {} s: {}", patience.as_secs(), last_lines(&console));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Ends QEMU and waits until it is gone.
    pub(crate) fn quit(mut self) {
        // QEMU may end before it answers.
        let _ = self.qmp.execute("quit", json!({}));
        let started = Instant::now();
        while self.is_alive() && started.elapsed() < QUIT_PATIENCE {
            match &mut self.process {
                Some(process) => {
                    let _ = process.wait(POLL);
                }
                None => std::thread::sleep(POLL),
            }
        }
        end(self.pid, &self.directory);
    }
}

/// Ends the QEMU that an interrupted driver may have left in `directory`, and removes its files except for disks.
fn clear(directory: &Path) -> Result<()> {
    if let Some(pid) = recorded_pid(directory) {
        end(pid, directory);
    }
    for path in [
        files::qmp_socket(directory),
        files::spare_qmp_socket(directory),
        converge_qmp_socket(directory),
        files::console(directory),
        files::pid(directory),
    ] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn end(pid: u32, directory: &Path) {
    let started = Instant::now();
    while is_alive(pid, directory) && started.elapsed() < QUIT_PATIENCE {
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        std::thread::sleep(POLL);
    }
}

fn recorded_pid(directory: &Path) -> Option<u32> {
    fs::read_to_string(files::pid(directory)).ok()?.trim().parse().ok()
}

/// Whether the process still is the QEMU of this directory: its process id may belong to another process by now.
fn is_alive(pid: u32, directory: &Path) -> bool {
    match kill(Pid::from_raw(pid.cast_signed()), None) {
        Ok(()) | Err(Errno::EPERM) => {}
        Err(_) => return false,
    }
    // Empty for a zombie.
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let socket = files::qmp_socket(directory).display().to_string();
    command_line.windows(socket.len()).any(|window| window == socket.as_bytes())
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn tail(path: &Path) -> String {
    last_lines(&read(path))
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim().lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
