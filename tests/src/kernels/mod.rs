//! Kernels of Debian's, downloaded and unpacked beside the build, never installed.

use crate::programs;
mod debian;

use anyhow::{Context as _, Result, anyhow, bail};
use debian::{Apt, Package};
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the lab keeps what it downloads and builds, unless this variable names another directory.
pub const CACHE_VARIABLE: &str = "MIGTRACE_LAB_CACHE";

/// A kernel with its modules, ready to boot in a virtual machine.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// What `uname -r` says when it runs.
    pub release: String,
    /// The compressed image that `qemu -kernel` takes.
    pub image: PathBuf,
    /// Its module tree: what is `/lib/modules/RELEASE` where it is installed.
    pub modules: PathBuf,
}

/// Debian's newest cloud kernel of a series, as "6.1" or "6.12": from this machine's package sources, or else from another
/// suite at the same mirror. Downloaded on the first call, which takes some seconds.
///
/// # Errors
///
/// When there is no such kernel (the message has those that there are), or it cannot be downloaded.
pub fn fetch(series: &str) -> Result<Kernel> {
    let cache = cache_directory()?;
    if let Some(kernel) = cached_kernel(&cache, series)? {
        return Ok(kernel);
    }
    // Tests run in parallel, also as processes: the first one downloads, the others wait for it here.
    let lock = File::create(cache.join("lock")).context("cannot make the lock of the kernel cache")?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    if let Some(kernel) = cached_kernel(&cache, series)? {
        return Ok(kernel);
    }
    let (apt, package) = find(series, &cache)?;
    let partial = cache.join(format!("kernel-{series}.partial"));
    remove(&partial)?;
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    apt.unpack(&package, &partial)?;
    let directory = kernel_directory(&cache, series);
    fs::rename(&partial, &directory).with_context(|| format!("cannot make {}", directory.display()))?;
    cached_kernel(&cache, series)?
        .ok_or_else(|| anyhow!("Debian's packages of Linux {} have no kernel image", package.release))
}

/// The directory that [`CACHE_VARIABLE`] names, or `target/lab` of this workspace.
///
/// # Errors
///
/// When it cannot be made.
pub fn cache_directory() -> Result<PathBuf> {
    let directory =
        std::env::var_os(CACHE_VARIABLE).map_or_else(|| workspace().join("target/lab"), PathBuf::from);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make the lab's cache {}", directory.display()))?;
    Ok(directory)
}

/// The root of the workspace that this library was built from.
pub(crate) fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

fn kernel_directory(cache: &Path, series: &str) -> PathBuf {
    cache.join(format!("kernel-{series}"))
}

/// Newer packages have the image beside the modules, and those in `/usr`.
fn cached_kernel(cache: &Path, series: &str) -> Result<Option<Kernel>> {
    let directory = kernel_directory(cache, series);
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

/// The newest kernel of a series, and where it is to be had: this machine's own sources come first.
fn find(series: &str, cache: &Path) -> Result<(Apt, Package)> {
    let mut known = BTreeMap::new();
    let mut look = |apt: Apt| -> Result<Option<(Apt, Package)>> {
        let packages = apt.kernels()?;
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
            Err(error) => unreachable += &format!("\n  no answer from {suite}: {error:#}"),
        }
    }
    let known: Vec<_> = known.into_values().collect();
    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
    bail!(
        "Debian has no cloud kernel of the series {series}; those that are to be had: {known} (if one is missing, try \
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

/// The numbers of a version, by which versions are ordered.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// A kernel module: its name and its uncompressed content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// As `lsmod` shows it, with underscores.
    pub name: String,
    /// The ELF object, ready for `finit_module`.
    pub content: Vec<u8>,
}

impl Kernel {
    /// The named modules and all that they depend on, in an order in which they can be loaded.
    ///
    /// Modules that are built into this kernel are left out. The package has no `modules.dep` (it is made where
    /// a kernel is installed), so the dependencies come from the modules themselves.
    ///
    /// # Errors
    ///
    /// When this kernel has no such module, or one cannot be read.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<Module>> {
        let mut paths = BTreeMap::new();
        index(&self.modules, &mut paths)?;
        let builtin_list = self.modules.join("modules.builtin");
        let builtin = fs::read_to_string(&builtin_list)
            .with_context(|| format!("cannot read {}", builtin_list.display()))?;
        let builtin: Vec<String> =
            builtin.lines().filter_map(|line| module_name(Path::new(line.trim()))).collect();
        let mut loaded = Vec::new();
        for name in names {
            self.add(&normal(name), &paths, &builtin, &mut loaded)?;
        }
        Ok(loaded)
    }

    /// Whether this kernel has a module of this name, not built in.
    ///
    /// # Errors
    ///
    /// When its modules cannot be listed.
    pub fn has_module(&self, name: &str) -> Result<bool> {
        let mut paths = BTreeMap::new();
        index(&self.modules, &mut paths)?;
        Ok(paths.contains_key(&normal(name)))
    }

    fn add(
        &self,
        name: &str,
        paths: &BTreeMap<String, PathBuf>,
        builtin: &[String],
        loaded: &mut Vec<Module>,
    ) -> Result<()> {
        if loaded.iter().any(|module| module.name == name) || builtin.iter().any(|module| module == name) {
            return Ok(());
        }
        let path = paths.get(name).ok_or_else(|| anyhow!("Linux {} has no module `{name}`", self.release))?;
        let content = read_module(path)?;
        for dependency in dependencies(&content).with_context(|| format!("in {}", path.display()))? {
            self.add(&dependency, paths, builtin, loaded)?;
        }
        loaded.push(Module { name: name.into(), content });
        Ok(())
    }
}

