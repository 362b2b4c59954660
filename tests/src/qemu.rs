//! One QEMU process on one host.

use crate::guest::{Guest, READY};
use crate::host::Host;
use crate::kernels::Kernel;
use crate::process::{self, Process};
use crate::programs;
use crate::qmp::Qmp;
use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// From its start to its monitor.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// From `quit` to its end.
const QUIT_PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(10);

/// Before 9.0, QEMU loses writes of a TCG guest while it migrates, and the guest crashes sooner or later: the fast
/// path of `cpu_physical_memory_sync_dirty_bitmap` clears dirty bits without a word to TCG's TLB (fixed by commit
/// 03bfc2188f). It is only taken for memory that is a multiple of 64 pages, so the guest gets a little less.
const MEMORY_GAP_KIB: u64 = 8;

/// The block node of the guest's disk.
pub(crate) const DISK_NODE: &str = "disk0";

/// How a QEMU begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// It boots the guest.
    Boot,
    /// It waits for a migration, and lets the guest run as soon as it is there.
    Incoming,
    /// It waits for a migration, and lets the guest run at `cont`: libvirt's way.
    IncomingPaused,
}

/// What a QEMU needs to be started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) guest: &'a Guest,
    pub(crate) host: &'a Host,
    pub(crate) kernel: &'a Kernel,
    pub(crate) initramfs: &'a Path,
    pub(crate) accelerator: &'a str,
    pub(crate) directory: &'a Path,
    pub(crate) start: Start,
    /// It stays when this process ends.
    pub(crate) lasting: bool,
}

/// A running QEMU and the connection to its monitor.
#[derive(Debug)]
pub struct Qemu {
    pid: u32,
    qmp: Qmp,
    directory: PathBuf,
    /// Nothing for one that stays when this process ends.
    process: Option<Process>,
}

/// A QEMU that was started just now.
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
}

