//! A QEMU whose guest has no operating system, for tests in which it does not matter what the guest does.
//!
//! It starts in a moment, a host can have several, and it can be killed at any time. A part of its memory holds random
//! bytes, so that the bandwidth alone decides how long a migration takes.

use crate::bare_pair::BareGuest;
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
/// Above the memory that the firmware uses.
const FILLED_FROM: usize = 16 << 20;
const PRETTY_SOCKET: &str = "qmp-pretty.sock";
const START_PATIENCE: Duration = Duration::from_secs(20);
const KVM: &str = "/dev/kvm";

/// The address at which a guest counts.
const COUNTER: u32 = 0x500;

/// A boot sector that counts endlessly: `xor ax, ax; mov ds, ax; next: inc dword [0x500]; jmp next`
const COUNTING: [u8; 512] = boot_sector(&[0x31, 0xc0, 0x8e, 0xd8, 0x66, 0xff, 0x06, 0x00, 0x05, 0xeb, 0xf9]);

/// The code with the signature of a boot sector.
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

/// The machine that QEMU emulates.
#[derive(Clone, Copy)]
struct Machine {
    accelerator: &'static str,
    memory_mib: usize,
    filled_mib: usize,
    /// A boot sector, on a disk of its own.
    boot_sector: Option<&'static [u8]>,
}

impl Machine {
    const EMULATED: Self =
        Self { accelerator: "tcg", memory_mib: 64, filled_mib: FILLED_MIB, boot_sector: None };
    const IN_KVM: Self = Self { accelerator: "kvm", boot_sector: Some(&COUNTING), ..Self::EMULATED };
    const TINY: Self = Self { memory_mib: 16, filled_mib: 0, ..Self::EMULATED };

    /// The smallest machine, in KVM if this machine has it.
    fn tiny() -> Self {
        let accelerator = if Path::new(KVM).exists() { "kvm" } else { "tcg" };
        Self { accelerator, ..Self::TINY }
    }
}

