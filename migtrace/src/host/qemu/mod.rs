//! The QEMU processes of this network namespace, from `/proc` alone: no monitor is opened, no guest is touched.

mod command_line;
mod version;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use command_line::CommandLine;
pub(crate) use version::Question;

use crate::event::Qemu;

/// Every QEMU process of the calling thread's network namespace, by process id.
///
/// # Errors
/// `/proc` cannot be listed, or the namespace of a process that looks like a QEMU cannot be read: then
/// `CAP_SYS_PTRACE` is missing and leaving the process out would hide a VM.
pub(crate) fn find() -> io::Result<Vec<Qemu>> {
    let namespace = fs::read_link("/proc/thread-self/ns/net").map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot read this process's network namespace from /proc: {error}"),
        )
    })?;
    let mut found = Vec::new();
    let processes = fs::read_dir("/proc").map_err(|error| {
        io::Error::new(error.kind(), format!("cannot list /proc for QEMU processes: {error}"))
    })?;
    for entry in processes {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        found.extend(Process(pid).read(&namespace)?);
    }
    found.sort_unstable_by_key(|qemu| qemu.pid);
    Ok(found)
}

/// One QEMU process; `None` when `pid` is no QEMU of the calling thread's network namespace, has ended, or may not
/// be read.
///
/// - `taps` are those that the process holds open; `accelerator` is what the process really uses. Both need the
///   right to read its `/proc/PID/fd` (`CAP_SYS_PTRACE` and, for another user's, `CAP_DAC_READ_SEARCH`): without it
///   there are no taps and the accelerator is the command line's first choice.
/// - `version` is what the binary has answered to an [`unasked_version`] question. It is `None` before, and for a binary
///   that an unprivileged user or a container could have placed there: that one must not be run.
#[must_use]
pub(crate) fn read(pid: u32) -> Option<Qemu> {
    let namespace = fs::read_link("/proc/thread-self/ns/net").ok()?;
    Process(pid).read(&namespace).ok()?
}

/// The question for the version of the binary that `pid` runs; `None` when it has been asked, or is asked now, or is
/// no QEMU that may be run.
#[must_use]
pub(crate) fn unasked_version(pid: u32) -> Option<Question> {
    let process = Process(pid);
    if process.runs_qemu() { Question::to(process) } else { None }
}

/// Whether `pid` looks like a QEMU of the calling thread's network namespace, so that [`read`] is worth its time.
#[must_use]
pub(crate) fn looks_like_one(pid: u32) -> bool {
    let Ok(namespace) = fs::read_link("/proc/thread-self/ns/net") else { return false };
    let process = Process(pid);
    let is_here = fs::read_link(process.path("ns/net")).is_ok_and(|theirs| theirs == namespace);
    is_here && process.arguments().is_some_and(|argv| process.runs_qemu() || is_called_qemu(&argv))
}

/// A process by its id. Any of its files may vanish at any moment.
#[derive(Clone, Copy)]
struct Process(u32);

impl Process {
    fn path(self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.0.to_string()).join(name)
    }

    /// Its command line; of one empty argument for a kernel thread, and for a process that has ended but still has
    /// its entry.
    fn arguments(self) -> Option<Vec<String>> {
        let argv = fs::read(self.path("cmdline")).ok()?;
        let arguments = argv.strip_suffix(&[0]).unwrap_or(&argv).split(|&byte| byte == 0);
        Some(arguments.map(|argument| String::from_utf8_lossy(argument).into_owned()).collect())
    }

    fn runs_qemu(self) -> bool {
        fs::read_link(self.path("exe")).is_ok_and(|executable| is_qemu(&executable))
    }

    /// `Ok(None)` when it is no QEMU of `namespace` or has ended; an error when that cannot be told.
    fn read(self, namespace: &Path) -> io::Result<Option<Qemu>> {
        let Some(argv) = self.arguments() else { return Ok(None) };
        let binary = self.runs_qemu();
        if !binary && !is_called_qemu(&argv) {
            return Ok(None);
        }
        match fs::read_link(self.path("ns/net")) {
            Ok(theirs) if theirs == namespace => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(io::Error::new(
                    error.kind(),
                    format!(
                        "cannot tell whether QEMU process {} is in this network namespace: {error}; \
                         run as root, or with CAP_SYS_PTRACE",
                        self.0
                    ),
                ));
            }
            Ok(_) | Err(_) => return Ok(None),
        }
        let Some(command) = CommandLine::parse(&argv) else { return Ok(None) };
        let open = OpenFiles::of(self);
        Ok(Some(Qemu {
            pid: self.0,
            accelerator: command.accelerator(open.as_ref().map(|open| open.kvm)),
            name: command.name,
            uuid: command.uuid,
            vcpus: command.vcpus,
            memory_bytes: command.memory_bytes,
            version: if binary { version::of(self) } else { None },
            taps: open.map(|open| open.taps.into_iter().collect()).unwrap_or_default(),
            macs: command.macs,
            incoming: command.incoming,
        }))
    }
}

