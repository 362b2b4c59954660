//! The guest, and what it boots from.

use crate::cache;
use crate::cpio::Archive;
use crate::host::Host;
use crate::kernels::Kernel;
use crate::programs;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names a built init of the guest, for machines without cargo like the test VM. Otherwise the lab builds it.
pub const INIT_VARIABLE: &str = "MIGTRACE_LAB_INIT";
/// The init writes this to the serial console when it is ready.
pub(crate) const READY: &str = "guest: ready";

/// The modules in the guest's initramfs, in addition to their dependencies.
pub const MODULES: [&str; 2] = ["virtio_pci", "virtio_net"];

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The guest of a lab.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Guest {
    /// QEMU's `-name`.
    pub name: String,
    /// QEMU's `-uuid`.
    pub uuid: String,
    /// The address of its first NIC.
    pub mac: String,
    /// Its address, in 10.77.0.0/24.
    pub ipv4: Ipv4Addr,
    /// Its address, in fd77::/64.
    pub ipv6: Ipv6Addr,
    /// Its memory, in MiB.
    pub memory_mib: u64,
    /// Its vCPUs.
    pub vcpus: u32,
    /// How much of its memory it dirties, in MiB.
    pub dirty_mib: u64,
    /// How fast it dirties memory, in MiB of pages per second.
    pub dirty_mib_per_s: u64,
    /// Its disk, in MiB; 0 for none.
    pub disk_mib: u64,
    /// How much of its disk holds data, in MiB. The rest was never written.
    pub disk_data_mib: u64,
    /// Whether both hosts reach its disk, so that migrations do not copy it.
    pub disk_is_shared: bool,
    /// Its NICs. Only the first has addresses of the lab's networks.
    pub nics: u8,
}

impl Guest {
    /// The address of a NIC, and the tap to which it leads.
    pub(crate) fn nic(&self, number: u8) -> (String, String) {
        // The fifth byte tells the NICs apart.
        let mut bytes: Vec<&str> = self.mac.split(':').collect();
        let fifth = format!("{number:02x}");
        if number > 0 && bytes.len() == 6 {
            bytes[4] = &fifth;
        }
        (bytes.join(":"), Host::tap(number))
    }

    /// Whether a migration copies its disk.
    pub(crate) fn has_own_disk(&self) -> bool {
        self.disk_mib > 0 && !self.disk_is_shared
    }

    /// The kernel's command line.
    pub(crate) fn command_line(&self) -> String {
        format!(
            "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on no_timer_check \
             lab.ip={}/24 lab.ip6={}/64 lab.dirty_mib={} lab.dirty_mib_per_s={} lab.nics={}",
            self.ipv4, self.ipv6, self.dirty_mib, self.dirty_mib_per_s, self.nics
        )
    }
}

/// A UUID that depends only on the lab's name, so that the guest keeps it from host to host.
pub(crate) fn uuid(lab: &str) -> String {
    // FNV-1a, 128 bits, with the version (8, for custom UUIDs) and the variant of RFC 9562.
    let hash = lab.bytes().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    let hash = hash & !(0xf << 76) & !(0x3 << 62) | (0x8 << 76) | (0x2 << 62);
    let hex = format!("{hash:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Writes the initramfs for `kernel` to `path`.
pub(crate) fn write_initramfs(kernel: &Kernel, path: &Path) -> Result<()> {
    let init = init()?;
    let content = fs::read(&init).with_context(|| format!("cannot read {}", init.display()))?;
    let mut archive = Archive::default();
    archive.file("init", 0o755, &content);
    // The kernel opens this as the console of init, before init can mount /dev.
    archive.character_device("dev/console", 5, 1);
    for (number, module) in kernel.modules(&MODULES)?.iter().enumerate() {
        archive.file(&format!("modules/{number:02}-{}.ko", module.name), 0o644, &module.content);
    }
    fs::write(path, archive.finish()).with_context(|| format!("cannot write {}", path.display()))
}

/// The path of the guest's init, a static program. The first call builds it.
///
/// # Errors
///
/// When it does not build. The message has cargo's errors.
pub fn init() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(INIT_VARIABLE) {
        return Ok(path.into());
    }
    let workspace = cache::workspace();
    let target_directory = workspace.join("target/guest");
    let cargo = std::env::var_os("CARGO").map_or_else(|| programs::find("cargo"), |path| Ok(path.into()))?;
    let mut build = Command::new(cargo);
    build
        .args(["build", "--quiet", "--release", "--locked", "--package", "migtrace-guest"])
        // With `--target`, the flag for static linking does not reach build scripts and procedural macros.
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target_directory)
        .current_dir(&workspace)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env("CARGO_PROFILE_RELEASE_STRIP", "true");
    programs::output(&mut build, "").context("cannot build the guest's init")?;
    Ok(target_directory.join(TARGET).join("release/migtrace-guest"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lab_name_has_a_well_formed_uuid_of_its_own() {
        let (one, two) = (uuid("one"), uuid("two"));
        assert_ne!(one, two);
        assert_eq!(one, uuid("one"));
        let lengths: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(&one[14..15], "8");
        assert!("89ab".contains(&one[19..20]), "{one}");
    }
}
