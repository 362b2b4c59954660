//! Describes a QEMU by its command line and its open files.

use std::collections::BTreeSet;
use std::fs;

use super::command_line::CommandLine;
use super::process::Process;
use super::version;
use crate::event::Qemu;

impl Process {
    /// What it and its command line say; `None` when it has ended, or runs no VM.
    pub(super) fn describe(self) -> Option<Qemu> {
        let open = OpenFiles::of(self);
        // A process that ends loses its command line first, then its files: what was read before this was still all there.
        let arguments = self.arguments().filter(|arguments| arguments.iter().any(|one| !one.is_empty()))?;
        let command = CommandLine::parse(&arguments)?;
        Some(Qemu {
            pid: self.0,
            uid: self.uid(),
            accelerator: command.accelerator(open.as_ref().map(|open| open.kvm)),
            name: command.name,
            uuid: command.uuid,
            vcpus: command.vcpus,
            memory_bytes: command.memory_bytes,
            version: version::of(self),
            taps: open.map(|open| open.taps.into_iter().collect()).unwrap_or_default(),
            macs: command.macs,
            incoming: command.incoming,
        })
    }
}

/// What a QEMU's open files show.
struct OpenFiles {
    /// It has made a virtual machine of KVM.
    kvm: bool,
    /// The interfaces behind its `/dev/net/tun` descriptors. There is one descriptor a queue, so each name once.
    taps: BTreeSet<String>,
}

impl OpenFiles {
    /// `None` when they may not be listed, or the process has ended.
    fn of(process: Process) -> Option<Self> {
        let mut open = Self { kvm: false, taps: BTreeSet::new() };
        for entry in fs::read_dir(process.path("fd")).ok()? {
            let Ok(entry) = entry else { continue };
            // A file that was closed meanwhile.
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            match target.to_str() {
                Some("anon_inode:kvm-vm") => open.kvm = true,
                Some("/dev/net/tun") => {
                    let info = process.path("fdinfo").join(entry.file_name());
                    open.taps.extend(fs::read_to_string(info).ok().as_deref().and_then(interface));
                }
                _ => {}
            }
        }
        Some(open)
    }
}

/// The interface that a `/dev/net/tun` descriptor is attached to, from its fdinfo.
fn interface(fdinfo: &str) -> Option<String> {
    let name = fdinfo.lines().find_map(|line| line.strip_prefix("iff:"))?.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tap_of_a_descriptor() {
        let fdinfo = "pos:\t0\nflags:\t0104002\nmnt_id:\t22\nino:\t84\niff:\tvnet0\n";
        assert_eq!(interface(fdinfo).as_deref(), Some("vnet0"));
        assert_eq!(interface("pos:\t0\niff:\t\n"), None);
        assert_eq!(interface("pos:\t0\n"), None);
    }
}
