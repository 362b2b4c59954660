//! Virtual machines with an emulated CPU, which run a kernel of their own without KVM: for `cargo xtask vm`, and as a host of
//! the lab.

pub mod agent;
mod host;
mod initramfs;

pub use host::VmHost;
pub use initramfs::Initramfs;

use crate::kernels::Kernel;
use crate::migration::{self, Action, Migrated, Migration, Progress};
use crate::qmp::Qmp;
use anyhow::Result;
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;

/// One CPU only. With more, Linux may trip over the `int3` by which it patches its own code, as QEMU does not always
/// retranslate in time what another emulated CPU is running.
const CPUS: &str = "1";

/// A virtual machine that is about to boot.
#[derive(Debug, Clone, Copy)]
pub struct Machine<'a> {
    /// Its kernel.
    pub kernel: &'a Kernel,
    /// What it boots from.
    pub initramfs: &'a Path,
    /// Its memory, as QEMU's `-m` takes it.
    pub memory: &'a str,
    /// More parameters of its kernel.
    pub parameters: &'a str,
    /// The arguments of its init.
    pub init: &'a [&'a str],
}

impl Machine<'_> {
    /// The arguments of QEMU: a machine with a serial console, for which the caller says where it goes, and no devices.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        // Critical messages only: KVM's warnings about guests would appear in the middle of a test's line.
        let kernel = "console=ttyS0 loglevel=3 panic=-1 mitigations=off no_timer_check random.trust_cpu=on";
        let append = format!("{kernel} {} -- {}", self.parameters, self.init.join(" "));
        let mut arguments: Vec<OsString> = ["-machine", "q35", "-accel", "tcg", "-cpu", "max,+svm"]
            .into_iter()
            .chain(["-smp", CPUS, "-m", self.memory, "-nodefaults", "-no-user-config", "-no-reboot"])
            .chain(["-display", "none"])
            .map(Into::into)
            .collect();
        arguments.extend(["-kernel".into(), (&self.kernel.image).into()]);
        arguments.extend(["-initrd".into(), self.initramfs.into()]);
        arguments.extend(["-append".into(), append.into()]);
        arguments
    }
}

/// Moves a guest from one QEMU to another that waits for `migrate-incoming` at the address `to`, wherever the two run.
/// `progress` is called again and again, and decides whether the migration goes on.
///
/// # Errors
///
/// When it cannot begin, takes too long, or loses the guest.
pub fn migrate(
    source: &mut Qmp,
    destination: &mut Qmp,
    to: IpAddr,
    migration: &Migration,
    mut progress: impl FnMut(&Progress<'_>) -> Action,
) -> Result<Migrated> {
    migration::prepare(destination, migration, false)?;
    migration::drive(source, destination, to, false, migration, &mut progress)
}