/// A running QEMU without a guest operating system. Dropping it kills it.
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
        Self::start_with(host, name, Machine::EMULATED, &[])
    }

    /// Starts one that belongs to another user.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn start_as(host: &Host, name: &str, uid: u32) -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()]);
        command.arg(programs::find("qemu-system-x86_64")?);
        Self::start_command(host, name, Machine::EMULATED, &[], command, Some(uid))
    }

    /// Starts one from this executable.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn start_program(host: &Host, name: &str, program: &Path) -> Result<Self> {
        Self::start_command(host, name, Machine::EMULATED, &[], Command::new(program), None)
    }

    /// Starts one as this guest wants it, with more options.
    pub(crate) fn start_guest(host: &Host, guest: &BareGuest<'_>, more: &[&str]) -> Result<Self> {
        let machine = Machine { filled_mib: guest.filled_mib, ..Machine::EMULATED };
        let uuid = guest.uuid();
        let disk = guest.disk.map(NbdDisk::drive);
        let mut options = vec!["-uuid", &uuid];
        if let Some(disk) = &disk {
            options.extend(["-drive", disk]);
        }
        options.extend(more);
        Self::start_command(host, guest.name, machine, &options, guest.program.command(), None)
    }

    /// Starts one in KVM with this many vCPUs: the first counts endlessly, the others halt in KVM. One more can be plugged in.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`], and when there is no KVM.
    pub fn in_kvm(host: &Host, name: &str, vcpus: u32) -> Result<Self> {
        let topology = format!("cpus={vcpus},sockets={}", vcpus + 1);
        Self::start_with(host, name, Machine::IN_KVM, &["-smp", &format!("{topology},maxcpus={}", vcpus + 1)])
    }

    /// Plugs in the additional vCPU of [`BareQemu::in_kvm`].
    ///
    /// # Errors
    ///
    /// When QEMU refuses.
    pub fn plug_vcpu(&mut self) -> Result<()> {
        let slots = self.qmp.execute("query-hotpluggable-cpus", json!({}))?;
        let free = |slot: &&serde_json::Value| slot.get("qom-path").is_none();
        let slot = slots
            .as_array()
            .and_then(|slots| slots.iter().find(free))
            .context("no vCPU can be plugged in")?;
        let mut device = slot["props"].clone();
        device["driver"] = slot["type"].clone();
        device["id"] = "plugged".into();
        self.qmp.execute("device_add", device)?;
        Ok(())
    }

    /// The guest's count, which grows only while the guest runs: in KVM, or on a disk of [`NbdDisk`].
    ///
    /// # Errors
    ///
    /// When QEMU does not show the guest's memory.
    pub fn count(&mut self) -> Result<u32> {
        let examine = json!({ "command-line": format!("xp /1xw {COUNTER:#x}") });
        let text = self.qmp.execute("human-monitor-command", examine)?;
        let value = text.as_str().and_then(|text| text.trim().rsplit(' ').next()?.strip_prefix("0x"));
        let value = value.with_context(|| format!("QEMU does not show the guest's memory: {text}"))?;
        u32::from_str_radix(value, 16).with_context(|| format!("QEMU shows {text}"))
    }

    /// Starts both ends of a migration: one on the source, and one that waits on this port of the destination.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn pair(lab: &Lab, name: &str, port: u16) -> Result<(Self, Self)> {
        Ok((Self::start(lab.source(), name)?, Self::incoming(lab.destination(), name, port)?))
    }

    /// Starts one that waits for `migrate-incoming`.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn waiting(host: &Host, name: &str) -> Result<Self> {
        Self::start_with(host, name, Machine::EMULATED, &["-incoming", "defer"])
    }

    /// Starts one that waits for a migration on this port, with events.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn incoming(host: &Host, name: &str, port: u16) -> Result<Self> {
        Self::waiting(host, name)?.listening(port)
    }

    /// As [`BareQemu::incoming`], but its guest runs only after [`BareQemu::resume`], as with libvirt.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn incoming_paused(host: &Host, name: &str, port: u16) -> Result<Self> {
        Self::start_with(host, name, Machine::EMULATED, &["-incoming", "defer", "-S"])?.listening(port)
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

    /// As [`BareQemu::incoming`], but without events.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn incoming_without_events(host: &Host, name: &str, port: u16) -> Result<Self> {
        let mut bare = Self::waiting(host, name)?;
        bare.listen(port)?;
        Ok(bare)
    }

    /// Starts one that boots from a disk of another host, and reads and writes it endlessly.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`], and when the disk cannot be reached.
    pub fn on_disk(host: &Host, name: &str, disk: &NbdDisk) -> Result<Self> {
        Self::start_with(host, name, Machine::EMULATED, &["-drive", &disk.drive()])
    }

    /// As [`BareQemu::incoming`], with the disk of the source.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::on_disk`].
    pub fn incoming_on_disk(host: &Host, name: &str, disk: &NbdDisk, port: u16) -> Result<Self> {
        let options = ["-drive", &disk.drive(), "-incoming", "defer"];
        Self::start_with(host, name, Machine::EMULATED, &options)?.listening(port)
    }

    /// Starts one with next to nothing to send, and a tap that vanishes with it. It is in KVM if this machine has it.
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn tiny(host: &Host, name: &str) -> Result<Self> {
        Self::start_with(host, name, Machine::tiny(), &tap())
    }

    /// As [`BareQemu::incoming`], for a migration of [`BareQemu::tiny`].
    ///
    /// # Errors
    ///
    /// As [`BareQemu::start`].
    pub fn incoming_tiny(host: &Host, name: &str, port: u16) -> Result<Self> {
        let options = [&tap()[..], &["-incoming", "defer"]].concat();
        Self::start_with(host, name, Machine::tiny(), &options)?.listening(port)
    }

    /// Waits for a migration on this port, with events.
    fn listening(mut self, port: u16) -> Result<Self> {
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

    /// Starts `command`, which runs QEMU as this user or as that of this process.
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
        if let Some(sector) = machine.boot_sector {
            fs::write(path("disk"), sector).context("cannot write a boot sector")?;
            command.args(["-drive", &format!("file={},format=raw,if=ide,read-only=off", path("disk"))]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = host.spawn(&mut command)?;
        let qmp = connect(&mut process, &directory.path().join("qmp.sock"))
            .with_context(|| format!("cannot start `{}`", programs::line(&command)))?;
        Ok(Self { process, qmp, directory })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The socket of a monitor with `pretty=on`, which no client uses yet.
    #[must_use]
    pub fn pretty_qmp_socket(&self) -> PathBuf {
        self.directory.path().join(PRETTY_SOCKET)
    }

    /// The connection to its monitor.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// The socket of that monitor. A second client gets no greeting there.
    #[must_use]
    pub fn qmp_socket(&self) -> PathBuf {
        self.directory().join("qmp.sock")
    }

    /// The socket of a second monitor, which no client uses yet.
    #[must_use]
    pub fn spare_qmp_socket(&self) -> PathBuf {
        self.directory().join("qmp-spare.sock")
    }

    fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Begins to migrate, with events, at up to `mib_per_s` (0: no limit).
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

    /// Waits until the migration has this status.
    ///
    /// # Errors
    ///
    /// When it does not have it within `patience`. The message lists the events that came.
    pub fn wait_for_status(&mut self, status: &str, patience: Duration) -> Result<QmpEvent> {
        let deadline = Instant::now() + patience;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.qmp.next_event(left)? {
                Some(event) if event.data["status"] == status => return Ok(event),
                Some(event) => seen.push(event),
                None => bail!("no status `{status}` within {patience:?}, only {seen:?}"),
            }
        }
    }
}

/// Waits until the monitor of a QEMU accepts a connection.
fn connect(process: &mut Process, socket: &Path) -> Result<Qmp> {
    let started = Instant::now();
    loop {
        match Qmp::connect(socket) {
            Ok(qmp) => return Ok(qmp),
            Err(error) if started.elapsed() > START_PATIENCE => return Err(error.into()),
            Err(_) => {}
        }
        if let Some(status) = process.try_wait()? {
            bail!("QEMU ended right after its start ({status})");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The options for a NIC and its tap.
fn tap() -> [&'static str; 4] {
    const NETDEV: &str = "tap,id=net,ifname=vnet0,script=no,downscript=no";
    ["-netdev", NETDEV, "-device", "virtio-net-pci,netdev=net,romfile="]
}

/// Random bytes (xorshift64).
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