/// Name and path of every module below `directory`.
fn index(directory: &Path, paths: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            index(&entry.path(), paths)?;
        } else if let Some(name) = module_name(&entry.path()) {
            paths.insert(name, entry.path());
        }
    }
    Ok(())
}

/// `virtio_rng` for `.../virtio-rng.ko.xz`; nothing for a file that is no module.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".xz").unwrap_or(name).strip_suffix(".ko")?;
    Some(normal(name))
}

/// Files and dependency lists mix hyphens and underscores; the kernel itself knows only underscores.
fn normal(name: &str) -> String {
    name.trim().replace('-', "_")
}

fn read_module(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "xz") {
        let output = Command::new(programs::find("xz")?)
            .args(["--decompress", "--stdout"])
            .arg(path)
            .output()
            .context("cannot start xz")?;
        if !output.status.success() {
            bail!("cannot decompress {}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        }
        return Ok(output.stdout);
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The `depends=` line of a module's `.modinfo`: zero-terminated `key=value` strings, always written by modpost.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    const KEY: &[u8] = b"\0depends=";
    let start = module.windows(KEY.len()).position(|window| window == KEY).map(|at| at + KEY.len());
    let rest = start.and_then(|start| module.get(start..)).ok_or_else(|| anyhow!("this is no module"))?;
    let value = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    let value = std::str::from_utf8(value).context("the list of dependencies is not text")?;
    Ok(value.split(',').filter(|name| !name.is_empty()).map(normal).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_series_is_taken_and_no_other_series() {
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
    fn an_unpacked_kernel_is_found_wherever_its_package_has_put_it() {
        for (image, modules) in [
            ("boot/vmlinuz-6.1.0-9-cloud-amd64", "lib/modules/6.1.0-9-cloud-amd64"),
            ("usr/lib/modules/7.3.4-cloud-amd64/vmlinuz", "usr/lib/modules/7.3.4-cloud-amd64"),
        ] {
            let cache = tempfile::tempdir().unwrap();
            assert!(cached_kernel(cache.path(), "x").unwrap().is_none());
            let directory = kernel_directory(cache.path(), "x");
            fs::create_dir_all(directory.join(modules)).unwrap();
            fs::create_dir_all(directory.join("boot")).unwrap();
            assert!(cached_kernel(cache.path(), "x").unwrap().is_none(), "modules without an image");
            fs::write(directory.join(image), "").unwrap();
            let kernel = cached_kernel(cache.path(), "x").unwrap().unwrap();
            assert_eq!(kernel.image, directory.join(image));
            assert_eq!(kernel.modules, directory.join(modules));
            assert!(modules.ends_with(&kernel.release));
        }
    }

    #[test]
    fn dependencies_come_from_the_module_itself() {
        let module = b"\x7fELF...license=GPL\0depends=virtio_ring,net-failover\0name=virtio_net\0";
        assert_eq!(dependencies(module).unwrap(), ["virtio_ring", "net_failover"]);
        assert!(dependencies(b"\x7fELF license=GPL\0depends=\0").unwrap().is_empty());
        assert!(dependencies(b"\x7fELF").is_err());
    }

    #[test]
    fn a_module_is_named_as_the_kernel_names_it() {
        assert_eq!(module_name(Path::new("kernel/virtio-rng.ko.xz")).as_deref(), Some("virtio_rng"));
        assert_eq!(module_name(Path::new("kernel/failover.ko")).as_deref(), Some("failover"));
        assert_eq!(module_name(Path::new("modules.order")), None);
    }
}
