//! Debian kernels, downloaded and unpacked beside the build, never installed.

use crate::command;
use anyhow::{Context as _, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the lab keeps what it downloads and builds, unless this variable names another directory.
pub const CACHE_VARIABLE: &str = "MIGTRACE_LAB_CACHE";

/// What a release stands between in the name of a package with a kernel.
const PACKAGE_PREFIX: &str = "linux-image-";
const PACKAGE_SUFFIX: &str = "-cloud-amd64";

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

/// Debian's newest cloud kernel of a series, as "6.1" or "6.12". Downloaded on the first call, which takes some seconds.
///
/// # Errors
///
/// When apt knows no such kernel (the message has those that it knows), or cannot download it.
pub fn kernel(series: &str) -> Result<Kernel> {
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
    let package = package(series)?;
    let partial = cache.join(format!("kernel-{series}.partial"));
    remove(&partial)?;
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    // The cache is root's: apt's own unprivileged user could not write there.
    let mut download = Command::new(command::find("apt-get")?);
    download.args(["--quiet=2", "-o", "APT::Sandbox::User=root", "download", &package]).current_dir(&partial);
    command::output(&mut download, "").context("cannot download a kernel; try `apt-get update` first")?;
    let archive = fs::read_dir(&partial)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| anyhow!("`apt-get download {package}` left no package behind"))?;
    command::run("dpkg", ["-x".as_ref(), archive.as_os_str(), partial.as_os_str()])?;
    fs::remove_file(&archive)?;
    let directory = kernel_directory(&cache, series);
    fs::rename(&partial, &directory).with_context(|| format!("cannot make {}", directory.display()))?;
    cached_kernel(&cache, series)?.ok_or_else(|| anyhow!("the package {package} has no kernel image"))
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

fn cached_kernel(cache: &Path, series: &str) -> Result<Option<Kernel>> {
    let directory = kernel_directory(cache, series);
    let boot = directory.join("boot");
    if !boot.exists() {
        return Ok(None);
    }
    for entry in fs::read_dir(&boot).with_context(|| format!("cannot list {}", boot.display()))? {
        let image = entry?.path();
        let name = image.file_name().and_then(|name| name.to_str());
        if let Some(release) = name.and_then(|name| name.strip_prefix("vmlinuz-")) {
            let modules = directory.join("lib/modules").join(release);
            return Ok(Some(Kernel { release: release.into(), modules, image }));
        }
    }
    Ok(None)
}

/// The package with the newest cloud kernel of a series, of those that apt knows.
fn package(series: &str) -> Result<String> {
    let pattern = format!("^{PACKAGE_PREFIX}[0-9].*{PACKAGE_SUFFIX}$");
    let answer = command::run("apt-cache", ["search", "--names-only", &pattern])?;
    let releases: Vec<&str> = answer.lines().filter_map(release_of_package).collect();
    let newest = newest_of_series(&releases, series).ok_or_else(|| {
        let mut known: Vec<_> = releases.iter().filter_map(|release| series_of(release)).collect();
        known.sort_by_key(|series| numbers(series));
        known.dedup();
        let known = if known.is_empty() { "none".into() } else { known.join(", ") };
        anyhow!(
            "apt knows no Debian cloud kernel of the series {series}; those that it knows: {known} \
             (try `apt-get update`; others are in the package lists of other Debian releases)"
        )
    })?;
    Ok(format!("{PACKAGE_PREFIX}{newest}{PACKAGE_SUFFIX}"))
}

/// `6.1.0-56` for a line `linux-image-6.1.0-56-cloud-amd64 - Linux 6.1...`.
fn release_of_package(line: &str) -> Option<&str> {
    line.split(' ').next()?.strip_prefix(PACKAGE_PREFIX)?.strip_suffix(PACKAGE_SUFFIX)
}

/// `6.1` for `6.1.0-56`; nothing for `6.12`, which is a package without a kernel that always depends on the newest.
fn series_of(release: &str) -> Option<&str> {
    let (second_dot, _) = release.match_indices('.').nth(1)?;
    release.get(..second_dot)
}

fn newest_of_series<'a>(releases: &[&'a str], series: &str) -> Option<&'a str> {
    let of_series = releases.iter().filter(|release| series_of(release) == Some(series));
    of_series.max_by_key(|release| numbers(release)).copied()
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
        let output = Command::new(command::find("xz")?)
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
        let lines = [
            "linux-image-6.1.0-9-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)",
            "linux-image-6.1.0-56-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)",
            "linux-image-6.12-cloud-amd64 - Linux for x86-64 cloud (meta-package)",
            "linux-image-6.12.100+deb12-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)",
            "linux-image-6.12.99+deb12-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)",
        ];
        let releases: Vec<&str> = lines.into_iter().filter_map(release_of_package).collect();
        assert_eq!(newest_of_series(&releases, "6.1"), Some("6.1.0-56"));
        assert_eq!(newest_of_series(&releases, "6.12"), Some("6.12.100+deb12"));
        assert_eq!(newest_of_series(&releases, "6.16"), None);
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
