//! A virtual machine as a host of the lab: with a kernel, and so with clocks, of its own.

use super::agent::{self, Clock};
use super::{Initramfs, Machine};
use crate::host::Host;
use crate::kernels;
use crate::lab::Lab;
use crate::migtrace_command;
use crate::process::Process;
use crate::programs::{self, ip_batch};
use crate::qmp::Qmp;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The series of its kernel: that of the lab's guests, which is there already.
const KERNEL: &str = "6.1";
/// For its NIC, and for migtrace.
const MODULES: [&str; 6] = ["virtio_pci", "virtio_net", "inet_diag", "tcp_diag", "sch_ingress", "cls_bpf"];
/// A QEMU with a small guest, migtrace, and the initramfs twice while it is unpacked.
const MEMORY: &str = "1G";
/// The kernel would take the emulated TSC, whose rate it measures wrongly when this machine is busy. The HPET's is known.
const CLOCK_SOURCE: &str = "clocksource=hpet";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 4);
/// The port of the switch that leads to it.
const TAP: &str = "vm";
const QMP_PORT: u16 = 4001;
const BOOT_PATIENCE: Duration = Duration::from_secs(120);

/// A virtual machine at the switch of a lab. Dropping this ends it.
#[derive(Debug)]
pub struct VmHost {
    process: Process,
    /// From where it is given orders.
    from: Host,
    directory: TempDir,
}

impl VmHost {
    /// What it is called, by itself and by its peers.
    pub const NAME: &str = "vm";

    /// Boots one, and waits until it takes orders. It must be dropped before the lab.
    ///
    /// # Errors
    ///
    /// When something that runs in it is missing here, or it does not boot. The message has the end of its console.
    pub fn boot(lab: &Lab) -> Result<Self> {
        let directory = tempfile::tempdir().context("cannot make a folder for a VM")?;
        let initramfs = directory.path().join("initramfs");
        let kernel = kernels::fetch(KERNEL)?;
        write_initramfs(&kernel, &initramfs)?;
        ip_batch(
            lab.switch().netns().name(),
            &format!("tuntap add dev {TAP} mode tap\nlink set dev {TAP} master {} up\n", Host::BRIDGE),
        )?;
        let machine = Machine {
            kernel: &kernel,
            initramfs: &initramfs,
            memory: MEMORY,
            parameters: CLOCK_SOURCE,
            init: &["host", &format!("{ADDRESS}/24")],
        };
        let mut command = Command::new(programs::find("qemu-system-x86_64")?);
        command
            .args(machine.arguments())
            .arg("-serial")
            .arg(format!("file:{}", console(&directory).display()));
        command.args(["-netdev", &format!("tap,id=net,ifname={TAP},script=no,downscript=no,vhost=off")]);
        command.args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = lab.switch().spawn(&mut command)?;
        let mut vm = Self { process, from: lab.source().clone(), directory };
        vm.wait_for_agent()?;
        Ok(vm)
    }

    fn wait_for_agent(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT_PATIENCE;
        loop {
            let Err(error) = self.run("true") else { return Ok(()) };
            let ended = self.process.try_wait()?.is_some();
            if ended || Instant::now() > deadline {
                let console = fs::read(console(&self.directory)).unwrap_or_default();
                let console = String::from_utf8_lossy(&console);
                bail!("the VM has not booted: {error:#}; its console:\n{console}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Its address, in 10.77.0.0/24.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        ADDRESS.into()
    }

    /// Runs a command line in it, and returns what it wrote to standard output.
    ///
    /// # Errors
    ///
    /// When it fails; its console has what it wrote to standard error.
    pub fn run(&self, command_line: &str) -> Result<String> {
        agent::run(&self.from, self.address(), command_line)
    }

    /// A connection over which its clocks are read.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn clock(&self) -> Result<Clock> {
        Clock::connect(&self.from, self.address())
    }

    /// How `migtrace record --rsh` reaches it from another host of the lab.
    ///
    /// # Errors
    ///
    /// When there is no `migtrace-lab` beside migtrace.
    pub fn remote_shell(&self) -> Result<String> {
        Ok(format!("'{}' vm-rsh {ADDRESS}", migtrace_command::lab_command()?.display()))
    }

    /// Starts a QEMU in it that waits for `migrate-incoming`, with a machine like those of [`crate::BareQemu`].
    ///
    /// # Errors
    ///
    /// When it does not start.
    pub fn start_qemu(&self, name: &str) -> Result<Qmp> {
        self.run(&format!(
            "qemu-system-x86_64 -name {name} -machine pc -accel tcg -m 64 -nodefaults -no-user-config -display none \
             -incoming defer -qmp tcp:0:{QMP_PORT},server=on,wait=off -daemonize"
        ))?;
        let monitor = (self.address(), QMP_PORT);
        let stream =
            self.from.enter(|| TcpStream::connect(monitor))?.context("no monitor of the VM's QEMU")?;
        stream.set_nodelay(true)?;
        Ok(Qmp::over(stream.into(), Path::new("of the VM's QEMU"))?)
    }
}

fn console(directory: &TempDir) -> PathBuf {
    directory.path().join("console.log")
}

fn write_initramfs(kernel: &kernels::Kernel, path: &Path) -> Result<()> {
    let mut image = Initramfs::new(kernel, &MODULES)?;
    image.program(&migtrace_command::binary()?, "usr/bin/migtrace")?;
    image.program(&migtrace_command::lab_command()?, "usr/bin/migtrace-lab")?;
    image.write(path)
}
