//! Two hosts with a libvirtd each, and a guest that `virsh migrate` moves between them.
//!
//! The network, the guest and the clean-up are the lab's. Each host has, beside its network namespace, a mount namespace with
//! an /etc, /var and /run of its own, and a UTS namespace with a name of its own. libvirt comes from Debian's packages, which
//! are unpacked and not installed; QEMU is the machine's.

mod daemon;
mod domain;
mod host_files;
mod migration;
mod monitor_log;
mod namespaces;
mod packages;

pub use migration::{AbortPoint, JobInfo, LibvirtMigration, MigratedByLibvirt};
pub use packages::{fetch, fetched};

use crate::cache;
use crate::certificates::Authority;
use crate::clock::monotonic_ns;
use crate::guest::{self, Guest, READY};
use crate::host::Host;
use crate::kernels::Kernel;
use crate::lab::Lab;
use crate::migration::{ObservedEvent, Side};
use crate::migtrace_command::remote_shell;
use crate::process::Process;
use crate::programs;
use crate::qcow2;
use anyhow::{Context as _, Result, bail};
use daemon::{Daemon, emulator};
use host_files::HostFiles;
use namespaces::Mounts;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// On a machine with one busy core, an emulated guest boots in about half a minute.
const BOOT_PATIENCE: Duration = Duration::from_secs(180);
const MIGRATION_PATIENCE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);

/// In the cache: what libvirtd knows about this machine's QEMUs.
const CAPABILITIES: &str = "libvirt-capabilities";

/// A running lab with libvirt. Dropping it removes everything.
#[derive(Debug)]
pub struct LibvirtLab {
    lab: Lab,
    run_directory: PathBuf,
    source: Daemon,
    destination: Daemon,
    /// Whether the guest runs on the source.
    at_source: bool,
}

/// A `virsh migrate` that runs.
struct Begun {
    virsh: Process,
    /// Its command line.
    line: String,
    /// How long the logs of both libvirtd were before.
    logged: [usize; 2],
    started_ns: u64,
}

impl LibvirtLab {
    /// Starts libvirtd on both hosts of a lab, and the guest on its source.
    pub(crate) fn start(lab: Lab, kernel: &Kernel, accelerator: &str, run_directory: &Path) -> Result<Self> {
        let packages = fetch()?;
        let initramfs = run_directory.join("initramfs");
        guest::write_initramfs(kernel, &initramfs)?;
        let authority = Authority::create(&run_directory.join("ca"))?;
        let hosts = [lab.source(), lab.destination()];
        // One after the other: the second one takes over what the first one knows about QEMU.
        let start = |host: &Host| -> Result<Daemon> {
            let home = run_directory.join(host.role());
            let files = HostFiles::write(&home, host, &hosts)?;
            authority.issue(host.role(), host.ipv4().into(), &files.certificates())?;
            restore_capabilities(&files)?;
            let mounts =
                Mounts { home: &home, packages: &packages, kernel: &kernel.image, initramfs: &initramfs };
            let daemon = Daemon::start(host, files, &mounts)?;
            keep_capabilities(daemon.files())?;
            Ok(daemon)
        };
        let (source, destination) = (start(hosts[0])?, start(hosts[1])?);
        let lab = Self { lab, run_directory: run_directory.into(), source, destination, at_source: true };
        daemon::write_virsh_program(&lab.virsh_program(), [&lab.source, &lab.destination], &packages)?;
        let disk_mib = lab.guest().disk_mib;
        if disk_mib > 0 {
            qcow2::create_full(&lab.source.files().image(), disk_mib)?;
        }
        let domain = run_directory.join("src/var/tmp/guest.xml");
        fs::write(&domain, domain::xml(lab.guest(), accelerator, &emulator()?))
            .with_context(|| format!("cannot write {}", domain.display()))?;
        lab.source.virsh(&["define", "/var/tmp/guest.xml"])?;
        lab.source.virsh(&["start", &lab.guest().name])?;
        Ok(lab)
    }

