//! The lab itself: what a test or a person asks for, and what they get.

use crate::guest::{self, Guest};
use crate::host::Host;
use crate::janitor::Janitor;
use crate::kernels::{self, Kernel};
use crate::migration::{self, Action, Migrated, Migration, Outcome, Progress};
use crate::netns;
use crate::programs;
use crate::qcow2;
use crate::qemu::{self, Plan, Qemu, Start};
use crate::topology::{self, Network, Topology};
use anyhow::{Context as _, Result, anyhow, bail};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const RUN_DIRECTORY: &str = "/run/migtrace-lab";
const STATE_FILE: &str = "lab.json";
/// What the guest's kernel and its init need beside the memory that they dirty.
const GUEST_OWN_MIB: u64 = 90;
/// Under TCG on a machine with one busy core a guest needs about half a minute.
const BOOT_PATIENCE: Duration = Duration::from_secs(180);
const PING_PATIENCE: Duration = Duration::from_secs(20);

/// What a lab is to be. Also what a lab that stays remembers of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Builder {
    name: String,
    network: Network,
    guest: Guest,
    accelerator: String,
    kernel: String,
    /// It stays when this process ends.
    lasting: bool,
}

impl Default for Builder {
    fn default() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self {
            name: String::new(),
            network: Network {
                mtu: 1500,
                rate: None,
                guests: true,
                sender_offloads: true,
                receiver_gro: true,
            },
            guest: Guest {
                name: String::new(),
                uuid: String::new(),
                mac: "52:54:00:77:00:10".into(),
                ipv4: Ipv4Addr::new(10, 77, 0, 10),
                ipv6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0x10),
                memory_mib: 256,
                vcpus: 1,
                dirty_mib: 64,
                dirty_mib_per_s: 20,
                disk_mib: 0,
            },
            accelerator: "tcg".into(),
            kernel: "6.1".into(),
            lasting: false,
        }
        .name(&name)
    }
}

impl Builder {
    /// Its name, and so the names of its namespaces: `migtrace-NAME-src`... The default is one of its own.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = name.into();
        self.guest.name = format!("guest-{name}");
        self.guest.uuid = guest::uuid(name);
        self
    }

    /// The guest's memory, in MiB (default 256).
    #[must_use]
    pub fn memory_mib(mut self, mib: u64) -> Self {
        self.guest.memory_mib = mib;
        self
    }

    /// The guest's vCPUs (default 1).
    #[must_use]
    pub fn vcpus(mut self, vcpus: u32) -> Self {
        self.guest.vcpus = vcpus;
        self
    }

    /// The guest writes to `mib` MiB of memory, `mib_per_s` MiB of pages in a second (default 64 at 20).
    #[must_use]
    pub fn dirty(mut self, mib: u64, mib_per_s: u64) -> Self {
        self.guest.dirty_mib = mib;
        self.guest.dirty_mib_per_s = mib_per_s;
        self
    }

    /// The guest has a disk of its own on each host, in MiB, which a migration copies (default 0: none).
    #[must_use]
    pub fn disk_mib(mut self, mib: u64) -> Self {
        self.guest.disk_mib = mib;
        self
    }

    /// Limits what each host can send, in the words of `tc`: "400mbit".
    #[must_use]
    pub fn rate(mut self, rate: &str) -> Self {
        self.network.rate = Some(rate.into());
        self
    }

    /// The MTU between the hosts (default 1500).
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.network.mtu = mtu;
        self
    }

    /// QEMU's `-accel`: "tcg" (default) or "kvm".
    #[must_use]
    pub fn accelerator(mut self, accelerator: &str) -> Self {
        self.accelerator = accelerator.into();
        self
    }

    /// The series of the guest's Debian kernel (default "6.1").
    #[must_use]
    pub fn kernel(mut self, series: &str) -> Self {
        self.kernel = series.into();
        self
    }

    /// Only the network, for tests about packets.
    #[must_use]
    pub fn without_guests(mut self) -> Self {
        self.network.guests = false;
        self
    }

    /// Whether the source host may send segments larger than the MTU through its bridge and uplink (default yes).
    /// Without, real frames cross the wire.
    #[must_use]
    pub fn sender_offloads(mut self, on: bool) -> Self {
        self.network.sender_offloads = on;
        self
    }

    /// Whether the destination host may join received segments (default yes).
    #[must_use]
    pub fn receiver_gro(mut self, on: bool) -> Self {
        self.network.receiver_gro = on;
        self
    }

    /// The lab stays when this process ends, until [`tear_down`].
    #[must_use]
    pub fn lasting(mut self) -> Self {
        self.lasting = true;
        self
    }

    /// Makes the network and, unless it is to be without, starts the guest on the source. It does not wait until
    /// the guest has booted: [`Lab::wait_guest_ready`].
    ///
    /// The first call on a machine downloads a kernel and builds the guest's init.
    ///
    /// # Errors
    ///
    /// When not root, when a program is missing or fails, when there is a lab of this name. Nothing is left then.
    pub fn start(self) -> Result<Lab> {
        if !Uid::effective().is_root() {
            bail!("the lab makes network namespaces and starts QEMU in them: run it as root");
        }
        check_name(&self.name)?;
        for program in ["ip", "tc"] {
            programs::find(program)?;
        }
        let boot = if self.network.guests { Some(self.find_boot()?) } else { None };
        let run_directory = run_directory(&self.name);
        claim(&self.name, &run_directory)?;
        // From here on, whatever happens, everything goes with the janitor.
        let janitor = Janitor::start(&run_directory, &topology::namespaces(&self.name))?;
        let topology = Topology::create(&self.name, &self.network)?;
        let mut lab = Lab {
            source: None,
            destination: None,
            at_source: true,
            booted: false,
            prepared: false,
            topology,
            boot: None,
            config: self,
            run_directory,
            janitor: Some(janitor),
        };
        if let Some(kernel) = boot {
            lab.boot(kernel)?;
        }
        if lab.config.lasting {
            let state = lab.run_directory.join(STATE_FILE);
            fs::write(&state, serde_json::to_string_pretty(&lab.config)?)
                .with_context(|| format!("cannot write {}", state.display()))?;
            if let Some(janitor) = lab.janitor.take() {
                janitor.keep();
            }
        }
        Ok(lab)
    }

    /// What takes time or may be missing, before anything is made.
    fn find_boot(&self) -> Result<Kernel> {
        let Guest { memory_mib, dirty_mib, .. } = self.guest;
        // A kernel's own tables grow with the memory.
        let own_mib = GUEST_OWN_MIB + memory_mib / 16;
        if memory_mib < dirty_mib + own_mib {
            bail!(
                "a guest of {memory_mib} MiB cannot dirty {dirty_mib} MiB: it needs {own_mib} MiB for itself"
            );
        }
        programs::find("qemu-system-x86_64")?;
        if self.accelerator == "kvm" && !Path::new("/dev/kvm").exists() {
            bail!("no /dev/kvm on this machine: use the accelerator tcg");
        }
        guest::init()?;
        kernels::fetch(&self.kernel)
    }
}

