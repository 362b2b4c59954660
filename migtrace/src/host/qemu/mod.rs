//! The QEMU processes of this network namespace, from `/proc` alone: no monitor is opened, no guest is touched.

mod binary;
mod command_line;
mod version;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

pub(crate) use binary::{Binaries, Distrust, Kind, Pretender, shown};
use command_line::CommandLine;
pub(crate) use version::Question;

use crate::event::Qemu;

/// A process' first argument is read as far as this.
const LONGEST_NAME_BYTES: u64 = 4096;

/// What [`find`] has found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// In the order of their process ids.
    pub(crate) qemus: Vec<Qemu>,
    /// Processes that are called as QEMU is, and are not known to be one.
    pub(crate) pretenders: Vec<Pretender>,
}

/// Every QEMU process of the calling thread's network namespace.
///
/// # Errors
/// `/proc` cannot be listed, or a process that is called as QEMU is cannot be examined: then `CAP_SYS_PTRACE` is missing
/// and leaving the process out would hide a VM.
pub(crate) fn find(binaries: &Binaries) -> io::Result<Found> {
    let namespace = fs::read_link("/proc/thread-self/ns/net").map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot read this process's network namespace from /proc: {error}"),
        )
    })?;
    let mut found = Found::default();
    let processes = fs::read_dir("/proc").map_err(|error| {
        io::Error::new(error.kind(), format!("cannot list /proc for QEMU processes: {error}"))
    })?;
    for entry in processes {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match Process(pid).kind_in(&namespace, binaries)? {
            Kind::Qemu => found.qemus.extend(Process(pid).describe()),
            Kind::Pretender(pretender) => found.pretenders.push(pretender),
            Kind::Other => {}
        }
    }
    found.qemus.sort_unstable_by_key(|qemu| qemu.pid);
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
pub(crate) fn read(pid: u32, binaries: &Binaries) -> Option<Qemu> {
    match identify(pid, binaries) {
        Kind::Qemu => Process(pid).describe(),
        Kind::Pretender(_) | Kind::Other => None,
    }
}

/// The question for the version of the binary that `pid` runs; `None` when it has been asked, or is asked now, or is
/// no QEMU that may be run.
#[must_use]
pub(crate) fn unasked_version(pid: u32, binaries: &Binaries) -> Option<Question> {
    let process = Process(pid);
    if process.runs_qemu(binaries) { Question::to(process) } else { None }
}