    /// The lab's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.lab.name()
    }

    /// The guest's identity and addresses.
    #[must_use]
    pub fn guest(&self) -> &Guest {
        self.lab.guest()
    }

    /// The host on which the guest runs now. Programs there see its network and its name.
    #[must_use]
    pub fn guest_host(&self) -> &Host {
        self.guest_daemon().host()
    }

    /// The destination of the next migration.
    #[must_use]
    pub fn other_host(&self) -> &Host {
        self.other_daemon().host()
    }

    /// Both hosts, first the one on which the guest was started.
    #[must_use]
    pub fn hosts(&self) -> [&Host; 2] {
        [self.source.host(), self.destination.host()]
    }

    /// The process ids of both libvirtd.
    #[must_use]
    pub fn daemons(&self) -> [u32; 2] {
        [self.source.pid(), self.destination.pid()]
    }

    /// Waits until the guest has booted and answers the observer's pings over IPv4 and IPv6.
    ///
    /// # Errors
    ///
    /// When that takes more than three minutes, or libvirt says that it does not run.
    pub fn wait_guest_ready(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let console = self.source.files().console();
            if console.contains(READY) {
                return self.ping_guest();
            }
            let state = self.source.virsh(&["domstate", &self.guest().name])?;
            if state != "running" || started.elapsed() > BOOT_PATIENCE {
                bail!("the guest is {state} and not ready after {:?}: {console}", started.elapsed());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Pings the guest from the observer, over IPv4 and IPv6.
    ///
    /// # Errors
    ///
    /// When it does not answer within 20 seconds.
    pub fn ping_guest(&self) -> Result<()> {
        self.lab.ping_guest()
    }

    /// The host that pings the guest.
    #[must_use]
    pub fn observer(&self) -> &Host {
        self.lab.observer()
    }

    /// A program that runs virsh with its arguments on whichever host it is started, although that has the machine's files.
    #[must_use]
    pub fn virsh_program(&self) -> PathBuf {
        self.run_directory.join("virsh")
    }

    /// How `migtrace record --rsh` reaches the hosts.
    ///
    /// # Errors
    ///
    /// As [`remote_shell`].
    pub fn remote_shell(&self) -> Result<String> {
        remote_shell(&self.lab)
    }

    /// Runs virsh on the host of the guest, and returns what it prints.
    ///
    /// # Errors
    ///
    /// When it fails. The message has its standard error.
    pub fn virsh(&self, arguments: &[&str]) -> Result<String> {
        self.guest_daemon().virsh(arguments)
    }

    /// Moves the guest to the other host, with its disk if it has one.
    ///
    /// # Errors
    ///
    /// When `virsh migrate` fails, or the guest does not run on the other host afterwards.
    pub fn migrate(&mut self, migration: &LibvirtMigration) -> Result<MigratedByLibvirt> {
        let Begun { virsh, line, logged, started_ns } = self.begin(migration)?;
        let output = virsh.output(MIGRATION_PATIENCE)?;
        let ended_ns = monotonic_ns();
        if !output.status.success() {
            bail!("`{line}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let (from, to, name) = (self.guest_daemon(), self.other_daemon(), &self.guest().name);
        let state = to.virsh(&["domstate", name])?;
        if state != "running" {
            bail!("the guest is {state} on {}", to.host().role());
        }
        let events = self.events_since(logged)?;
        let qemu = monitor_log::statistics(&from.files().log(logged[0]))?;
        let info = |daemon: &Daemon| -> Result<JobInfo> {
            Ok(JobInfo::parse(&daemon.virsh(&["domjobinfo", "--completed", "--keep-completed", name])?))
        };
        let (source, destination) = (info(from)?, info(to)?);
        self.at_source = !self.at_source;
        Ok(MigratedByLibvirt { started_ns, ended_ns, events, qemu, source, destination })
    }

    /// Begins to move the guest, and aborts that with `virsh domjobabort` once it has come to `point`. Returns the events of
    /// both QEMUs.
    ///
    /// # Errors
    ///
    /// When it does not come there, virsh moves the guest all the same, or the guest does not run on its host afterwards.
    pub fn abort(&mut self, migration: &LibvirtMigration, point: AbortPoint) -> Result<Vec<ObservedEvent>> {
        let Begun { mut virsh, line, logged, .. } = self.begin(migration)?;
        let started = Instant::now();
        while !self.has_come_to(point, logged)? {
            if virsh.try_wait()?.is_some() || started.elapsed() > MIGRATION_PATIENCE {
                let output = virsh.output(Duration::ZERO)?;
                let said = String::from_utf8_lossy(&output.stderr);
                bail!("`{line}` did not come to {point:?}: {}", said.trim());
            }
            std::thread::sleep(POLL);
        }
        let name = &self.guest().name;
        self.virsh(&["domjobabort", name])?;
        if virsh.output(MIGRATION_PATIENCE)?.status.success() {
            bail!("`{line}` succeeded although it was aborted");
        }
        let state = self.virsh(&["domstate", name])?;
        if state != "running" {
            bail!("the guest is {state} after the abort of its migration");
        }
        self.events_since(logged)
    }

    /// Whether a migration that runs has come to this point.
    fn has_come_to(&self, point: AbortPoint, logged: [usize; 2]) -> Result<bool> {
        Ok(match point {
            AbortPoint::Memory => self
                .events_since(logged)?
                .iter()
                .any(|observed| observed.side == Side::Source && observed.event.data["status"] == "active"),
            AbortPoint::Disk { bytes } => {
                // There is no job yet, or none any more.
                let info = self.virsh(&["domjobinfo", &self.guest().name]).unwrap_or_default();
                JobInfo::parse(&info).bytes("File processed").is_some_and(|copied| copied >= bytes as f64)
            }
        })
    }

    /// Starts `virsh migrate`.
    fn begin(&self, migration: &LibvirtMigration) -> Result<Begun> {
        let (from, to) = (self.guest_daemon(), self.other_daemon());
        let Guest { name, disk_mib, .. } = self.guest();
        if *disk_mib > 0 {
            // libvirt makes an image only where it manages a pool of them.
            qcow2::create_empty(&to.files().image(), *disk_mib)?;
        }
        let logged = [from, to].map(|daemon| daemon.files().log(0).len());
        let options = migration.options(*disk_mib > 0, to.host().role());
        let uri = format!("qemu+tcp://{}/system", to.host().ipv4());
        let arguments = ["migrate"].into_iter().chain(options.iter().map(String::as_str));
        let arguments: Vec<_> = arguments.chain([name.as_str(), &uri]).collect();
        let started_ns = monotonic_ns();
        let virsh = from.start_virsh(&arguments)?;
        Ok(Begun { virsh, line: format!("virsh {}", arguments.join(" ")), logged, started_ns })
    }

    /// The events of both QEMUs since the logs of the guest's host and of the other one had these lengths.
    fn events_since(&self, logged: [usize; 2]) -> Result<Vec<ObservedEvent>> {
        let sides = [(Side::Source, self.guest_daemon()), (Side::Destination, self.other_daemon())];
        let mut events = Vec::new();
        for ((side, daemon), from) in sides.into_iter().zip(logged) {
            let of_side = monitor_log::events(&daemon.files().log(from))?;
            events.extend(of_side.into_iter().map(|event| ObservedEvent { side, event }));
        }
        Ok(events)
    }

    fn guest_daemon(&self) -> &Daemon {
        if self.at_source { &self.source } else { &self.destination }
    }

    fn other_daemon(&self) -> &Daemon {
        if self.at_source { &self.destination } else { &self.source }
    }

    /// Stops the guest's vCPUs.
    pub(crate) fn pause_guest(&self) -> Result<()> {
        self.virsh(&["suspend", &self.guest().name]).map(drop)
    }

    /// Lets the guest's vCPUs run after [`LibvirtLab::pause_guest`].
    pub(crate) fn continue_guest(&self) -> Result<()> {
        self.virsh(&["resume", &self.guest().name]).map(drop)
    }
}

/// libvirtd ignores what does not fit its own file, QEMU's or the kernel.
fn restore_capabilities(files: &HostFiles) -> Result<()> {
    cache::read(CAPABILITIES, |kept| copy(kept, &files.cache()))
}

fn keep_capabilities(files: &HostFiles) -> Result<()> {
    cache::replace(CAPABILITIES, |directory| copy(&files.cache(), directory))
}

/// Copies the content of a directory with its times, by which libvirtd knows whether it is current.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let content = format!("{}/.", from.display());
    programs::run("cp", ["-a", &content, &to.display().to_string()]).map(drop)
}
