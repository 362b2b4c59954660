//! Which processes are QEMUs: those that run QEMU's executable, whatever they call themselves.
//!
//! Any local user can give a process any name, and what a QEMU says becomes part of the record. So the executable decides:
//! it is a file that a person named, or it has a QEMU's name and [only root can have put it there](super::trust).

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::named::Binaries;
use super::process::Process;
use super::trust::{Distrust, distrust};

#[cfg(test)]
mod tests;

/// How many times a process is looked at again that has become another program meanwhile. Nobody can keep migtrace busy by
/// doing that for ever.
const MOST_EXECS: usize = 3;

/// What a process is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Qemu,
    /// It calls itself QEMU, and is not known to be one.
    Pretender(Pretender),
    Other,
}

/// A process that calls itself QEMU, and is not known to be one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pretender {
    pub(crate) pid: u32,
    pub(crate) executable: PathBuf,
    pub(crate) why: Distrust,
}

impl Process {
    /// What it is.
    ///
    /// # Errors
    /// It calls itself QEMU, and may not be examined (`CAP_SYS_PTRACE`).
    pub(super) fn kind(self, binaries: &Binaries) -> io::Result<Kind> {
        let mut kind = self.kind_as_read(binaries)?;
        for _ in 0..MOST_EXECS {
            match &kind {
                Kind::Pretender(pretender) if !self.still_runs(&pretender.executable) => {
                    kind = self.kind_as_read(binaries)?;
                }
                _ => break,
            }
        }
        Ok(kind)
    }

    /// Whether it has not become another program.
    fn still_runs(self, executable: &Path) -> bool {
        fs::read_link(self.path("exe")).is_ok_and(|now| now == executable)
    }

    /// What it is, by its executable and its name, which are read one after the other: the name may already be that of the
    /// program that it becomes in between (`chroot`, `env` and other wrappers run QEMU so).
    fn kind_as_read(self, binaries: &Binaries) -> io::Result<Kind> {
        let executable = match fs::read_link(self.path("exe")) {
            Ok(executable) => executable,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && self.is_called_qemu() => {
                return Err(error);
            }
            // It has ended, or is a kernel thread.
            Err(_) => return Ok(Kind::Other),
        };
        if binaries.have(self) {
            return Ok(Kind::Qemu);
        }
        let why = if has_qemus_name(&executable) {
            match distrust(self, &executable) {
                Ok(None) => return Ok(Kind::Qemu),
                Ok(Some(why)) => why,
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
                // It has ended meanwhile.
                Err(_) => return Ok(Kind::Other),
            }
        } else if self.is_called_qemu() {
            Distrust::Name
        } else {
            return Ok(Kind::Other);
        };
        Ok(Kind::Pretender(Pretender { pid: self.0, executable, why }))
    }

    /// What it is, or [`Kind::Other`] when it is not in `namespace`; an error when that cannot be found out.
    pub(super) fn kind_in(self, namespace: &Path, binaries: &Binaries) -> io::Result<Kind> {
        let not_allowed = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!(
                    "cannot find out whether process {}, which calls itself QEMU, is in this network namespace: \
                     {error}; run as root, or with CAP_SYS_PTRACE",
                    self.0
                ),
            )
        };
        let kind = self.kind(binaries).map_err(not_allowed)?;
        if kind == Kind::Other {
            return Ok(kind);
        }
        match fs::read_link(self.path("ns/net")) {
            Ok(theirs) if theirs == namespace => Ok(kind),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(not_allowed(error)),
            Ok(_) | Err(_) => Ok(Kind::Other),
        }
    }

    pub(super) fn runs_qemu(self, binaries: &Binaries) -> bool {
        self.kind(binaries).is_ok_and(|kind| kind == Kind::Qemu)
    }

    fn is_called_qemu(self) -> bool {
        self.name().is_some_and(|name| has_qemus_name(Path::new(OsStr::from_bytes(&name))))
    }
}

/// Whether a path names QEMU's system emulator: `qemu-system-x86_64`, `qemu-kvm` (Red Hat), `kvm` (Proxmox),
/// `.qemu-system-x86_64-wrapped` (NixOS), or one of these that an upgrade has replaced.
fn has_qemus_name(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else { return false };
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    let name = name.strip_prefix('.').and_then(|name| name.strip_suffix("-wrapped")).unwrap_or(name);
    name.starts_with("qemu-system-") || name == "qemu-kvm" || name == "kvm"
}
