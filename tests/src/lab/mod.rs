//! A lab: hosts, a switch, and a guest that moves between the hosts.

mod builder;
mod converge;
mod names;
mod removal;

pub use builder::{Builder, most_dirty_mib};
pub use converge::{Convergence, converge};
pub use names::list;
pub use removal::{Remover, tear_down};

use crate::disk::Disk;
use crate::guest::{self, Guest};
use crate::host::Host;
use crate::janitor::Janitor;
use crate::kernels::{self, Kernel};
use crate::migration::{self, Action, Migrated, Migration, Outcome, Progress};
use crate::qemu::{Plan, Qemu, Start};
use crate::qmp::Qmp;
use crate::topology::Topology;
use anyhow::{Context as _, Result, anyhow, bail};
use names::{STATE_FILE, check_name, run_directory};
use serde_json::json;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

/// On a machine with one busy core, an emulated guest boots in about half a minute.
const BOOT_PATIENCE: Duration = Duration::from_secs(180);
const PING_PATIENCE: Duration = Duration::from_secs(20);

/// A running lab. Dropping it removes everything, unless it is a lasting lab.
#[derive(Debug)]
pub struct Lab {
    source: Option<Qemu>,
    destination: Option<Qemu>,
    /// Whether the guest runs on the source.
    at_source: bool,
    /// Whether the guest has booted, or has left the QEMU whose console would show that.
    booted: bool,
    /// Whether the other host's QEMU waits for the next migration.
    prepared: bool,
    topology: Topology,
    boot: Option<Boot>,
    config: Builder,
    run_directory: PathBuf,
    janitor: Option<Janitor>,
}

/// What a lab's guest boots from.
#[derive(Debug)]
struct Boot {
    kernel: Kernel,
    initramfs: PathBuf,
}

