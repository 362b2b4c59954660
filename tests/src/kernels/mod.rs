//! Debian's kernels, downloaded and unpacked beside the build, never installed.

mod debian;
mod modules;

pub use modules::Module;

use crate::apt::Apt;
use crate::cache;
use anyhow::{Context as _, Result, bail};
use debian::Package;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A kernel with its modules, ready to boot in a virtual machine.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What `uname -r` prints when it runs.
    pub release: String,
    /// The compressed image that `qemu -kernel` takes.
    pub image: PathBuf,
    /// Its modules: an installation has them in `/lib/modules/RELEASE`.
    pub modules: PathBuf,
}

/// Debian's newest cloud kernel of a series, like "6.1" or "6.12", from this machine's package sources or else from another
/// suite at the same mirror. The first call downloads it, which takes some seconds.
///
/// # Errors
///
/// When there is no such kernel (the message lists the available ones), or it cannot be downloaded.
pub fn fetch(series: &str) -> Result<Kernel> {
    cache::get(&format!("kernel-{series}"), unpacked_kernel, |directory| {
        let (apt, package) = find(series, &cache::directory()?)?;
        apt.unpack(&package.parts, directory)
    })
}

/// The kernel that is unpacked in a directory. Newer packages have the image beside the modules, and both in `/usr`.
fn unpacked_kernel(directory: &Path) -> Result<Option<Kernel>> {
    for modules in ["usr/lib/modules", "lib/modules"].map(|folder| directory.join(folder)) {
        if !modules.exists() {
            continue;
        }
        for entry in fs::read_dir(&modules).with_context(|| format!("cannot list {}", modules.display()))? {
            let modules = entry?.path();
            let Some(release) = modules.file_name().and_then(|name| name.to_str()) else { continue };
            let images = [directory.join(format!("boot/vmlinuz-{release}")), modules.join("vmlinuz")];
            if let Some(image) = images.into_iter().find(|image| image.is_file()) {
                return Ok(Some(Kernel { release: release.into(), modules, image }));
            }
        }
    }
    Ok(None)
}

/// The newest kernel of a series, and where apt finds it. This machine's own sources come first.
fn find(series: &str, cache: &Path) -> Result<(Apt, Package)> {
    let mut known = BTreeMap::new();
    let mut look = |apt: Apt| -> Result<Option<(Apt, Package)>> {
        let packages = debian::kernels(&apt)?;
        let all_series = packages.iter().filter_map(|package| series_of(&package.release));
        known.extend(all_series.map(|series| (numbers(series), series.to_owned())));
        Ok(newest_of_series(packages, series).map(|package| (apt, package)))
    };
    if let Some(found) = look(Apt::default())? {
        return Ok(found);
    }
    let mut unreachable = String::new();
    for (suite, archive) in debian::SUITES {
        match Apt::of_suite(suite, archive, &cache.join("suites").join(suite)).and_then(&mut look) {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(error) => unreachable += &format!("\n  {suite} is not available: {error:#}"),
        }
    }
    let known: Vec<_> = known.into_values().collect();
    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
    bail!(
        "Debian has no cloud kernel of the series {series}; available: {known} (if one is missing, try \
         `apt-get update`){unreachable}"
    )
}

/// `6.1` for `6.1.0-56`.
fn series_of(release: &str) -> Option<&str> {
    let (second_dot, _) = release.match_indices('.').nth(1)?;
    release.get(..second_dot)
}

fn newest_of_series(packages: Vec<Package>, series: &str) -> Option<Package> {
    let of_series = packages.into_iter().filter(|package| series_of(&package.release) == Some(series));
    of_series.max_by_key(|package| numbers(&package.release))
}

/// The numbers in a version. Versions compare as these do.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_kernel_of_exactly_this_series_is_chosen() {
        let releases = ["6.1.0-9", "6.1.0-56", "6.12", "6.12.100+deb12", "6.12.99+deb12"];
        let newest = |series| {
            let packages = releases.map(Package::whole).to_vec();
            newest_of_series(packages, series).map(|package| package.release)
        };
        assert_eq!(newest("6.1").as_deref(), Some("6.1.0-56"));
        assert_eq!(newest("6.12").as_deref(), Some("6.12.100+deb12"));
        assert_eq!(newest("6.16"), None);
    }

    #[test]
    fn an_unpacked_kernel_is_found_in_either_layout_of_debians_packages() {
        for (image, modules) in [
            ("boot/vmlinuz-6.1.0-9-cloud-amd64", "lib/modules/6.1.0-9-cloud-amd64"),
            ("usr/lib/modules/7.3.4-cloud-amd64/vmlinuz", "usr/lib/modules/7.3.4-cloud-amd64"),
        ] {
            let cache = tempfile::tempdir().unwrap();
            let directory = cache.path().join("x");
            assert!(unpacked_kernel(&directory).unwrap().is_none());
            fs::create_dir_all(directory.join(modules)).unwrap();
            fs::create_dir_all(directory.join("boot")).unwrap();
            assert!(unpacked_kernel(&directory).unwrap().is_none(), "modules without an image");
            fs::write(directory.join(image), "").unwrap();
            let kernel = unpacked_kernel(&directory).unwrap().unwrap();
            assert_eq!(kernel.image, directory.join(image));
            assert_eq!(kernel.modules, directory.join(modules));
            assert!(modules.ends_with(&kernel.release));
        }
    }
}
