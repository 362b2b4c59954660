//! How a lab is made.

use super::Lab;
use super::names::{STATE_FILE, check_name, claim, run_directory};
use crate::disk;
use crate::guest::{self, Guest};
use crate::janitor::Janitor;
use crate::kernels::{self, Kernel};
use crate::libvirt::{self, LibvirtLab};
use crate::programs;
use crate::qemu::QemuChoice;
use crate::topology::{self, Network, Topology};
use anyhow::{Context as _, Result, bail};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// What the guest's kernel and its init need in addition to the memory that they dirty.
const GUEST_OWN_MIB: u64 = 68;

fn own_mib(memory_mib: u64) -> u64 {
    // A kernel's own tables grow with the memory.
    GUEST_OWN_MIB + memory_mib / 12
}

/// How much of its memory a guest can dirty at most, in MiB.
#[must_use]
pub fn most_dirty_mib(memory_mib: u64) -> u64 {
    memory_mib.saturating_sub(own_mib(memory_mib))
}

/// How a lab is made. A lasting lab keeps this in a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Builder {
    pub(super) name: String,
    pub(super) network: Network,
    pub(super) guest: Guest,
    pub(super) qemu: QemuChoice,
    pub(super) accelerator: String,
    pub(super) kernel: String,
    /// The lab stays when this process ends.
    pub(super) lasting: bool,
}

impl Default for Builder {
    fn default() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self {
            name: String::new(),
            network: Network { mtu: 1500, rate: None, taps: 1, sender_offloads: true, receiver_gro: true },
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
                disk_data_mib: 0,
                disk_is_shared: false,
                nics: 1,
            },
            qemu: QemuChoice::Installed,
            accelerator: "tcg".into(),
            kernel: "6.1".into(),
            lasting: false,
        }
        .name(&name)
    }
}

impl Builder {
    /// The lab's name, which its namespaces contain: `migtrace-NAME-src`... By default, each lab has another name.
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

    /// The guest writes to `mib` MiB of its memory, `mib_per_s` MiB of pages per second (default: 64 and 20).
    #[must_use]
    pub fn dirty(mut self, mib: u64, mib_per_s: u64) -> Self {
        self.guest.dirty_mib = mib;
        self.guest.dirty_mib_per_s = mib_per_s;
        self
    }

    /// The guest's disk, in MiB, which a migration copies to the other host (default 0: none). It is full of data that
    /// cannot be compressed, unless [`Builder::disk_data_mib`] says otherwise.
    #[must_use]
    pub fn disk_mib(mut self, mib: u64) -> Self {
        self.guest.disk_mib = mib;
        self.guest.disk_data_mib = mib;
        self
    }

    /// How much of the guest's disk holds data, in MiB. The rest was never written, as on most disks.
    #[must_use]
    pub fn disk_data_mib(mut self, mib: u64) -> Self {
        self.guest.disk_data_mib = mib;
        self
    }

    /// The guest's disk is where both hosts reach it, so that migrations do not copy it.
    #[must_use]
    pub fn shared_storage(mut self) -> Self {
        self.guest.disk_is_shared = true;
        self
    }

    /// The guest's NICs (default 1), each with a tap of its own: `vnet0`, `vnet1`... Only the first has addresses.
    #[must_use]
    pub fn nics(mut self, nics: u8) -> Self {
        self.guest.nics = nics;
        self.network.taps = nics;
        self
    }

    /// The rate at which each host can send, as `tc` writes it: "400mbit" (default: no limit).
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