impl Lab {
    /// Starts to describe a lab.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Connects to a lasting lab.
    ///
    /// # Errors
    ///
    /// When there is none of this name, or its state is damaged. The message lists the labs that exist.
    pub fn attach(name: &str) -> Result<Self> {
        check_name(name)?;
        let run_directory = run_directory(name);
        let state = run_directory.join(STATE_FILE);
        let config = match fs::read_to_string(&state) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let others = list()?;
                let others = if others.is_empty() {
                    "none is up".into()
                } else {
                    format!("up: {}", others.join(", "))
                };
                bail!("there is no lab `{name}` ({others}); `migtrace-lab up` makes one");
            }
            text => text.with_context(|| format!("cannot read {}", state.display()))?,
        };
        let config: Builder = serde_json::from_str(&config).with_context(|| {
            format!("{} is damaged; `migtrace-lab down --name {name}` removes it", state.display())
        })?;
        let mut lab = Self {
            source: None,
            destination: None,
            at_source: true,
            booted: true,
            prepared: false,
            topology: Topology::open(name)?,
            boot: None,
            config,
            run_directory,
            janitor: None,
        };
        if lab.config.network.taps > 0 {
            lab.boot =
                Some(Boot { kernel: kernels::fetch(&lab.config.kernel)?, initramfs: lab.initramfs_path() });
            lab.source = Qemu::attach(&lab.host_directory(true))?;
            lab.destination = Qemu::attach(&lab.host_directory(false))?;
            lab.at_source = lab.find_guest()?;
        }
        Ok(lab)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// The host on which the guest boots.
    #[must_use]
    pub fn source(&self) -> &Host {
        &self.topology.source
    }

    /// The destination of the first migration.
    #[must_use]
    pub fn destination(&self) -> &Host {
        &self.topology.destination
    }

    /// A third host, without a guest.
    #[must_use]
    pub fn observer(&self) -> &Host {
        &self.topology.observer
    }

    /// The switch that joins the hosts. Its ports have the names of the hosts, and it has no address.
    #[must_use]
    pub fn switch(&self) -> &Host {
        &self.topology.switch
    }

    /// The host on which the guest runs now.
    #[must_use]
    pub fn guest_host(&self) -> &Host {
        if self.at_source { self.source() } else { self.destination() }
    }

    /// The destination of the next migration.
    #[must_use]
    pub fn other_host(&self) -> &Host {
        if self.at_source { self.destination() } else { self.source() }
    }

    /// The guest's identity and addresses.
    #[must_use]
    pub fn guest(&self) -> &Guest {
        &self.config.guest
    }

    /// The QEMU in which the guest runs.
    ///
    /// # Errors
    ///
    /// When this lab has no guest.
    pub fn qemu(&mut self) -> Result<&mut Qemu> {
        self.slot(self.at_source).as_mut().ok_or_else(|| anyhow!("no guest runs in this lab"))
    }

    /// The QEMU on the other host: before a migration the one that [`Lab::prepare`] started, afterwards the one that the
    /// guest has left, if it was kept.
    pub fn other_qemu(&mut self) -> Option<&mut Qemu> {
        self.slot(!self.at_source).as_mut()
    }

    /// Waits until the guest has booted and answers the observer's pings over IPv4 and IPv6.
    ///
    /// # Errors
    ///
    /// When that takes more than three minutes, or its QEMU ends. The message has what it wrote to its console.
    pub fn wait_guest_ready(&mut self) -> Result<()> {
        if !self.booted {
            self.qemu()?.wait_ready(BOOT_PATIENCE)?;
            self.booted = true;
        }
        self.ping_guest()
    }

    /// Pings the guest from the observer, over IPv4 and IPv6.
    ///
    /// # Errors
    ///
    /// When it does not answer within 20 seconds.
    pub fn ping_guest(&self) -> Result<()> {
        let guest = self.guest();
        self.observer().ping(guest.ipv4, PING_PATIENCE)?;
        self.observer().ping(guest.ipv6, PING_PATIENCE)?;
        Ok(())
    }

    /// Starts the QEMU that will receive the guest. Otherwise [`Lab::migrate`] does this; it needs the same options.
    ///
    /// # Errors
    ///
    /// When QEMU does not start or refuses an option.
    pub fn prepare(&mut self, migration: &Migration) -> Result<()> {
        let to_source = !self.at_source;
        let migration = migration.clone().for_disk(self.guest().has_own_disk());
        if let Some(old) = self.slot(to_source).take() {
            old.quit();
        }
        let guest = self.guest();
        let disk = match (guest.disk_mib, guest.disk_is_shared) {
            (0, _) => None,
            (_, true) => Some(Disk::open(guest, &self.shared_directory())?),
            (_, false) => Some(Disk::create_for_copy(guest, &self.host_directory(to_source))?),
        };
        let start = if migration.paused_destination { Start::IncomingPaused } else { Start::Incoming };
        let mut qemu = self.start_qemu(to_source, start, disk.as_ref())?;
        migration::prepare(qemu.qmp(), &migration, self.guest().has_own_disk())?;
        *self.slot(to_source) = Some(qemu);
        self.prepared = true;
        Ok(())
    }

    /// Moves the guest to the other host.
    ///
    /// # Errors
    ///
    /// When it cannot begin, takes too long, or loses the guest. A migration that fails and leaves the guest on its host is
    /// no error: see [`Migrated::outcome`].
    pub fn migrate(&mut self, migration: &Migration) -> Result<Migrated> {
        self.migrate_with(migration, |_| Action::Continue)
    }

    /// Moves the guest to the other host. `progress` is called again and again, also when the guest has stopped where there is
    /// a pause before the switchover, and decides whether the migration goes on.
    ///
    /// # Errors
    ///
    /// As [`Lab::migrate`].
    pub fn migrate_with(
        &mut self,
        migration: &Migration,
        mut progress: impl FnMut(&Progress<'_>) -> Action,
    ) -> Result<Migrated> {
        let disk = self.guest().has_own_disk();
        let migration = migration.clone().for_disk(disk);
        if !self.prepared {
            self.prepare(&migration)?;
        }
        self.prepared = false;
        let peer = self.other_host().clone();
        let (Some(source), Some(destination)) = (&mut self.source, &mut self.destination) else {
            bail!("no guest runs in this lab");
        };
        let (from, to) = if self.at_source { (source, destination) } else { (destination, source) };
        let address = migration.address_at(&peer);
        let migrated = migration::drive(from.qmp(), to.qmp(), address, disk, &migration, &mut progress)
            .with_context(|| {
                format!("cannot migrate to {}; its QEMU wrote: {}", peer.role(), to.log().trim())
            })?;
        if migrated.outcome == Outcome::Completed {
            self.at_source = !self.at_source;
            self.booted = true;
        }
        if migrated.outcome != Outcome::Completed || !migration.keep_source {
            self.retire();
        }
        Ok(migrated)
    }

    /// Ends the QEMU on the host without the guest.
    pub fn retire(&mut self) {
        if let Some(qemu) = self.slot(!self.at_source).take() {
            qemu.quit();
        }
    }

    /// From now on the switch drops a random `per_mille` of 1000 TCP packets; 0 ends that.
    ///
    /// # Errors
    ///
    /// When nftables is not installed, or the kernel lacks it.
    pub fn drop_packets(&self, per_mille: u32) -> Result<()> {
        // Adding the table first lets the deletion succeed where there was none.
        let mut rules = String::from("add table bridge lab\ndelete table bridge lab\n");
        if per_mille > 0 {
            rules += "add table bridge lab\n\
                      add chain bridge lab forward { type filter hook forward priority 0; }\n";
            rules += &format!(
                "add rule bridge lab forward meta l4proto tcp numgen random mod 1000 < {per_mille} counter drop\n"
            );
        }
        let path = self.run_directory.join("drop.nft");
        fs::write(&path, rules).with_context(|| format!("cannot write {}", path.display()))?;
        self.switch().tool("nft", &["-f", &path.display().to_string()]).map(drop)
    }

    /// How many packets the switch has dropped since [`Lab::drop_packets`]. With the sender's offloads off each is a frame;
    /// otherwise one may be many segments.
    ///
    /// # Errors
    ///
    /// When the switch drops none.
    pub fn dropped_packets(&self) -> Result<u64> {
        let rules = self.switch().tool("nft", &["list", "chain", "bridge", "lab", "forward"])?;
        let counter = rules.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
        counter
            .and_then(|packets| packets.parse().ok())
            .ok_or_else(|| anyhow!("the switch has no rule that drops packets, only\n{rules}"))
    }

    /// A handle with which another thread, for example one that waits for signals, can remove the lab.
    #[must_use]
    pub fn remover(&self) -> Remover {
        Remover { janitor: self.janitor.clone() }
    }

    /// Stops the guest's vCPUs.
    pub(crate) fn pause_guest(&mut self) -> Result<()> {
        self.qemu()?.qmp().execute("stop", json!({}))?;
        Ok(())
    }

    /// Lets the guest's vCPUs run after [`Lab::pause_guest`].
    pub(crate) fn continue_guest(&mut self) -> Result<()> {
        self.qemu()?.qmp().execute("cont", json!({}))?;
        Ok(())
    }

    fn boot(&mut self, kernel: Kernel) -> Result<()> {
        let initramfs = self.initramfs_path();
        guest::write_initramfs(&kernel, &initramfs)?;
        self.boot = Some(Boot { kernel, initramfs });
        let guest = self.guest();
        let directory =
            if guest.disk_is_shared { self.shared_directory() } else { self.host_directory(true) };
        let disk = if guest.disk_mib > 0 { Some(Disk::create(guest, &directory)?) } else { None };
        self.source = Some(self.start_qemu(true, Start::Boot, disk.as_ref())?);
        Ok(())
    }

    fn start_qemu(&self, at_source: bool, start: Start, disk: Option<&Disk>) -> Result<Qemu> {
        let boot = self.boot.as_ref().ok_or_else(|| anyhow!("this lab is without guests"))?;
        Qemu::start(&Plan {
            qemu: self.config.qemu,
            guest: &self.config.guest,
            host: if at_source { self.source() } else { self.destination() },
            kernel: &boot.kernel,
            initramfs: &boot.initramfs,
            accelerator: &self.config.accelerator,
            directory: &self.host_directory(at_source),
            disk,
            start,
            lasting: self.config.lasting,
        })
    }

    fn slot(&mut self, source: bool) -> &mut Option<Qemu> {
        if source { &mut self.source } else { &mut self.destination }
    }

    fn host_directory(&self, source: bool) -> PathBuf {
        let host = if source { self.source() } else { self.destination() };
        self.run_directory.join(host.role())
    }

    /// What both hosts reach.
    fn shared_directory(&self) -> PathBuf {
        self.run_directory.join("shared")
    }

    fn initramfs_path(&self) -> PathBuf {
        self.run_directory.join("initramfs")
    }

    /// Asks both QEMUs of a lasting lab whether the guest runs on the source.
    fn find_guest(&mut self) -> Result<bool> {
        for at_source in [true, false] {
            if let Some(qemu) = self.slot(at_source)
                && !matches!(run_state(qemu.qmp())?.as_str(), "inmigrate" | "postmigrate" | "finish-migrate")
            {
                return Ok(at_source);
            }
        }
        let name = self.name();
        bail!("the guest of the lab `{name}` is gone; `migtrace-lab down --name {name}` removes what remains")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A lasting lab has no janitor: its QEMUs stay, and only the connections to them end.
        if let Some(janitor) = &self.janitor {
            self.source = None;
            self.destination = None;
            // A `Remover` may hold the janitor too, so dropping this handle is not enough.
            janitor.clean();
        }
    }
}

/// QEMU's state of its guest.
fn run_state(qmp: &mut Qmp) -> Result<String> {
    let status = qmp.execute("query-status", json!({}))?;
    Ok(status["status"].as_str().unwrap_or_default().into())
}
