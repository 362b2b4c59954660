//! Which processes are QEMUs: those that run QEMU's executable, whatever they call themselves.
//!
//! Any local user can give a process any name, and what a QEMU says becomes a part of the record. So the executable
//! decides: it is the file that a person named, or it has a QEMU's name and only root can have put it there. The link
//! `/proc/PID/exe` names a file in the mount namespace of the process; nobody but root can make that name lie, unless
//! in a user namespace of their own.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};

use super::Process;
use crate::terminal::clean;

/// How many bytes of its name the kernel keeps of a process (`TASK_COMM_LEN`), with a zero at the end.
const COMM_LENGTH: usize = 16;
/// As much is shown of a path.
const SHOWN_LENGTH: usize = 120;

/// A file: device and inode.
type FileId = (u64, u64);

fn id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// The executables that a person named as QEMU's.
#[derive(Debug, Default)]
pub(crate) struct Binaries {
    named: Vec<Named>,
}

#[derive(Debug)]
struct Named {
    id: FileId,
    comm: [u8; COMM_LENGTH],
    /// As long as it is open, no other file gets its inode.
    _open: File,
}

impl Binaries {
    /// The executables at these paths as they are now, or the first that cannot be one, and why.
    pub(crate) fn named(paths: &[PathBuf]) -> Result<Self, (PathBuf, io::Error)> {
        let named = paths.iter().map(|path| Named::at(path).map_err(|error| (path.clone(), error)));
        Ok(Self { named: named.collect::<Result<_, _>>()? })
    }

    /// What the kernel calls a process that has executed one of them by the name that the person gave.
    pub(crate) fn names(&self) -> impl Iterator<Item = [u8; COMM_LENGTH]> {
        self.named.iter().map(|named| named.comm)
    }

    fn have(&self, process: Process) -> bool {
        // Costs a system call a process, so only where there is something to compare with.
        !self.named.is_empty()
            && fs::metadata(process.path("exe"))
                .is_ok_and(|metadata| self.named.iter().any(|named| named.id == id(&metadata)))
    }
}

impl Named {
    fn at(path: &Path) -> io::Result<Self> {
        let open = File::open(path)?;
        let metadata = open.metadata()?;
        if !metadata.is_file() || metadata.mode() & 0o111 == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no executable file"));
        }
        let mut comm = [0; COMM_LENGTH];
        let name = path.file_name().unwrap_or_default().as_bytes();
        let length = name.len().min(COMM_LENGTH - 1);
        comm[..length].copy_from_slice(&name[..length]);
        Ok(Self { id: id(&metadata), comm, _open: open })
    }
}

/// What a process is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Qemu,
    /// It is called as QEMU is, and is not known to be one.
    Pretender(Pretender),
    Other,
}

/// A process that is called as QEMU is, and is not known to be one.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pretender {
    pub(crate) pid: u32,
    pub(crate) executable: PathBuf,
    pub(crate) why: Distrust,
}

/// Why an executable is not known to be QEMU's.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Distrust {
    /// Only the process' first argument is QEMU's.
    Name,
    /// Somebody else than root can write to the file, or owns it.
    File,
    /// Whoever mounted its file system tells who owns it.
    Fuse,
    /// Somebody else than root can put files into this directory, or it is none, or no more.
    Directory(PathBuf),
    /// Whoever made the process' user namespace can mount any file at any place.
    UserNamespace,
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => f.write_str("which has not the name of a QEMU"),
            Self::File => f.write_str("which others than root own or can write to"),
            Self::Fuse => f.write_str("which lies on a FUSE file system, where its owner can be anybody"),
            Self::Directory(path) => {
                write!(f, "and {} is none of root's alone (any more)", shown(path))
            }
            Self::UserNamespace => {
                f.write_str("in a user namespace of its own, where anybody can mount any file at that place")
            }
        }
    }
}

/// A path as it may be shown.
pub(crate) fn shown(path: &Path) -> String {
    let path = path.to_string_lossy();
    let path = clean(&path);
    if path.chars().count() <= SHOWN_LENGTH {
        return format!("`{path}`");
    }
    format!("`{}...`", path.chars().take(SHOWN_LENGTH).collect::<String>())
}

