//! A host with a running libvirtd.

use super::host_files::{HostFiles, PACKAGES};
use super::namespaces::{Mounts, Namespaces};
use super::packages::{LIBRARIES, LIBVIRTD, VIRSH};
use crate::host::Host;
use crate::process::{self, Namespace, Process};
use crate::programs;
use anyhow::{Context as _, Result, bail};
use nix::sched::CloneFlags;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// On a machine with one busy core, libvirtd asks this machine's QEMUs for half a minute what they can do.
const START_PATIENCE: Duration = Duration::from_secs(180);
/// For everything but a migration.
const VIRSH_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A host, its libvirtd and its files.
#[derive(Debug)]
pub(super) struct Daemon {
    host: Host,
    namespaces: Vec<Namespace>,
    files: HostFiles,
    process: Process,
}

impl Daemon {
    /// Starts libvirtd on a host, and waits until it answers.
    pub(super) fn start(host: &Host, files: HostFiles, mounts: &Mounts<'_>) -> Result<Self> {
        let Namespaces { mount, uts } = Namespaces::create(host, mounts)?;
        let namespaces = vec![
            host.netns().namespace(),
            (uts.clone(), CloneFlags::CLONE_NEWUTS),
            (mount, CloneFlags::CLONE_NEWNS),
        ];
        let mut libvirtd = command(LIBVIRTD);
        libvirtd.arg("--listen").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = process::spawn(&namespaces, &mut libvirtd)?;
        let mut daemon = Self { host: host.clone().with_uts(uts), namespaces, files, process };
        daemon.wait_until_it_answers()?;
        Ok(daemon)
    }

    fn wait_until_it_answers(&mut self) -> Result<()> {
        let started = Instant::now();
        while !(self.files.socket().exists() && self.virsh(&["version"]).is_ok()) {
            let role = self.host.role();
            if let Some(status) = self.process.try_wait()? {
                bail!("libvirtd on {role} ended right after its start ({status}): {}", self.files.log(0));
            }
            if started.elapsed() > START_PATIENCE {
                bail!("libvirtd on {role} does not answer: {}", self.files.log(0));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// The host under its own name. Its mounts are the machine's, so that programs there see the machine's files.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn files(&self) -> &HostFiles {
        &self.files
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Runs virsh on this host, and returns what it prints.
    pub(super) fn virsh(&self, arguments: &[&str]) -> Result<String> {
        let output = self.start_virsh(arguments)?.output(VIRSH_PATIENCE)?;
        if !output.status.success() {
            let (line, stderr) = (arguments.join(" "), String::from_utf8_lossy(&output.stderr));
            bail!("`virsh {line}` failed on {} ({}): {}", self.host.role(), output.status, stderr.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().into())
    }

    /// Starts virsh on this host, with pipes for what it writes.
    pub(super) fn start_virsh(&self, arguments: &[&str]) -> Result<Process> {
        let mut virsh = command(VIRSH);
        virsh.args(["--quiet", "--connect", "qemu:///system"]).args(arguments);
        virsh.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process::spawn(&self.namespaces, &mut virsh)
    }
}

/// A program of the unpacked packages, as the host sees it.
fn command(program: &str) -> Command {
    let mut command = Command::new(Path::new(PACKAGES).join(program));
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8").current_dir("/");
    command.env("HOME", "/var/tmp").env("TMPDIR", "/var/tmp");
    command
}

/// Writes a program that runs virsh and reaches the libvirtd of the host on which it is started.
pub(super) fn write_virsh_program(path: &Path, daemons: [&Daemon; 2], packages: &Path) -> Result<()> {
    let case = |daemon: &Daemon| {
        let (address, socket) = (daemon.host.ipv4(), daemon.files.socket());
        format!("*' {address}/'*) socket={} ;;\n", socket.display())
    };
    let script = format!(
        "#!/bin/sh\ncase \"$(ip -oneline -4 address show dev {})\" in\n{}*) echo 'no libvirt here' >&2; exit 1 ;;\nesac\n\
         LD_LIBRARY_PATH={} exec {} --connect \"qemu:///system?socket=$socket\" \"$@\"\n",
        Host::BRIDGE,
        daemons.map(case).concat(),
        packages.join(LIBRARIES).display(),
        packages.join(VIRSH).display()
    );
    fs::write(path, script)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Where QEMU is, which is not part of the unpacked packages.
pub(super) fn emulator() -> Result<PathBuf> {
    programs::find("qemu-system-x86_64")
}