/// Boots the guests of a lab.
#[derive(Debug)]
struct Boot {
    kernel: Kernel,
    initramfs: PathBuf,
}

/// A lab that is up. Dropping it removes everything, unless it is a lasting one.
#[derive(Debug)]
pub struct Lab {
    source: Option<Qemu>,
    destination: Option<Qemu>,
    /// Where the guest runs.
    at_source: bool,
    /// The guest has booted, or has at least left the console on which it would say so.
    booted: bool,
    /// The other host's QEMU waits for the next migration.
    prepared: bool,
    topology: Topology,
    boot: Option<Boot>,
    config: Builder,
    run_directory: PathBuf,
    janitor: Option<Janitor>,
}

impl Lab {
    /// What a lab can be.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Finds a lasting lab.
    ///
    /// # Errors
    ///
    /// When there is none of this name, or it is damaged; the message lists those that are there.
    pub fn attach(name: &str) -> Result<Self> {
        check_name(name)?;
        let run_directory = run_directory(name);
        let state = run_directory.join(STATE_FILE);
        let config = match fs::read_to_string(&state) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let there = list()?;
                let there = if there.is_empty() { "none is up".into() } else { there.join(", ") };
                bail!("there is no lab `{name}` ({there}); `migtrace-lab up` makes one");
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
        if lab.config.network.guests {
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

    /// The host where the guest begins.
    #[must_use]
    pub fn source(&self) -> &Host {
        &self.topology.source
    }

    /// The host where the first migration goes.
    #[must_use]
    pub fn destination(&self) -> &Host {
        &self.topology.destination
    }

    /// A third host, without a guest.
    #[must_use]
    pub fn observer(&self) -> &Host {
        &self.topology.observer
    }

    /// The namespace of the switch that joins them; its ports are named after the hosts. It has no address.
    #[must_use]
    pub fn switch(&self) -> &Host {
        &self.topology.switch
    }

    /// The host where the guest runs now.
    #[must_use]
    pub fn guest_host(&self) -> &Host {
        if self.at_source { self.source() } else { self.destination() }
    }

    /// The host where the next migration goes.
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
    /// When this lab is without guests.
    pub fn qemu(&mut self) -> Result<&mut Qemu> {
        self.slot(self.at_source).as_mut().ok_or_else(|| anyhow!("no guest runs in this lab"))
    }

    /// The QEMU on the other host: before a migration the one that [`Lab::prepare`] has started, after it the one
    /// that the guest has left, if it was kept.
    pub fn other_qemu(&mut self) -> Option<&mut Qemu> {
        self.slot(!self.at_source).as_mut()
    }

    /// Waits until the guest has booted and answers ping over IPv4 and IPv6, seen from the observer.
    ///
    /// # Errors
    ///
    /// When it does not within some minutes, or dies; the message has what it wrote to its console.
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
    /// When it does not answer within some seconds.
    pub fn ping_guest(&self) -> Result<()> {
        let guest = self.guest();
        self.observer().ping(guest.ipv4, PING_PATIENCE)?;
        self.observer().ping(guest.ipv6, PING_PATIENCE)?;
        Ok(())
    }

    /// Starts the QEMU that will receive the guest, for who wants to look at it before [`Lab::migrate`], which
    /// does this otherwise. Give both the same options.
    ///
    /// # Errors
    ///
    /// When it does not start or refuses an option.
    pub fn prepare(&mut self, migration: &Migration) -> Result<()> {
        let to_source = !self.at_source;
        let disk_mib = self.config.guest.disk_mib;
        let migration = migration.clone().for_disk(disk_mib > 0);
        if let Some(old) = self.slot(to_source).take() {
            old.quit();
        }
        let directory = self.host_directory(to_source);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        if disk_mib > 0 {
            qcow2::create_empty(&qemu::disk_path(&directory), disk_mib)?;
        }
        let start = if migration.paused_destination { Start::IncomingPaused } else { Start::Incoming };
        let mut qemu = self.start_qemu(to_source, start)?;
        migration::prepare(&mut qemu, &migration, disk_mib > 0)?;
        *self.slot(to_source) = Some(qemu);
        self.prepared = true;
        Ok(())
    }

    /// Moves the guest to the other host.
    ///
    /// # Errors
    ///
    /// When it cannot be tried, or takes too long, or the guest is lost. A migration that fails and leaves the
    /// guest where it was is no error: see [`Migrated::outcome`].
    pub fn migrate(&mut self, migration: &Migration) -> Result<Migrated> {
        self.migrate_with(migration, |_| Action::Continue)
    }

    /// Moves the guest to the other host; `progress` is told how far it is and decides whether it goes on.
    ///
    /// # Errors
    ///
    /// As [`Lab::migrate`].
    pub fn migrate_with(
        &mut self,
        migration: &Migration,
        mut progress: impl FnMut(&Progress<'_>) -> Action,
    ) -> Result<Migrated> {
        let disk = self.config.guest.disk_mib > 0;
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
        let migrated =
            migration::drive(from, to, &peer, disk, &migration, &mut progress).with_context(|| {
                format!("cannot migrate to {}; its QEMU says: {}", peer.role(), to.log().trim())
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

    /// Ends the QEMU in which the guest is not.
    pub fn retire(&mut self) {
        if let Some(qemu) = self.slot(!self.at_source).take() {
            qemu.quit();
        }
    }

    /// From now on the switch loses `per_mille` of 1000 TCP packets, by chance; 0 for none.
    ///
    /// # Errors
    ///
    /// When nftables is not installed, or the kernel lacks it.
    pub fn drop_packets(&self, per_mille: u32) -> Result<()> {
        // To add a table before it is deleted makes it work also when there is none.
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

    /// How many packets the switch has lost since [`Lab::drop_packets`]. Without offloads at the sender these are
    /// frames; otherwise one may be many segments.
    ///
    /// # Errors
    ///
    /// When the rule is not there.
    pub fn dropped_packets(&self) -> Result<u64> {
        let rules = self.switch().tool("nft", &["list", "chain", "bridge", "lab", "forward"])?;
        let counter = rules.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
        counter
            .and_then(|packets| packets.parse().ok())
            .ok_or_else(|| anyhow!("the switch drops nothing: its rules are\n{rules}"))
    }

    /// A handle with which another thread, say one that waits for signals, can remove the lab at once.
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
        let directory = self.host_directory(true);
        fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let disk_mib = self.config.guest.disk_mib;
        if disk_mib > 0 {
            qcow2::create_full(&qemu::disk_path(&directory), disk_mib)?;
        }
        self.source = Some(self.start_qemu(true, Start::Boot)?);
        Ok(())
    }

    fn start_qemu(&self, at_source: bool, start: Start) -> Result<Qemu> {
        let boot = self.boot.as_ref().ok_or_else(|| anyhow!("this lab is without guests"))?;
        Qemu::start(&Plan {
            guest: &self.config.guest,
            host: if at_source { self.source() } else { self.destination() },
            kernel: &boot.kernel,
            initramfs: &boot.initramfs,
            accelerator: &self.config.accelerator,
            directory: &self.host_directory(at_source),
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

    fn initramfs_path(&self) -> PathBuf {
        self.run_directory.join("initramfs")
    }

    /// Whether the guest of a lab that was left alone is at the source: QEMU itself knows best.
    fn find_guest(&mut self) -> Result<bool> {
        for at_source in [true, false] {
            if let Some(qemu) = self.slot(at_source)
                && !matches!(run_state(qemu)?.as_str(), "inmigrate" | "postmigrate" | "finish-migrate")
            {
                return Ok(at_source);
            }
        }
        let name = self.name();
        bail!("the guest of the lab `{name}` is gone; `migtrace-lab down --name {name}` removes what is left")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A lasting lab has no janitor: its QEMUs stay, only the connections to them end.
        if let Some(janitor) = &self.janitor {
            self.source = None;
            self.destination = None;
            // Not left to the last handle: a remover may hold it.
            janitor.clean();
        }
    }
}

/// QEMU's word for what its guest does.
fn run_state(qemu: &mut Qemu) -> Result<String> {
    let status = qemu.qmp().execute("query-status", json!({}))?;
    Ok(status["status"].as_str().unwrap_or_default().into())
}

/// Removes a lab from another thread than its owner's.
#[derive(Debug, Clone)]
pub struct Remover {
    janitor: Option<Janitor>,
}

impl Remover {
    /// Removes the lab; its owner's next step will fail. A lasting lab stays.
    pub fn remove(&self) {
        if let Some(janitor) = &self.janitor {
            janitor.clean();
        }
    }
}

/// Removes a lab, whoever made it and whatever is left of it.
///
/// # Errors
///
/// When there is nothing of this name, or something stays.
pub fn tear_down(name: &str) -> Result<()> {
    check_name(name)?;
    let run_directory = run_directory(name);
    let namespaces = topology::namespaces(name);
    let left = || -> Result<Vec<String>> {
        let there = netns::list(topology::PREFIX)?;
        Ok(namespaces.iter().filter(|namespace| there.contains(namespace)).cloned().collect())
    };
    if left()?.is_empty() && !run_directory.exists() {
        bail!("there is no lab `{name}`");
    }
    Janitor::start(&run_directory, &namespaces)?.clean();
    let left = left()?;
    if !left.is_empty() || run_directory.exists() {
        bail!("cannot remove all of the lab `{name}`: {} {}", run_directory.display(), left.join(" "));
    }
    Ok(())
}

/// The names of the labs that are there, or of which something is left.
///
/// # Errors
///
/// When the namespaces cannot be listed.
pub fn list() -> Result<Vec<String>> {
    let mut names: Vec<String> = netns::list(topology::PREFIX)?
        .iter()
        .filter_map(|namespace| {
            Some(namespace.strip_prefix(topology::PREFIX)?.rsplit_once('-')?.0.to_owned())
        })
        .collect();
    if let Ok(entries) = fs::read_dir(RUN_DIRECTORY) {
        names.extend(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()));
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Makes the run directory: who has it, has the name.
fn claim(name: &str, run_directory: &Path) -> Result<()> {
    loop {
        fs::create_dir_all(RUN_DIRECTORY).with_context(|| format!("cannot make {RUN_DIRECTORY}"))?;
        match fs::create_dir(run_directory) {
            Ok(()) => return Ok(()),
            // The janitor of the last other lab has just removed what was made above.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("there is a lab `{name}` already; `migtrace-lab down --name {name}` removes it")
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot make {}", run_directory.display()));
            }
        }
    }
}

fn run_directory(name: &str) -> PathBuf {
    Path::new(RUN_DIRECTORY).join(name)
}

/// The name becomes part of paths and of a socket's address, which is short.
fn check_name(name: &str) -> Result<()> {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if name.is_empty() || name.len() > 40 || !plain {
        bail!("`{name}` cannot name a lab: use up to 40 letters, digits, `-` and `_`");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_run_directory_are_refused() {
        for name in ["", "..", "a/b", "a b", &"x".repeat(41)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        check_name("a-b_1").unwrap();
    }

    #[test]
    fn a_guest_needs_memory_beside_what_it_dirties() {
        let error = Builder::default().memory_mib(128).dirty(64, 1).find_boot().unwrap_err().to_string();
        assert!(error.contains("128 MiB") && error.contains("64 MiB"), "{error}");
    }

    #[test]
    fn each_lab_has_a_name_and_a_guest_of_its_own() {
        let (one, two) = (Builder::default(), Builder::default());
        assert_ne!(one.name, two.name);
        assert_ne!(one.guest.uuid, two.guest.uuid);
    }
}