    /// Which QEMU runs on the hosts (default: the installed one).
    #[must_use]
    pub fn qemu(mut self, qemu: QemuChoice) -> Self {
        self.qemu = qemu;
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

    /// The lab has only its network, without a guest.
    #[must_use]
    pub fn without_guests(mut self) -> Self {
        self.network.taps = 0;
        self
    }

    /// Whether the source host may send segments larger than the MTU through its bridge and uplink (default: yes). If not,
    /// real frames cross them.
    #[must_use]
    pub fn sender_offloads(mut self, on: bool) -> Self {
        self.network.sender_offloads = on;
        self
    }

    /// Whether the destination host may join received segments (default: yes).
    #[must_use]
    pub fn receiver_gro(mut self, on: bool) -> Self {
        self.network.receiver_gro = on;
        self
    }

    /// The lab stays when this process ends, until [`crate::tear_down`].
    #[must_use]
    pub fn lasting(mut self) -> Self {
        self.lasting = true;
        self
    }

    /// Makes the network and starts the guest on the source. It does not wait until the guest has booted:
    /// [`Lab::wait_guest_ready`] does.
    ///
    /// The first call on a machine downloads a kernel and builds the guest's init.
    ///
    /// # Errors
    ///
    /// When not root, when a program is missing or fails, when there is a lab of this name. Then nothing is left behind.
    pub fn start(self) -> Result<Lab> {
        self.check()?;
        let boot = if self.network.taps > 0 { Some(self.find_kernel()?) } else { None };
        let mut lab = self.start_network()?;
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

    /// Makes the network and starts the guest on the source, in the care of libvirt. It does not wait until the guest has
    /// booted: [`LibvirtLab::wait_guest_ready`] does.
    ///
    /// The first call on a machine downloads libvirt and a kernel, and builds the guest's init.
    ///
    /// # Errors
    ///
    /// As [`Builder::start`], and when libvirtd does not start or refuses the guest. A lasting lab, and one without guests,
    /// cannot have libvirt.
    pub fn start_with_libvirt(self) -> Result<LibvirtLab> {
        if self.lasting || self.network.taps == 0 {
            bail!("a lab with libvirt has a guest, and ends with its driver");
        }
        self.check()?;
        programs::find("openssl")?;
        let (kernel, accelerator) = (self.find_kernel()?, self.accelerator.clone());
        libvirt::fetch()?;
        let lab = self.start_network()?;
        let run_directory = lab.run_directory.clone();
        LibvirtLab::start(lab, &kernel, &accelerator, &run_directory)
    }

    /// Checks what can be checked before anything is made.
    fn check(&self) -> Result<()> {
        if !Uid::effective().is_root() {
            bail!("the lab makes network namespaces and starts QEMU in them: run it as root");
        }
        check_name(&self.name)?;
        disk::check(&self.guest)?;
        for program in ["ip", "tc"] {
            programs::find(program)?;
        }
        Ok(())
    }

    /// Makes everything but the guest.
    fn start_network(self) -> Result<Lab> {
        let run_directory = run_directory(&self.name);
        claim(&self.name, &run_directory)?;
        // From here on, whatever happens, the janitor removes everything.
        let janitor = Janitor::start(&run_directory, &topology::namespaces(&self.name))?;
        let topology = Topology::create(&self.name, &self.network)?;
        Ok(Lab {
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
        })
    }

    /// Finds what the guest needs. That takes time and may fail, so it comes before anything is made.
    fn find_kernel(&self) -> Result<Kernel> {
        let Guest { memory_mib, dirty_mib, .. } = self.guest;
        if memory_mib < dirty_mib + own_mib(memory_mib) {
            bail!(
                "a guest of {memory_mib} MiB cannot dirty {dirty_mib} MiB: it needs {} MiB for itself",
                own_mib(memory_mib)
            );
        }
        self.qemu.find()?;
        if self.accelerator == "kvm" && !Path::new("/dev/kvm").exists() {
            bail!("this machine has no /dev/kvm: use the accelerator tcg");
        }
        guest::init()?;
        kernels::fetch(&self.kernel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_needs_memory_beyond_what_it_dirties() {
        let error = Builder::default().memory_mib(128).dirty(64, 1).find_kernel().unwrap_err().to_string();
        assert!(error.contains("128 MiB") && error.contains("64 MiB"), "{error}");
    }

    #[test]
    fn each_lab_has_a_name_and_a_guest_of_its_own() {
        let (one, two) = (Builder::default(), Builder::default());
        assert_ne!(one.name, two.name);
        assert_ne!(one.guest.uuid, two.guest.uuid);
    }
}
