//! The mount and UTS namespaces that make a network namespace a host of its own.

use super::host_files::{BOUND, INITRAMFS, KERNEL, PACKAGES};
use super::packages::DRIVERS;
use crate::host::Host;
use anyhow::{Context as _, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::sethostname;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a host sees in its own /etc, /var and /run, and beside the machine's libraries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mounts<'a> {
    /// Has `etc`, `var` and `run`.
    pub(super) home: &'a Path,
    /// The unpacked packages.
    pub(super) packages: &'a Path,
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
}

/// The namespaces of a host, beside that of its network. They live as long as these handles and the processes inside.
#[derive(Debug, Clone)]
pub(super) struct Namespaces {
    pub(super) mount: Arc<File>,
    pub(super) uts: Arc<File>,
}

impl Namespaces {
    /// Makes the namespaces. The host's name is its role.
    pub(super) fn create(host: &Host, mounts: &Mounts<'_>) -> Result<Self> {
        // This runs on a thread of its own, which ends inside.
        host.enter(|| {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
                .context("cannot make namespaces")?;
            bind(None, Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE)?;
            sethostname(host.role()).context("cannot name a host")?;
            mounts.make()?;
            let open = |kind: &str| {
                let path = format!("/proc/thread-self/ns/{kind}");
                File::open(&path).with_context(|| format!("cannot open {path}")).map(Arc::new)
            };
            Ok(Self { mount: open("mnt")?, uts: open("uts")? })
        })?
    }
}

impl Mounts<'_> {
    fn make(&self) -> Result<()> {
        // /sys/class/net shows the network namespace in which /sys was mounted. The new mount has no cgroups below it, so
        // libvirt does without.
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)
            .context("cannot mount /sys")?;
        // The paths of drivers and data are compiled into libvirt. /usr/bin stays as it is, so QEMU is the machine's own file.
        let library_folders = ["usr/lib", "lib"].map(|folder| self.packages.join(folder));
        overlay(&library_folders, Path::new("/usr/lib"))?;
        // No drivers of an installed libvirt.
        bind(Some(&self.packages.join(DRIVERS)), &Path::new("/").join(DRIVERS), MsFlags::MS_BIND)?;
        overlay(&[self.packages.join("usr/share")], Path::new("/usr/share"))?;
        for (from, to) in [(self.packages, PACKAGES), (self.kernel, KERNEL), (self.initramfs, INITRAMFS)] {
            let inside = self.home.join(to.trim_start_matches('/'));
            bind(Some(from), &inside, MsFlags::MS_BIND)?;
        }
        // Binds rather than overlays: the lab reads and writes these files from outside, too.
        for folder in BOUND {
            let directory = self.home.join(folder);
            bind(Some(&directory), &Path::new("/").join(folder), MsFlags::MS_BIND | MsFlags::MS_REC)?;
        }
        Ok(())
    }
}

fn bind(from: Option<&Path>, to: &Path, flags: MsFlags) -> Result<()> {
    mount(from, to, None::<&str>, flags, None::<&str>)
        .with_context(|| format!("cannot mount {}", to.display()))
}

/// Adds the files in `folders`, of those that exist, to a directory. Without an upper directory, nobody can write there.
fn overlay(folders: &[PathBuf], directory: &Path) -> Result<()> {
    let folders = folders.iter().map(PathBuf::as_path).filter(|folder| folder.is_dir());
    let layers: Vec<_> = folders.chain([directory]).map(|folder| folder.display().to_string()).collect();
    let options = format!("lowerdir={}", layers.join(":"));
    mount(Some("overlay"), directory, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .with_context(|| format!("cannot mount an overlay on {}", directory.display()))
}