impl Qemu {
    /// Starts it and connects to its monitor. Everything that it leaves is in the plan's directory.
    pub(crate) fn start(plan: &Plan<'_>) -> Result<Self> {
        let directory = plan.directory;
        clear(directory)?;
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let mut command = arguments(plan)?;
        let log = log_path(directory);
        let log_file = File::create(&log).with_context(|| format!("cannot make {}", log.display()))?;
        command.stdin(std::process::Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
        let netns = plan.host.netns();
        let mut started = if plan.lasting {
            Started::Detached(process::spawn_detached(netns, &mut command)?)
        } else {
            Started::Bound(process::spawn(netns, &mut command)?)
        };
        let pid = started.child().id();
        fs::write(pid_path(directory), pid.to_string())?;
        let since = Instant::now();
        let qmp = loop {
            if let Some(status) = started.child().try_wait()? {
                bail!("QEMU ended right after its start ({status}): {}", tail(&log));
            }
            match Qmp::connect(&qmp_path(directory)) {
                Ok(qmp) => break qmp,
                Err(error) if since.elapsed() > START_PATIENCE => {
                    return Err(error).with_context(|| format!("QEMU does not answer: {}", tail(&log)));
                }
                Err(_) => std::thread::sleep(POLL),
            }
        };
        let process = match started {
            Started::Bound(process) => Some(process),
            Started::Detached(mut child) => {
                std::thread::spawn(move || child.wait());
                None
            }
        };
        Ok(Self { pid, qmp, directory: directory.into(), process })
    }

    /// Connects to one that was started earlier and stayed; nothing if there is none.
    pub(crate) fn attach(directory: &Path) -> Result<Option<Self>> {
        let Some(pid) = recorded_pid(directory).filter(|pid| is_alive(*pid, directory)) else {
            return Ok(None);
        };
        let qmp = Qmp::connect(&qmp_path(directory))?;
        Ok(Some(Self { pid, qmp, directory: directory.into(), process: None }))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The driver's own monitor connection.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// The socket of the monitor that the driver holds: a second client gets no greeting there.
    #[must_use]
    pub fn qmp_socket(&self) -> PathBuf {
        qmp_path(&self.directory)
    }

    /// The socket of a second monitor, which is free.
    #[must_use]
    pub fn spare_qmp_socket(&self) -> PathBuf {
        self.directory.join("qmp-spare.sock")
    }

    /// What the guest wrote to its serial console while it ran here.
    #[must_use]
    pub fn console(&self) -> String {
        read(&console_path(&self.directory))
    }

    /// What QEMU itself wrote to its standard output and error.
    #[must_use]
    pub fn log(&self) -> String {
        read(&log_path(&self.directory))
    }

    /// Whether its process still runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        is_alive(self.pid, &self.directory)
    }

    /// Waits until the guest's init says that it is ready.
    pub(crate) fn wait_ready(&self, patience: Duration) -> Result<()> {
        let started = Instant::now();
        loop {
            let console = self.console();
            if console.contains(READY) {
                return Ok(());
            }
            if !self.is_alive() {
                let words = [last_lines(&console), last_lines(&self.log())].concat();
                let words = if words.is_empty() { "neither it nor QEMU said a word" } else { &words };
                bail!("the guest ended while it booted: {words}");
            }
            if started.elapsed() > patience {
                bail!("the guest is not ready after {} s: {}", patience.as_secs(), last_lines(&console));
            }
            std::thread::sleep(POLL);
        }
    }

    /// Ends it and waits until it is gone.
    pub(crate) fn quit(mut self) {
        // An answer may or may not come before the end.
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

/// Ends whatever QEMU an interrupted driver has left in `directory`, and removes what it wrote, but for disks.
fn clear(directory: &Path) -> Result<()> {
    if let Some(pid) = recorded_pid(directory) {
        end(pid, directory);
    }
    for path in
        [qmp_path(directory), directory.join("qmp-spare.sock"), console_path(directory), pid_path(directory)]
    {
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

fn arguments(plan: &Plan<'_>) -> Result<Command> {
    let Plan { guest, directory, .. } = plan;
    let mut command = Command::new(programs::find("qemu-system-x86_64")?);
    let path = |path: &Path| path.display().to_string();
    let memory = format!("{}K", guest.memory_mib * 1024 - MEMORY_GAP_KIB);
    let vcpus = guest.vcpus.to_string();
    let (tap, mac) = (Host::TAP, &guest.mac);
    let mut arguments = vec![
        "-name".into(),
        format!("{},debug-threads=on", guest.name),
        "-uuid".into(),
        guest.uuid.clone(),
        "-machine".into(),
        "pc".into(),
        "-accel".into(),
        plan.accelerator.into(),
        "-m".into(),
        memory,
        "-smp".into(),
        vcpus,
        "-nodefaults".into(),
        "-no-user-config".into(),
        "-no-reboot".into(),
        "-display".into(),
        "none".into(),
        "-serial".into(),
        format!("file:{}", path(&console_path(directory))),
        "-kernel".into(),
        path(&plan.kernel.image),
        "-initrd".into(),
        path(plan.initramfs),
        "-append".into(),
        guest.command_line(),
        "-qmp".into(),
        format!("unix:{},server=on,wait=off", path(&qmp_path(directory))),
        "-qmp".into(),
        format!("unix:{},server=on,wait=off", path(&directory.join("qmp-spare.sock"))),
        "-netdev".into(),
        format!("tap,id=net0,ifname={tap},script=no,downscript=no,vhost=off"),
        "-device".into(),
        // No boot ROM: its package may be missing, and nobody boots from this NIC.
        format!("virtio-net-pci,netdev=net0,mac={mac},romfile="),
    ];
    if guest.disk_mib > 0 {
        let image = path(&disk_path(directory));
        arguments.extend([
            "-blockdev".into(),
            format!("driver=file,node-name={DISK_NODE}-file,filename={image}"),
            "-blockdev".into(),
            format!("driver=qcow2,node-name={DISK_NODE},file={DISK_NODE}-file"),
            "-device".into(),
            format!("virtio-blk-pci,drive={DISK_NODE}"),
        ]);
    }
    match plan.start {
        Start::Boot => {}
        Start::Incoming => arguments.extend(["-incoming".into(), "defer".into()]),
        Start::IncomingPaused => arguments.extend(["-incoming".into(), "defer".into(), "-S".into()]),
    }
    command.args(arguments);
    Ok(command)
}

/// The image of the disk of a QEMU in `directory`.
pub(crate) fn disk_path(directory: &Path) -> PathBuf {
    directory.join("disk.qcow2")
}

fn qmp_path(directory: &Path) -> PathBuf {
    directory.join("qmp.sock")
}

fn console_path(directory: &Path) -> PathBuf {
    directory.join("console.log")
}

fn log_path(directory: &Path) -> PathBuf {
    directory.join("qemu.log")
}

fn pid_path(directory: &Path) -> PathBuf {
    directory.join("qemu.pid")
}

fn recorded_pid(directory: &Path) -> Option<u32> {
    fs::read_to_string(pid_path(directory)).ok()?.trim().parse().ok()
}

/// A process of this number may be another one by now: only a QEMU of this directory counts.
fn is_alive(pid: u32, directory: &Path) -> bool {
    match kill(Pid::from_raw(pid.cast_signed()), None) {
        Ok(()) | Err(Errno::EPERM) => {}
        Err(_) => return false,
    }
    // Empty for a zombie.
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let socket = qmp_path(directory).display().to_string();
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