/// Whether the command's name is QEMU's. It counts beside the binary's: that may be installed under any name behind a
/// link that QEMU-like names it, and to read the link to it needs a permission that the command line does not.
fn is_called_qemu(argv: &[String]) -> bool {
    argv.first().is_some_and(|command| is_qemu(Path::new(command)))
}

/// Whether a path names QEMU's system emulator: `qemu-system-x86_64`, `qemu-kvm` (Red Hat), `kvm` (Proxmox),
/// `.qemu-system-x86_64-wrapped` (NixOS), and each of them replaced by an upgrade.
fn is_qemu(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return false };
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    let name = name.strip_prefix('.').and_then(|name| name.strip_suffix("-wrapped")).unwrap_or(name);
    name.starts_with("qemu-system-") || name == "qemu-kvm" || name == "kvm"
}

/// What a QEMU's open files tell.
struct OpenFiles {
    /// It has made a virtual machine of KVM.
    kvm: bool,
    /// The interfaces behind its `/dev/net/tun` descriptors: one a queue, so each name once.
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
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::host::testing::{in_new_netns, ip};

    /// A child that is ended with its test, also when that fails.
    pub(super) struct Running(pub(super) Child);

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A shell that calls itself `argv0`, has the given arguments, and has really started (it has spoken).
    fn pretend(argv0: &str, arguments: &[&str]) -> Running {
        let mut child = Command::new("/bin/sh")
            .arg0(argv0)
            .args(["-c", "echo started; read line"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "started\n");
        Running(child)
    }

    #[test]
    fn names_of_the_system_emulator() {
        for path in [
            "/usr/bin/qemu-system-x86_64",
            "/usr/bin/qemu-system-aarch64 (deleted)",
            "/usr/libexec/qemu-kvm",
            "/usr/bin/kvm",
            "/nix/store/x-qemu/bin/.qemu-system-x86_64-wrapped",
            "qemu-system-x86_64",
        ] {
            assert!(is_qemu(Path::new(path)), "{path}");
        }
        for path in
            ["/usr/bin/qemu-img", "/usr/bin/qemu-nbd", "/usr/bin/kvm_stat", "/usr/sbin/libvirtd", "/", ""]
        {
            assert!(!is_qemu(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn the_tap_of_a_descriptor() {
        let fdinfo = "pos:\t0\nflags:\t0104002\nmnt_id:\t22\nino:\t84\niff:\tvnet0\n";
        assert_eq!(interface(fdinfo).as_deref(), Some("vnet0"));
        assert_eq!(interface("pos:\t0\niff:\t\n"), None);
        assert_eq!(interface("pos:\t0\n"), None);
    }

    #[test]
    fn a_process_is_found_by_the_name_it_calls_itself() {
        let process = pretend(
            "/usr/bin/kvm",
            &[
                "-id",
                "101",
                "-name",
                "web1,debug-threads=on",
                "-m",
                "4096",
                "-smp",
                "2,sockets=1,cores=2,maxcpus=2",
            ],
        );
        let pid = process.0.id();
        let qemu = read(pid).expect("the process");
        assert_eq!(qemu.name.as_deref(), Some("web1"));
        assert_eq!(qemu.memory_bytes, Some(4 << 30));
        assert_eq!(qemu.vcpus, Some(2));
        assert_eq!(qemu.version, None, "its executable is a shell, which must not be asked");
        match find() {
            Ok(found) => assert!(found.contains(&qemu)),
            // As an ordinary user, beside QEMUs of other users.
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
                assert!(!nix::unistd::geteuid().is_root(), "{error}");
            }
        }
        drop(process);
        assert_eq!(read(pid), None, "it has ended");
    }

    #[test]
    fn a_process_of_another_network_namespace_is_none_of_ours() {
        let process = pretend("qemu-system-x86_64", &["-name", "elsewhere"]);
        let pid = process.0.id();
        assert!(read(pid).is_some());
        in_new_netns(|| {
            assert_eq!(read(pid), None);
            assert_eq!(find().unwrap(), []);
        });
    }

    #[test]
    fn no_qemu_is_read_as_none() {
        assert_eq!(read(std::process::id()), None);
        assert_eq!(read(u32::MAX), None);
    }

    /// Starts Debian's QEMU without a guest: it waits for a continue that never comes.
    fn real(arguments: &[&str]) -> Option<Running> {
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-nodefaults", "-display", "none", "-S", "-qmp", "stdio"]);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: no qemu-system-x86_64: {error}");
                return None;
            }
        };
        // It greets once everything is set up.
        let mut greeting = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
        assert!(greeting.contains("QMP"), "{greeting}");
        child.stdin.as_mut().unwrap().flush().unwrap();
        Some(Running(child))
    }

    #[test]
    fn a_real_qemu_with_its_taps_and_version() {
        in_new_netns(|| {
            ip("tuntap add vnet7 mode tap");
            let uuid = "5f3c1f0e-8a51-4a0f-9d6c-0c2b6f1f2d11";
            let netdev = |id: &str, name: &str| format!("tap,id={id},ifname={name},script=no,downscript=no");
            let Some(process) = real(&[
                "-accel",
                "tcg",
                "-name",
                "guest=db,,1,debug-threads=on",
                "-uuid",
                uuid,
                "-m",
                "size=65536k",
                "-smp",
                "sockets=2,cores=1,threads=1",
                "-netdev",
                &netdev("n0", "vnet7"),
                "-netdev",
                &netdev("n1", "vnet3"),
                "-device",
                "virtio-net-pci,netdev=n0,mac=52:54:00:77:00:07,romfile=",
                "-incoming",
                "defer",
            ]) else {
                return;
            };
            assert_eq!(find().unwrap()[0].version, None, "nobody has asked it");
            unasked_version(process.0.id()).expect("the first sight of it").ask();
            let found = find().unwrap();
            assert_eq!(found.len(), 1);
            let version = found[0].version.clone().expect("the version of Debian's QEMU");
            assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{version}");
            assert_eq!(
                found[0],
                Qemu {
                    pid: process.0.id(),
                    name: Some("db,1".into()),
                    uuid: Some(uuid.into()),
                    vcpus: Some(2),
                    memory_bytes: Some(64 << 20),
                    accelerator: Some("tcg".into()),
                    version: Some(version),
                    taps: vec!["vnet3".into(), "vnet7".into()],
                    macs: vec!["52:54:00:77:00:07".into()],
                    incoming: true,
                }
            );
        });
    }

    #[test]
    fn the_accelerator_in_use_is_seen_behind_a_list_of_choices() {
        in_new_netns(|| {
            let Some(_process) = real(&["-machine", "pc,accel=kvm:tcg", "-m", "16"]) else { return };
            // QEMU itself falls back when it cannot open the device.
            let usable = fs::File::options().read(true).write(true).open("/dev/kvm").is_ok();
            let expected = if usable { "kvm" } else { "tcg" };
            assert_eq!(find().unwrap()[0].accelerator.as_deref(), Some(expected));
        });
    }
}
