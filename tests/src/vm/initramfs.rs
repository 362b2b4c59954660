//! The initramfs of a virtual machine: programs with the libraries that they need, and modules of its kernel.

use crate::cpio::Archive;
use crate::kernels::Kernel;
use crate::programs;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const QEMU: &str = "qemu-system-x86_64";

/// What every machine has, and the paths inside.
const PROGRAMS: [(&str, &str); 2] = [("busybox", "bin/busybox"), ("sh", "bin/sh")];
/// What those have that boot from nothing else.
const PROGRAMS_OF_THE_LAB: [(&str, &str); 2] = [("ip", "usr/sbin/ip"), (QEMU, "usr/bin/qemu-system-x86_64")];

/// What QEMU loads for a guest of the machine type `pc` that boots a kernel, in one of its data directories.
const FIRMWARE: [&str; 4] = ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin", "linuxboot.bin"];
/// Debian's QEMU has its accelerators in modules. A QEMU that has them built in has no such files.
const QEMU_MODULE_PREFIX: &str = "accel-";

/// An initramfs in the making. It has an init and a shell.
#[derive(Debug)]
pub struct Initramfs {
    archive: Archive,
    /// The libraries that are already in the archive.
    libraries: BTreeSet<PathBuf>,
}

impl Initramfs {
    /// One for `kernel`, with QEMU. Its init loads these modules: there is no modprobe.
    ///
    /// # Errors
    ///
    /// When a program or a module is missing or cannot be read: names it.
    pub fn new(kernel: &Kernel, modules: &[&str]) -> Result<Self> {
        let mut new = Self::before_a_disk(kernel, modules)?;
        for (program, target) in PROGRAMS_OF_THE_LAB {
            new.installed(program, target)?;
        }
        new.qemu_data()?;
        Ok(new)
    }

    /// One for `kernel` of a machine that has a disk with everything else.
    ///
    /// # Errors
    ///
    /// When a program or a module is missing or cannot be read: names it.
    pub fn before_a_disk(kernel: &Kernel, modules: &[&str]) -> Result<Self> {
        let mut new = Self { archive: Archive::default(), libraries: BTreeSet::new() };
        new.archive.file("init", 0o755, include_bytes!("init.sh"));
        // The kernel opens the console for init before init can mount /dev.
        new.archive.character_device("dev/console", 5, 1);
        for (program, target) in PROGRAMS {
            new.installed(program, target)?;
        }
        for (number, module) in kernel.modules(modules)?.iter().enumerate() {
            new.file(&format!("modules/{number:02}-{}.ko", module.name), 0o644, &module.content);
        }
        Ok(new)
    }

    /// Adds a file; `mode` holds its permission bits.
    pub fn file(&mut self, to: &str, mode: u32, content: &[u8]) {
        self.archive.file(to, mode, content);
    }

    /// Copies a file.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn copy(&mut self, from: &Path, to: &str, mode: u32) -> Result<()> {
        let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(to, mode, &content);
        Ok(())
    }

    /// Copies a program with the libraries that it needs.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or lacks a library.
    pub fn program(&mut self, from: &Path, to: &str) -> Result<()> {
        self.copy(from, to, 0o755)?;
        self.libraries_of(from)
    }

    /// Copies a program that is installed on this machine.
    ///
    /// # Errors
    ///
    /// As [`Initramfs::program`], and when it is not installed.
    pub fn installed(&mut self, program: &str, to: &str) -> Result<()> {
        self.program(&programs::find(program)?, to)
    }

    /// Writes it to `path`.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write(self, path: &Path) -> Result<()> {
        fs::write(path, self.archive.finish()).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Copies each library to the path where the dynamic loader looks for it.
    fn libraries_of(&mut self, file: &Path) -> Result<()> {
        for library in needed_libraries(file)? {
            if self.libraries.insert(library.clone()) {
                self.copy(&library, &inside(&library), 0o755)?;
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
            self.program(&module, &inside(&module))?;
        }
        Ok(())
    }
}

/// The same path, as an archive names it.
fn inside(path: &Path) -> String {
    path.strip_prefix("/").unwrap_or(path).display().to_string()
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
    let output = Command::new(programs::find(QEMU)?)
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
