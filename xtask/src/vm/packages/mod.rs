//! `cargo xtask vm --packages`: installs the package for Debian in a Debian, lets its service record a migration, upgrades
//! it, removes it and purges it.
//!
//! The machine boots from a disk, whose init is systemd. What happens inside is in `packages.sh`. What its service has
//! recorded comes out on a second disk.

mod results;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use migtrace_lab::kernels::{self, Kernel};
use migtrace_lab::vm::Initramfs;
use migtrace_lab::{DEBIAN_DISK, Download};

use super::machine::{Machine, Verdict};
use super::{Options, build_one};
use crate::prerequisites::Group;
use crate::{builds, dist, setup};

/// The kernel of that Debian. It has no TCX: filters that nobody removes would stay.
const KERNEL: &str = "6.1";
/// For the disks, the guests, their network, and migtrace.
const MODULES: [&str; 8] =
    ["virtio_pci", "virtio_blk", "kvm_amd", "veth", "inet_diag", "tcp_diag", "sch_ingress", "cls_bpf"];
/// What systemd is to do: nothing but the test, and without a word.
const PARAMETERS: &str = "systemd.unit=packages.service systemd.show_status=0 systemd.log_target=journal";
const RESULTS_BYTES: u64 = 8 << 20;

/// Makes the packages, and boots the machine.
///
/// # Errors
/// When this machine lacks something, the other one does not boot, or a step fails there.
pub(super) fn run(options: &Options, directory: &Path) -> Result<()> {
    setup::ensure(&[Group::Build, Group::Lab, Group::Packages, Group::Installation])?;
    let kernel = kernels::fetch(KERNEL)?;
    let disk = Download::Debian.fetch()?.join(DEBIAN_DISK);
    let work = tempfile::tempdir().context("cannot make a folder for the packages")?;
    let packages = dist::debian_packages(&stripped(work.path())?, work.path())?;
    let initramfs = directory.join("packages.cpio");
    write_initramfs(&kernel, &packages, &initramfs)?;
    let results = work.path().join("results");
    let file = File::create(&results).context("cannot make a disk for the results")?;
    file.set_len(RESULTS_BYTES).context("cannot make a disk for the results")?;
    let drive = |path: &Path, more: &str| {
        ["-drive".into(), format!("if=virtio,format=raw,file={}{more}", path.display()).into()]
    };
    let machine = Machine {
        series: "packages",
        kernel: &kernel,
        initramfs,
        console: directory.join("packages.log"),
        timeout: Duration::from_secs(options.timeout),
        parameters: PARAMETERS,
        devices: [drive(&disk, ",snapshot=on"), drive(&results, "")].concat(),
        verbose: options.verbose,
    };
    machine.say(&format!("Debian with Linux {} boots", kernel.release));
    if machine.test(&["debian"])? == Verdict::Failed {
        bail!("a step failed");
    }
    results::check(&results)?;
    machine.say("test the_record_is_that_of_the_migration ... ok");
    Ok(())
}

/// The command under test without what a debugger needs, which is most of it.
fn stripped(directory: &Path) -> Result<PathBuf> {
    let binary = build_one(builds::command_under_test(), "migtrace", false)?;
    let stripped = directory.join("migtrace");
    let status =
        Command::new("strip").arg("-o").arg(&stripped).arg(binary).status().context("cannot run strip")?;
    if !status.success() {
        bail!("strip ended with {status}");
    }
    Ok(stripped)
}

fn write_initramfs(kernel: &Kernel, [earlier, release]: &[PathBuf; 2], to: &Path) -> Result<()> {
    let mut image = Initramfs::before_a_disk(kernel, &MODULES)?;
    image.copy(earlier, "payload/earlier.deb", 0o644)?;
    image.copy(release, "payload/release.deb", 0o644)?;
    image.file("payload/packages.sh", 0o644, include_bytes!("packages.sh"));
    image.file("payload/systemd/system/packages.service", 0o644, include_bytes!("packages.service"));
    image.write(to)
}