impl Process {
    /// What it is.
    ///
    /// # Errors
    /// It is called as QEMU is, and may not be examined (`CAP_SYS_PTRACE`).
    pub(super) fn kind(self, binaries: &Binaries) -> io::Result<Kind> {
        let executable = match fs::read_link(self.path("exe")) {
            Ok(executable) => executable,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && self.is_called_qemu() => {
                return Err(error);
            }
            // It has ended, or is the kernel's.
            Err(_) => return Ok(Kind::Other),
        };
        if binaries.have(self) {
            return Ok(Kind::Qemu);
        }
        let why = if has_qemus_name(&executable) {
            match self.distrust(&executable) {
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

    /// Why its executable, which has a QEMU's name, may not be QEMU's.
    fn distrust(self, executable: &Path) -> io::Result<Option<Distrust>> {
        if fs::read_link(self.path("ns/user"))? != fs::read_link("/proc/self/ns/user")? {
            return Ok(Some(Distrust::UserNamespace));
        }
        // Before the file itself, so that a user's file system is not asked for what lies behind a user's directory.
        if let Some(why) = distrust_of_the_way(&self.root()?, executable) {
            return Ok(Some(why));
        }
        if is_on_fuse(&self.path("exe"))? {
            return Ok(Some(Distrust::Fuse));
        }
        let is_trusted = is_roots_alone(&fs::metadata(self.path("exe"))?);
        Ok((!is_trusted).then_some(Distrust::File))
    }

    /// The directory that the name of its executable begins at.
    fn root(self) -> io::Result<PathBuf> {
        // Within this mount namespace it begins at this process' root, also for a process in a `chroot`.
        let is_ours = fs::read_link(self.path("ns/mnt"))? == fs::read_link("/proc/thread-self/ns/mnt")?;
        Ok(if is_ours { PathBuf::from("/") } else { self.path("root") })
    }

    fn is_called_qemu(self) -> bool {
        self.name().is_some_and(|name| has_qemus_name(Path::new(OsStr::from_bytes(&name))))
    }
}

/// Why others than root may have put a file where it is, or another directory on the way to it. The way begins at `root`, and
/// has no symbolic links: the kernel told it.
fn distrust_of_the_way(root: &Path, file: &Path) -> Option<Distrust> {
    let last = file.parent()?;
    let mut directories: Vec<_> = last.ancestors().collect();
    directories.reverse();
    directories.into_iter().find_map(|directory| {
        // The dot follows the link of `/proc/PID/root`.
        let path = root.join(".").join(directory.strip_prefix("/").unwrap_or(directory));
        if is_on_fuse(&path).is_ok_and(|is_fuse| is_fuse) {
            return Some(Distrust::Fuse);
        }
        let is_roots = fs::symlink_metadata(&path).is_ok_and(|metadata| {
            // Where it is sticky, others can add a directory, but not put it into the place of one of root's.
            let is_sticky = metadata.uid() == 0 && metadata.mode() & 0o1000 != 0;
            metadata.is_dir() && (is_roots_alone(&metadata) || (is_sticky && directory != last))
        });
        (!is_roots).then(|| Distrust::Directory(directory.to_owned()))
    })
}

/// Whether root owns a file or a directory, and nobody else can write to it.
pub(super) fn is_roots_alone(metadata: &Metadata) -> bool {
    metadata.uid() == 0 && metadata.mode() & 0o022 == 0
}

/// Whether a user's program may be what tells of a file.
pub(super) fn is_on_fuse(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == FUSE_SUPER_MAGIC)
}

/// Whether a path names QEMU's system emulator: `qemu-system-x86_64`, `qemu-kvm` (Red Hat), `kvm` (Proxmox),
/// `.qemu-system-x86_64-wrapped` (NixOS), and each of them replaced by an upgrade.
fn has_qemus_name(path: &Path) -> bool {
    let Some(name) = path.file_name().and_then(OsStr::to_str) else { return false };
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    let name = name.strip_prefix('.').and_then(|name| name.strip_suffix("-wrapped")).unwrap_or(name);
    name.starts_with("qemu-system-") || name == "qemu-kvm" || name == "kvm"
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
    use std::os::unix::process::CommandExt as _;
    use std::process::Command;

    use nix::mount::{MsFlags, mount, umount};

    use super::super::tests::{Folder, Running, started};
    use super::*;

    const NOBODY: u32 = 65534;

    fn kind(process: &Running) -> Kind {
        Process(process.0.id()).kind(&Binaries::default()).unwrap()
    }

    /// Why a process is not taken for a QEMU.
    fn distrust(process: &Running) -> Distrust {
        match kind(process) {
            Kind::Pretender(Pretender { pid, why, .. }) if pid == process.0.id() => why,
            other => panic!("{other:?}"),
        }
    }

    fn taken_for_qemu(process: &Running) -> bool {
        kind(process) == Kind::Qemu
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
            assert!(has_qemus_name(Path::new(path)), "{path}");
        }
        for path in
            ["/usr/bin/qemu-img", "/usr/bin/qemu-nbd", "/usr/bin/kvm_stat", "/usr/sbin/libvirtd", "/", ""]
        {
            assert!(!has_qemus_name(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn a_name_alone_makes_no_qemu() {
        for name in ["/usr/bin/kvm", "qemu-system-x86_64"] {
            let process = started(Command::new("/bin/sh").arg0(name));
            assert_eq!(distrust(&process), Distrust::Name);
        }
        assert_eq!(kind(&started(Command::new("/bin/sh").arg0("sh"))), Kind::Other);
    }

    #[test]
    fn an_executable_of_roots_in_a_folder_of_roots_is_a_qemus_also_when_it_is_replaced() {
        let Some(folder) = Folder::of_root() else { return };
        let qemu = folder.program("qemu-system-x86_64");
        let process = started(Command::new(&qemu).arg0("a-name-that-says-nothing"));
        assert!(taken_for_qemu(&process));
        fs::remove_file(&qemu).unwrap();
        assert!(taken_for_qemu(&process), "an upgrade");
        let other = started(&mut Command::new(folder.program("qemu-img")));
        assert_eq!(kind(&other), Kind::Other);
    }

    #[test]
    fn an_executable_that_others_own_or_can_write_to_is_none() {
        let Some(folder) = Folder::of_root() else { return };
        let qemu = folder.program("kvm");
        let process = started(&mut Command::new(&qemu));
        for mode in [0o775, 0o757] {
            fs::set_permissions(&qemu, Permissions::from_mode(mode)).unwrap();
            assert_eq!(distrust(&process), Distrust::File, "{mode:o}");
        }
        fs::set_permissions(&qemu, Permissions::from_mode(0o755)).unwrap();
        assert!(taken_for_qemu(&process));
        chown(&qemu, Some(NOBODY), None).unwrap();
        assert_eq!(distrust(&process), Distrust::File);
    }

    #[test]
    fn an_executable_where_others_can_put_files_is_none_whoever_owns_it() {
        let Some(folder) = Folder::of_root() else { return };
        let inner = folder.path().join("bin");
        fs::create_dir(&inner).unwrap();
        // As a user's hard link would be.
        let link = inner.join("qemu-system-x86_64");
        fs::hard_link(folder.program("python"), &link).unwrap();
        let process = started(&mut Command::new(&link));
        assert!(taken_for_qemu(&process));
        for (directory, is_last) in [(&*inner, true), (folder.path(), false)] {
            let doubtful = Distrust::Directory(directory.into());
            chown(directory, Some(NOBODY), None).unwrap();
            assert_eq!(distrust(&process), doubtful);
            chown(directory, Some(0), None).unwrap();
            fs::set_permissions(directory, Permissions::from_mode(0o777)).unwrap();
            assert_eq!(distrust(&process), doubtful);
            fs::set_permissions(directory, Permissions::from_mode(0o1777)).unwrap();
            assert_eq!(taken_for_qemu(&process), !is_last, "as /tmp is, on the way");
            fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
            assert!(taken_for_qemu(&process));
        }
        // A user removes the link and its directory, and shows the way to root's.
        fs::remove_file(&link).unwrap();
        fs::remove_dir(&inner).unwrap();
        assert_eq!(distrust(&process), Distrust::Directory(inner.clone()), "it is gone");
        symlink("/usr/bin", &inner).unwrap();
        assert_eq!(distrust(&process), Distrust::Directory(inner));
    }

    #[test]
    fn a_user_namespace_makes_no_qemu() {
        let Some(folder) = Folder::of_root() else { return };
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user"]).arg(folder.program("kvm"));
        assert_eq!(distrust(&started(&mut command)), Distrust::UserNamespace);
    }

    #[test]
    fn a_mount_namespace_and_a_chroot_make_no_difference() {
        let Some(folder) = Folder::of_root() else { return };
        let qemu = folder.program("kvm");
        let mut command = Command::new("unshare");
        assert!(taken_for_qemu(&started(command.arg("--mount").arg(&qemu))));
        folder.pausing_program("kvm");
        let process = Running(Command::new("chroot").arg(folder.path()).arg("/kvm").spawn().unwrap());
        while !taken_for_qemu(&process) {
            assert_eq!(kind(&process), Kind::Other, "`chroot`, until it is QEMU");
            assert!(Process(process.0.id()).uid().is_some(), "it has ended");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    #[test]
    fn a_file_system_of_a_users_program_is_recognised_without_asking_it() {
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
            eprintln!("skipped: to mount a FUSE file system needs root and /dev/fuse");
            return;
        }
        let folder = Folder::of_root().unwrap();
        // Nobody answers its requests.
        let device = File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!(
            "fd={},rootmode=40000,user_id={NOBODY},group_id={NOBODY},default_permissions",
            device.as_raw_fd()
        );
        mount(Some("fuse"), folder.path(), Some("fuse"), MsFlags::empty(), Some(options.as_str())).unwrap();
        let is_fuse = is_on_fuse(folder.path());
        let why = distrust_of_the_way(Path::new("/"), &folder.path().join("kvm"));
        umount(folder.path()).unwrap();
        assert!(is_fuse.unwrap());
        assert_eq!(why, Some(Distrust::Fuse));
        assert!(!is_on_fuse(folder.path()).unwrap());
    }

    #[test]
    fn a_named_file_is_a_qemu_under_any_name_and_no_other_file_is() {
        let Some(folder) = Folder::of_root() else { return };
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
        let (emulator, link) = (folder.program("my emulator"), folder.path().join("other"));
        fs::hard_link(&emulator, &link).unwrap();
        let binaries = Binaries::named(std::slice::from_ref(&emulator)).unwrap();
        let kind = |process: &Running| Process(process.0.id()).kind(&binaries).unwrap();
        for path in [&emulator, &link] {
            assert_eq!(kind(&started(&mut Command::new(path))), Kind::Qemu);
        }
        assert_eq!(kind(&started(&mut Command::new(folder.program("sh")))), Kind::Other);
        assert_eq!(binaries.names().collect::<Vec<_>>(), [*b"my emulator\0\0\0\0\0"]);
        // Replaced, it is another file, which must not get the number of the first.
        fs::remove_file(&emulator).unwrap();
        fs::remove_file(&link).unwrap();
        assert_eq!(kind(&started(&mut Command::new(folder.program("my emulator")))), Kind::Other);
    }

    #[test]
    fn what_can_be_no_executable_is_named_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text");
        fs::write(&text, "no program").unwrap();
        for (path, why) in [
            (folder.path().join("nothing"), "No such file or directory"),
            (folder.path().to_owned(), "it is no executable file"),
            (text, "it is no executable file"),
        ] {
            let (named, error) = Binaries::named(&["/bin/sh".into(), path.clone()]).unwrap_err();
            assert_eq!(named, path);
            assert!(error.to_string().contains(why), "{error}");
        }
    }

    #[test]
    fn a_path_is_shown_without_what_steers_a_terminal_and_not_at_any_length() {
        assert_eq!(shown(Path::new("/a\u{1b}[2J/kvm")), "`/a\\u{1b}[2J/kvm`");
        let shown = shown(&Path::new("/").join("long".repeat(1_000)));
        assert!(shown.len() < 140 && shown.ends_with("...`"), "{shown}");
    }
}