/// What `pid` is in the calling thread's network namespace. Takes some microseconds; to [`read`] it takes more.
#[must_use]
pub(crate) fn identify(pid: u32, binaries: &Binaries) -> Kind {
    let Ok(namespace) = fs::read_link("/proc/thread-self/ns/net") else { return Kind::Other };
    Process(pid).kind_in(&namespace, binaries).unwrap_or(Kind::Other)
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

    /// What it calls itself: its first argument.
    fn name(self) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        File::open(self.path("cmdline")).ok()?.take(LONGEST_NAME_BYTES).read_to_end(&mut name).ok()?;
        let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        name.truncate(length);
        Some(name)
    }

    /// Its effective user.
    fn uid(self) -> Option<u32> {
        let status = fs::read_to_string(self.path("status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?.parse().ok()
    }

    fn runs_qemu(self, binaries: &Binaries) -> bool {
        self.kind(binaries).is_ok_and(|kind| kind == Kind::Qemu)
    }

    /// [`Kind::Other`] when it is not in `namespace`, too; an error when that cannot be told.
    fn kind_in(self, namespace: &Path, binaries: &Binaries) -> io::Result<Kind> {
        let not_allowed = |error: io::Error| {
            io::Error::new(
                error.kind(),
                format!(
                    "cannot tell whether process {}, which is called as QEMU is, is one of this network namespace: \
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

    /// What it and its command line tell; `None` when it has ended, or runs no VM.
    fn describe(self) -> Option<Qemu> {
        let command = CommandLine::parse(&self.arguments()?)?;
        let open = OpenFiles::of(self);
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
    use std::fs::Permissions;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;
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

    /// Runs a shell, under whatever name, until it has really started (it has spoken).
    pub(super) fn started(shell: &mut Command) -> Running {
        let shell = shell.args(["-c", "echo started; read line"]);
        let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "started\n");
        Running(child)
    }

    /// A folder that only root can write to, as are those on the way to it.
    pub(super) struct Folder(tempfile::TempDir);

    impl Folder {
        /// Says so, and gives none, when the caller is not root.
        pub(super) fn of_root() -> Option<Self> {
            if !nix::unistd::geteuid().is_root() {
                eprintln!("skipped: a folder of root's needs root");
                return None;
            }
            let folder = tempfile::tempdir().unwrap();
            fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
            Some(Self(folder))
        }

        pub(super) fn path(&self) -> &Path {
            self.0.path()
        }

        /// A shell under another name.
        pub(super) fn program(&self, name: &str) -> PathBuf {
            self.copy_of(Path::new("/bin/sh"), name)
        }

        /// A program that pauses.
        pub(super) fn pausing_program(&self, name: &str) -> PathBuf {
            let original = self.path().join("original");
            fs::write(&original, pausing_program()).unwrap();
            fs::set_permissions(&original, Permissions::from_mode(0o755)).unwrap();
            self.copy_of(&original, name)
        }

        /// Copied by another process: what is open for writing cannot be executed, and whatever this process starts
        /// meanwhile has open what this process has.
        fn copy_of(&self, original: &Path, name: &str) -> PathBuf {
            let path = self.path().join(name);
            let status = Command::new("cp").args(["--remove-destination"]).arg(original).arg(&path).status();
            assert!(status.unwrap().success());
            path
        }
    }

    #[test]
    fn the_tap_of_a_descriptor() {
        let fdinfo = "pos:\t0\nflags:\t0104002\nmnt_id:\t22\nino:\t84\niff:\tvnet0\n";
        assert_eq!(interface(fdinfo).as_deref(), Some("vnet0"));
        assert_eq!(interface("pos:\t0\niff:\t\n"), None);
        assert_eq!(interface("pos:\t0\n"), None);
    }

    /// An ELF executable for x86-64 that calls `pause` for ever.
    fn pausing_program() -> Vec<u8> {
        const BASE: u64 = 0x40_0000;
        const HEADERS: u64 = 64 + 56;
        // next: mov eax, 34; syscall; jmp next
        const CODE: [u8; 9] = [0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(16, 0);
        for half in [2_u16, 62] {
            elf.extend(half.to_le_bytes());
        }
        elf.extend(1_u32.to_le_bytes());
        for word in [BASE + HEADERS, 64, 0] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, 1, 0, 0, 0] {
            elf.extend(half.to_le_bytes());
        }
        // One segment to load, readable and executable: the whole file.
        elf.extend([1_u32, 5].map(u32::to_le_bytes).concat());
        let length = HEADERS + CODE.len() as u64;
        for word in [0, BASE, BASE, length, length, 0x1000] {
            elf.extend(word.to_le_bytes());
        }
        elf.extend(CODE);
        elf
    }

    fn none_named() -> Binaries {
        Binaries::default()
    }

    #[test]
    fn a_process_is_described_by_its_command_line() {
        let Some(folder) = Folder::of_root() else { return };
        let mut command = Command::new(folder.program("kvm"));
        command.args(["-c", "echo started; read line"]).args(["-id", "101", "-m", "4096"]);
        command.args(["-name", "web1,debug-threads=on", "-smp", "2,sockets=1,cores=2,maxcpus=2"]);
        let process = started(&mut command);
        let pid = process.0.id();
        let qemu = read(pid, &none_named()).expect("the process");
        assert_eq!(qemu.uid, Some(0));
        assert_eq!(qemu.name.as_deref(), Some("web1"));
        assert_eq!(qemu.memory_bytes, Some(4 << 30));
        assert_eq!(qemu.vcpus, Some(2));
        assert_eq!(qemu.version, None, "nobody has asked it");
        assert!(find(&none_named()).unwrap().qemus.contains(&qemu));
        drop(process);
        assert_eq!(read(pid, &none_named()), None, "it has ended");
    }

    #[test]
    fn a_process_belongs_to_its_effective_user() {
        let Some(folder) = Folder::of_root() else { return };
        let mut command = Command::new("setpriv");
        // With -p the shell keeps the user that it is given.
        command.args(["--euid=65534", "--clear-groups"]).arg(folder.program("kvm")).arg("-p");
        let process = started(&mut command);
        assert_eq!(read(process.0.id(), &none_named()).unwrap().uid, Some(65534));
    }

    #[test]
    fn one_that_only_is_called_as_qemu_is_is_found_as_that() {
        let process = started(Command::new("/bin/sh").arg0("qemu-system-x86_64"));
        let pid = process.0.id();
        assert_eq!(read(pid, &none_named()), None);
        let found = find(&none_named()).unwrap();
        assert!(!found.qemus.iter().any(|qemu| qemu.pid == pid));
        assert!(
            found.pretenders.iter().any(|pretender| pretender.pid == pid && pretender.why == Distrust::Name)
        );
        in_new_netns(|| assert_eq!(find(&none_named()).unwrap().pretenders, []));
    }

    #[test]
    fn a_process_of_another_network_namespace_is_none_of_ours() {
        let Some(folder) = Folder::of_root() else { return };
        let process = started(&mut Command::new(folder.program("kvm")));
        let pid = process.0.id();
        assert!(read(pid, &none_named()).is_some());
        in_new_netns(|| {
            assert_eq!(read(pid, &none_named()), None);
            assert_eq!(find(&none_named()).unwrap().qemus, []);
        });
    }

    #[test]
    fn no_qemu_is_read_as_none() {
        assert_eq!(read(std::process::id(), &none_named()), None);
        assert_eq!(read(u32::MAX, &none_named()), None);
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
            assert_eq!(find(&none_named()).unwrap().qemus[0].version, None, "nobody has asked it");
            unasked_version(process.0.id(), &none_named()).expect("the first sight of it").ask();
            let found = find(&none_named()).unwrap().qemus;
            assert_eq!(found.len(), 1);
            let version = found[0].version.clone().expect("the version of Debian's QEMU");
            assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{version}");
            assert_eq!(
                found[0],
                Qemu {
                    pid: process.0.id(),
                    uid: Some(0),
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
            let usable = File::options().read(true).write(true).open("/dev/kvm").is_ok();
            let expected = if usable { "kvm" } else { "tcg" };
            assert_eq!(find(&none_named()).unwrap().qemus[0].accelerator.as_deref(), Some(expected));
        });
    }
}
