//! The initramfs of the test VM: everything that the lab and its tests run, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};
use migtrace_lab::cpio::Archive;
use migtrace_lab::kernels::{self, Kernel};
use migtrace_toolchain::find_program;

/// The modules that the lab needs of a cloud kernel. They are loaded at boot, as there is no modprobe.
const MODULES: [&str; 18] = [
    "kvm_amd",
    "tun",
    "veth",
    "bridge",
    "8021q",
    "vxlan",
    "geneve",
    "sch_tbf",
    "sch_netem",
    "sch_ingress",
    "cls_bpf",
    "cls_matchall",
    "cls_u32",
    "act_gact",
    "inet_diag",
    "tcp_diag",
    "nf_tables",
    "nft_numgen",
];

/// The modules that the lab needs of older kernels only.
const FORMER_MODULES: [&str; 1] = [
    // A part of nf_tables since Linux 5.17.
    "nft_counter",
];

/// The kernel series of the guests inside: the lab's default.
const GUEST_KERNEL: &str = "6.1";

/// Programs, and their paths inside.
const PROGRAMS: [(&str, &str); 7] = [
    ("busybox", "bin/busybox"),
    ("sh", "bin/sh"),
    ("ip", "usr/sbin/ip"),
    ("tc", "usr/sbin/tc"),
    ("ethtool", "usr/sbin/ethtool"),
    ("nft", "usr/sbin/nft"),
    (QEMU, "usr/bin/qemu-system-x86_64"),
];
const QEMU: &str = "qemu-system-x86_64";

/// What QEMU loads for a guest of the machine type `pc` that boots a kernel, in one of its data directories.
const FIRMWARE: [&str; 4] = ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "linuxboot.bin"];
/// Debian's QEMU has its accelerators in modules. A QEMU that has them built in has no such files.
const QEMU_MODULE_PREFIX: &str = "accel-";

/// The tests of the library's kernel side whose outcome may depend on the kernel: frames of every shape and random ones,
/// handshakes, filters. Each loads all programs, which takes seconds on an emulated CPU.
const KERNEL_TESTS: [&str; 7] = [
    "every_shape_of_request_and_reply_is_followed_in_the_kernel",
    "every_shape_of_headers_is_counted_as_on_the_wire_in_both_directions",
    "the_first_payload_is_read_after_every_shape_of_headers",
    "every_packet_goes_on_to_the_next_program",
    "a_handshake_opens_a_flow_at_either_end_with_its_first_packet",
    "a_new_connection_between_the_same_ends_is_a_new_flow",
    "the_next_start_removes_the_filters_of_killed_runs_and_no_others",
];

/// The programs under test.
pub(super) struct Binaries {
    /// `migtrace`.
    pub(super) migtrace: PathBuf,
    /// The unit tests of the library, with those of its kernel side.
    pub(super) kernel_tests: PathBuf,
    /// The tests in the lab.
    pub(super) lab_tests: PathBuf,
}

/// Writes the initramfs of a VM that boots `kernel` to `path`.
///
/// # Errors
/// When a part of it is missing or cannot be read: names it.
pub(super) fn write(kernel: &Kernel, binaries: &Binaries, path: &Path) -> Result<()> {
    let mut image = Image::default();
    image.archive.file("init", 0o755, include_bytes!("init.sh"));
    // The kernel opens the console for init before init can mount /dev.
    image.archive.character_device("dev/console", 5, 1);
    for (program, target) in PROGRAMS {
        image.program(&find(program)?, target)?;
    }
    image.program(&binaries.migtrace, "usr/bin/migtrace")?;
    image.program(&binaries.kernel_tests, "tests/kernel")?;
    image.archive.file("tests/kernel.names", 0o644, KERNEL_TESTS.join("\n").as_bytes());
    image.program(&binaries.lab_tests, "tests/lab")?;
    image.qemu_data()?;
    let mut modules = MODULES.to_vec();
    for former in FORMER_MODULES {
        if kernel.has_module(former)? {
            modules.push(former);
        }
    }
    for (number, module) in kernel.modules(&modules)?.iter().enumerate() {
        image.archive.file(&format!("modules/{number:02}-{}.ko", module.name), 0o644, &module.content);
    }
    image.guest()?;
    fs::write(path, image.archive.finish()).with_context(|| format!("cannot write {}", path.display()))
}

#[derive(Default)]
struct Image {
    archive: Archive,
    /// The libraries that are already in the archive.
    libraries: BTreeSet<PathBuf>,
}

impl Image {
    fn copy(&mut self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.archive.file(to, mode, &content);
        Ok(())
    }

