//! libvirt from Debian's packages, unpacked beside the build and never installed.

use crate::apt::Apt;
use crate::cache;
use anyhow::{Context as _, Result};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// The packages of libvirtd, its QEMU driver, virsh and their library. They are unpacked even where they are installed, so
/// that all of them have one version.
const PACKAGES: [&str; 4] = ["libvirt-daemon", "libvirt-daemon-driver-qemu", "libvirt-clients", "libvirt0"];

/// Where the programs are in the directory of unpacked packages.
pub(super) const LIBVIRTD: &str = "usr/sbin/libvirtd";
pub(super) const VIRSH: &str = "usr/bin/virsh";
pub(super) const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Where libvirtd's drivers are.
pub(super) const DRIVERS: &str = "usr/lib/x86_64-linux-gnu/libvirt/connection-driver";

/// The directory with libvirt and those of its dependencies that are not installed here. The first call downloads them,
/// which takes some seconds.
///
/// # Errors
///
/// When this machine has no apt or its package sources no libvirt, or it cannot be downloaded.
pub fn fetch() -> Result<PathBuf> {
    let look = |directory: &Path| Ok(Some(directory.to_path_buf()).filter(|root| is_unpacked(root)));
    cache::get(DIRECTORY, look, |directory| {
        let apt = Apt::default();
        let roots = ["install", "--simulate", "--no-install-recommends"].iter().chain(&PACKAGES);
        let simulated = apt.query("apt-get", &roots.copied().collect::<Vec<_>>())?;
        let mut packages: BTreeSet<String> = PACKAGES.map(Into::into).into();
        packages.extend(to_install(&simulated).map(Into::into));
        apt.unpack(&packages.into_iter().collect::<Vec<_>>(), directory)?;
        remove_other_drivers(&directory.join(DRIVERS))
    })
}

/// Where [`fetch`] has unpacked libvirt, if it has.
///
/// # Errors
///
/// When the lab has no place for what it downloads.
pub fn fetched() -> Result<Option<PathBuf>> {
    Ok(Some(cache::directory()?.join(DIRECTORY)).filter(|root| is_unpacked(root)))
}

const DIRECTORY: &str = "libvirt";
/// The only driver that stays.
const DRIVER: &str = "libvirt_driver_qemu.so";

fn is_unpacked(root: &Path) -> bool {
    [LIBVIRTD, VIRSH].iter().all(|program| root.join(program).is_file())
}

/// Removes the drivers that libvirtd does not need here. While it starts, those of networks and devices run programs and ask
/// daemons that the hosts of the lab do not have. One start in hundreds hung while the driver of devices did that.
fn remove_other_drivers(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let path = entry?.path();
        if path.file_name() != Some(OsStr::new(DRIVER)) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// The packages that `apt-get install --simulate` would install: `Inst NAME (VERSION ...)`.
fn to_install(simulated: &str) -> impl Iterator<Item = &str> {
    simulated.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_would_install_or_upgrade_is_found_in_its_simulation() {
        let simulated = "NOTE: This is only a simulation!\nInst libyajl2 (2.1.0-3 Debian:12.15/oldstable [amd64])\n\
                         Inst libvirt0 [9.0.0-4] (9.0.0-5 Debian:12.15/oldstable [amd64])\n\
                         Conf libyajl2 (2.1.0-3 Debian:12.15/oldstable [amd64])\n";
        assert_eq!(to_install(simulated).collect::<Vec<_>>(), ["libyajl2", "libvirt0"]);
    }
}
