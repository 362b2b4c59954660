//! A QEMU without an operating system, for tests about who is traced rather than about what a guest does.
//!
//! It starts in a moment, there can be several on a host, and nobody minds when it is killed. A part of its memory
//! is filled with what does not compress to zero pages, so that a migration takes as long as its bandwidth says.

use crate::host::Host;
use crate::lab::Lab;
use crate::nbd::NbdDisk;
use crate::process::Process;
use crate::programs;
use crate::qmp::{Qmp, QmpEvent};
use anyhow::{Context as _, Result, bail};
use serde_json::json;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How much a migration has to send.
const FILLED_MIB: usize = 16;
/// Above what the firmware uses.
const FILLED_FROM: usize = 16 << 20;
const PRETTY_SOCKET: &str = "qmp-pretty.sock";
const START_PATIENCE: Duration = Duration::from_secs(20);
const KVM: &str = "/dev/kvm";

/// Where a guest counts.
const COUNTER: u32 = 0x500;

/// A boot sector that counts without pause: `xor ax, ax; mov ds, ax; next: inc dword [0x500]; jmp next`
const COUNTING: [u8; 512] = boot_sector(&[0x31, 0xc0, 0x8e, 0xd8, 0x66, 0xff, 0x06, 0x00, 0x05, 0xeb, 0xf9]);

/// What a BIOS takes for a boot sector.
pub(crate) const fn boot_sector(code: &[u8]) -> [u8; 512] {
    let mut sector = [0; 512];
    let mut at = 0;
    while at < code.len() {
        sector[at] = code[at];
        at += 1;
    }
    [sector[510], sector[511]] = [0x55, 0xaa];
    sector
}

/// What kind of machine a QEMU is.
#[derive(Clone, Copy)]
struct Machine {
    accelerator: &'static str,
    memory_mib: usize,
    filled_mib: usize,
    /// What it boots from a disk of its own.
    boots: Option<&'static [u8]>,
}

impl Machine {
    const INTERPRETED: Self =
        Self { accelerator: "tcg", memory_mib: 64, filled_mib: FILLED_MIB, boots: None };
    const IN_KVM: Self = Self { accelerator: "kvm", boots: Some(&COUNTING), ..Self::INTERPRETED };
    const TINY: Self = Self { memory_mib: 16, filled_mib: 0, ..Self::INTERPRETED };

    /// In KVM, where there is one.
    fn tiny() -> Self {
        let accelerator = if Path::new(KVM).exists() { "kvm" } else { "tcg" };
        Self { accelerator, ..Self::TINY }
    }
}

/// A running QEMU whose guest is nothing but memory. Dropping it kills it.
#[derive(Debug)]
pub struct BareQemu {
    process: Process,
    qmp: Qmp,
    directory: TempDir,
}

impl BareQemu {
    /// Starts one on a host.
    ///
    /// # Errors
    ///
    /// When QEMU is not installed or does not start.
    pub fn start(host: &Host, name: &str) -> Result<Self> {
        Self::start_with(host, name, Machine::INTERPRETED, &[])
    }