    /// A program with the libraries that it needs.
    fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        self.copy(from, to, 0o755)?;
        self.libraries_of(from)
    }

    /// Copies each library to the path where the dynamic loader looks for it.
    fn libraries_of(&mut self, file: &Path) -> Result<()> {
        for library in needed_libraries(file)? {
            if self.libraries.insert(library.clone()) {
                let target = library.strip_prefix("/").unwrap_or(&library).display().to_string();
                self.copy(&library, &target, 0o755)?;
            }
        }
        Ok(())
    }

    /// QEMU's firmware and loadable accelerators, where it looks for them.
    fn qemu_data(&mut self) -> Result<()> {
        let directories = qemu_data_directories()?;
        for firmware in FIRMWARE {
            let found =
                directories.iter().map(|directory| directory.join(firmware)).find(|path| path.is_file());
            let Some(found) = found else {
                bail!(
                    "QEMU has no {firmware} in its data directories; install its firmware (Debian: seabios)"
                );
            };
            self.copy(&found, &format!("usr/share/qemu/{firmware}"), 0o644)?;
        }
        for module in qemu_modules()? {
            let target = module.strip_prefix("/").unwrap_or(&module).display().to_string();
            self.program(&module, &target)?;
        }
        Ok(())
    }

    /// The kernel and the init of the guests, laid out as in the cache of the lab.
    fn guest(&mut self) -> Result<()> {
        self.copy(&migtrace_lab::init()?, "lab/init", 0o755)?;
        let kernel = kernels::fetch(GUEST_KERNEL)?;
        let root = format!("lab/kernel-{GUEST_KERNEL}");
        self.copy(&kernel.image, &format!("{root}/boot/vmlinuz-{}", kernel.release), 0o644)?;
        let modules = format!("{root}/lib/modules/{}", kernel.release);
        self.copy(&kernel.modules.join("modules.builtin"), &format!("{modules}/modules.builtin"), 0o644)?;
        for module in kernel.modules(&migtrace_lab::GUEST_MODULES)? {
            self.archive.file(&format!("{modules}/{}.ko", module.name), 0o644, &module.content);
        }
        Ok(())
    }
}

fn find(program: &str) -> Result<PathBuf> {
    find_program(program).ok_or_else(|| anyhow!("there is no `{program}` here: run `cargo xtask setup`"))
}

/// The absolute paths of the libraries that a program is linked with, and of the loader.
fn needed_libraries(file: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(file).env("LC_ALL", "C").output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if errors.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    if !output.status.success() {
        bail!("`ldd {}` failed: {}", file.display(), errors.trim());
    }
    parse_ldd(&text).with_context(|| format!("{} cannot run on this machine either", file.display()))
}

/// Parses lines like `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader. The kernel's own library has no path.
fn parse_ldd(text: &str) -> Result<Vec<PathBuf>> {
    if let Some(missing) = text.lines().find(|line| line.contains("not found")) {
        bail!("a library is missing: {}", missing.trim());
    }
    let paths = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(paths.map(Into::into).collect())
}

fn qemu_data_directories() -> Result<Vec<PathBuf>> {
    let output = Command::new(find(QEMU)?)
        .args(["-L", "help"])
        .output()
        .context("cannot run QEMU to list its directories")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(Into::into).collect())
}

/// The modules of QEMU that the lab may need, in all places where distributions keep them.
fn qemu_modules() -> Result<Vec<PathBuf>> {
    let mut directories = vec![PathBuf::from("/usr/lib/qemu"), PathBuf::from("/usr/lib64/qemu")];
    for entry in fs::read_dir("/usr/lib").context("cannot list /usr/lib")? {
        directories.push(entry?.path().join("qemu"));
    }
    directories.sort();
    directories.dedup();
    let mut modules = Vec::new();
    for directory in directories.iter().filter(|directory| directory.is_dir()) {
        let entries =
            fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(QEMU_MODULE_PREFIX)) {
                modules.push(entry.path());
            }
        }
    }
    Ok(modules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules;

    #[test]
    fn every_kernel_test_that_the_vm_runs_exists() {
        rules::assert_tests_exist(&KERNEL_TESTS);
    }

    #[test]
    fn libraries_are_where_the_loader_looks_for_them() {
        let text = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let libraries = parse_ldd(text).unwrap();
        assert_eq!(
            libraries,
            ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from)
        );
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = parse_ldd("\tlibnone.so.1 => not found\n").unwrap_err().to_string();
        assert!(error.contains("libnone.so.1"), "{error}");
    }
}