    /// Starts one that another user runs.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn start_as(host: &Host, name: &str, uid: u32) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()]);
        command.arg(programs::find("qemu-system-x86_64")?);
        Self::start_command(host, name, Machine::INTERPRETED, &[], command, Some(uid))
    }

    /// Starts one that runs this QEMU.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn start_program(host: &Host, name: &str, program: &Path) -> Result<Self> {
        Self::start_command(host, name, Machine::INTERPRETED, &[], Command::new(program), None)
    }

    /// Starts one with so many vCPUs in KVM: the first counts without pause, the others wait in KVM to be woken up. There
    /// is room to plug in one more.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`]; and when there is no KVM.
    pub fn in_kvm(host: &Host, name: &str, vcpus: u32) -> Result<Self> {
        let topology = format!("cpus={vcpus},sockets={}", vcpus + 1);
        Self::start_with(host, name, Machine::IN_KVM, &["-smp", &format!("{topology},maxcpus={}", vcpus + 1)])
    }

    /// Plugs in the vCPU that [`BareQemu::in_kvm`] has left room for.
    ///
    /// # Errors
    ///
    /// When QEMU refuses.
    pub fn plug_vcpu(&mut self) -> Result<()> {
        let slots = self.qmp.execute("query-hotpluggable-cpus", json!({}))?;
        let free = |slot: &&serde_json::Value| slot.get("qom-path").is_none();
        let slot =
            slots.as_array().and_then(|slots| slots.iter().find(free)).context("no room for a vCPU")?;
        let mut device = slot["props"].clone();
        device["driver"] = slot["type"].clone();
        device["id"] = "plugged".into();
        self.qmp.execute("device_add", device)?;
        Ok(())
    }

    /// How far the guest has counted, in KVM or on a disk that is served: it goes on only while the guest runs.
    ///
    /// # Errors
    ///
    /// When QEMU does not tell.
    pub fn count(&mut self) -> Result<u32> {
        let examine = json!({ "command-line": format!("xp /1xw {COUNTER:#x}") });
        let said = self.qmp.execute("human-monitor-command", examine)?;
        let value = said.as_str().and_then(|said| said.trim().rsplit(' ').next()?.strip_prefix("0x"));
        let value = value.with_context(|| format!("QEMU does not show the guest's memory: {said}"))?;
        u32::from_str_radix(value, 16).with_context(|| format!("QEMU shows {said}"))
    }

    /// The two ends of a migration to be: the one that sends, on the source, and the one that waits at this port of the
    /// destination.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn pair(lab: &Lab, name: &str, port: u16) -> Result<(Self, Self)> {
        Ok((Self::start(lab.source(), name)?, Self::incoming(lab.destination(), name, port)?))
    }

    /// Starts one that waits for a migration of another on this port, and tells of it with events.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn incoming(host: &Host, name: &str, port: u16) -> Result<Self> {
        Self::start_with(host, name, Machine::INTERPRETED, &["-incoming", "defer"])?.awaiting(port)
    }

    /// As [`BareQemu::incoming`], but its guest does not run before [`BareQemu::resume`]: libvirt's way.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn incoming_paused(host: &Host, name: &str, port: u16) -> Result<Self> {
        Self::start_with(host, name, Machine::INTERPRETED, &["-incoming", "defer", "-S"])?.awaiting(port)
    }

    /// Lets the guest run.
    ///
    /// # Errors
    ///
    /// When QEMU refuses.
    pub fn resume(&mut self) -> Result<()> {
        self.qmp.execute("cont", json!({}))?;
        Ok(())
    }

    /// As [`BareQemu::incoming`], but it tells of nothing.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn incoming_silently(host: &Host, name: &str, port: u16) -> Result<Self> {
        let mut bare = Self::start_with(host, name, Machine::INTERPRETED, &["-incoming", "defer"])?;
        bare.listen(port)?;
        Ok(bare)
    }

    /// Starts one that boots from a disk which another host serves, and reads and writes it without pause.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`]; and when the disk is not served.
    pub fn on_disk(host: &Host, name: &str, disk: &NbdDisk) -> Result<Self> {
        Self::start_with(host, name, Machine::INTERPRETED, &["-drive", &disk.drive()])
    }

    /// As [`BareQemu::incoming`], with the disk of the other.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::on_disk`].
    pub fn incoming_on_disk(host: &Host, name: &str, disk: &NbdDisk, port: u16) -> Result<Self> {
        let options = ["-drive", &disk.drive(), "-incoming", "defer"];
        Self::start_with(host, name, Machine::INTERPRETED, &options)?.awaiting(port)
    }

    /// Starts one of which next to nothing has to be sent, with a tap that goes with it. It is in KVM, where there is one.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn tiny(host: &Host, name: &str) -> Result<Self> {
        Self::start_with(host, name, Machine::tiny(), &tap())
    }

    /// As [`BareQemu::incoming`], of a tiny one.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn incoming_tiny(host: &Host, name: &str, port: u16) -> Result<Self> {
        let options = [&tap()[..], &["-incoming", "defer"]].concat();
        Self::start_with(host, name, Machine::tiny(), &options)?.awaiting(port)
    }

    /// It waits for a migration, and tells of it with events.
    fn awaiting(mut self, port: u16) -> Result<Self> {
        self.turn_events_on()?;
        self.listen(port)?;
        Ok(self)
    }

    fn turn_events_on(&mut self) -> Result<()> {
        let events = json!([{ "capability": "events", "state": true }]);
        self.qmp.execute("migrate-set-capabilities", json!({ "capabilities": events }))?;
        Ok(())
    }

    fn listen(&mut self, port: u16) -> Result<()> {
        self.qmp.execute("migrate-incoming", json!({ "uri": format!("tcp:0:{port}") }))?;
        Ok(())
    }

    fn start_with(host: &Host, name: &str, machine: Machine, more: &[&str]) -> Result<Self> {
        let command = Command::new(programs::find("qemu-system-x86_64")?);
        Self::start_command(host, name, machine, more, command, None)
    }

    /// `command` runs QEMU, as this user or as the one of this process.
    fn start_command(
        host: &Host,
        name: &str,
        machine: Machine,
        more: &[&str],
        mut command: Command,
        user: Option<u32>,
    ) -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a folder for a QEMU")?;
        let path = |file: &str| directory.path().join(file).display().to_string();
        chown(directory.path(), user, user).context("cannot give a folder to QEMU's user")?;
        command
            .args([
                "-name",
                name,
                "-machine",
                "pc",
                "-accel",
                machine.accelerator,
                "-nodefaults",
                "-no-user-config",
            ])
            .args(["-display", "none", "-m", &machine.memory_mib.to_string()])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", path("qmp.sock"))])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", path("qmp-spare.sock"))])
            .args(["-qmp-pretty", &format!("unix:{},server=on,wait=off", path(PRETTY_SOCKET))])
            .args(more);
        if machine.filled_mib > 0 {
            fs::write(path("memory"), noise(machine.filled_mib << 20))
                .context("cannot write a guest's memory")?;
            let loader = format!("loader,file={},addr={FILLED_FROM:#x},force-raw=on", path("memory"));
            command.args(["-device", &loader]);
        }
        if let Some(sector) = machine.boots {
            fs::write(path("disk"), sector).context("cannot write a boot sector")?;
            command.args(["-drive", &format!("file={},format=raw,if=ide,read-only=off", path("disk"))]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = host.spawn(&mut command)?;
        let started = Instant::now();
        let socket = PathBuf::from(path("qmp.sock"));
        let qmp = loop {
            match Qmp::connect(&socket) {
                Ok(qmp) => break qmp,
                Err(error) if started.elapsed() > START_PATIENCE => return Err(error.into()),
                Err(_) => {}
            }
            if let Some(status) = process.try_wait()? {
                bail!("QEMU ended right after its start ({status}): {}", programs::line(&command));
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        Ok(Self { process, qmp, directory })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The socket of a monitor that writes each message in several lines; nobody is connected to it.
    #[must_use]
    pub fn pretty_qmp_socket(&self) -> PathBuf {
        self.directory.path().join(PRETTY_SOCKET)
    }

    /// The connection to its monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// The socket of that monitor, to which no second client gets through.
    #[must_use]
    pub fn qmp_socket(&self) -> PathBuf {
        self.directory().join("qmp.sock")
    }

    /// The socket of a second monitor, which is free.
    #[must_use]
    pub fn spare_qmp_socket(&self) -> PathBuf {
        self.directory().join("qmp-spare.sock")
    }

    fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Begins to migrate, with events, at no more than so many MiB a second (0: as fast as it can).
    ///
    /// # Errors
    ///
    /// When QEMU refuses.
    pub fn migrate(&mut self, to: Ipv4Addr, port: u16, mib_per_s: u64) -> Result<()> {
        self.turn_events_on()?;
        let bandwidth = if mib_per_s == 0 { 1 << 40 } else { mib_per_s << 20 };
        self.qmp.execute("migrate-set-parameters", json!({ "max-bandwidth": bandwidth }))?;
        self.qmp.execute("migrate", json!({ "uri": format!("tcp:{to}:{port}") }))?;
        Ok(())
    }

    /// Waits for a state of the migration.
    ///
    /// # Errors
    ///
    /// When it has not come after `patience`; the message has the events that have.
    pub fn wait_for_status(&mut self, status: &str, patience: Duration) -> Result<QmpEvent> {
        let deadline = Instant::now() + patience;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.qmp.next_event(left)? {
                Some(event) if event.data["status"] == status => return Ok(event),
                Some(event) => seen.push(event),
                None => bail!("no state `{status}` within {patience:?}, but {seen:?}"),
            }
        }
    }
}

/// A NIC, and its tap.
fn tap() -> [&'static str; 4] {
    const NETDEV: &str = "tap,id=net,ifname=vnet0,script=no,downscript=no";
    ["-netdev", NETDEV, "-device", "virtio-net-pci,netdev=net,romfile="]
}

/// Bytes without a pattern (xorshift64).
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
