use std::fs::{File, Permissions};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::mount::{MsFlags, mount, umount};

use super::super::testing::{Folder, Running, started};
use super::super::trust::{distrust_of_directories, is_on_fuse, shown};
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
fn the_system_emulator_is_known_by_its_names() {
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
    for path in ["/usr/bin/qemu-img", "/usr/bin/qemu-nbd", "/usr/bin/kvm_stat", "/usr/sbin/libvirtd", "/", ""]
    {
        assert!(!has_qemus_name(Path::new(path)), "{path}");
    }
}

#[test]
fn a_name_alone_does_not_make_a_process_a_qemu() {
    for name in ["/usr/bin/kvm", "qemu-system-x86_64"] {
        let process = started(Command::new("/bin/sh").arg0(name));
        assert_eq!(distrust(&process), Distrust::Name);
    }
    assert_eq!(kind(&started(Command::new("/bin/sh").arg0("sh"))), Kind::Other);
}

#[test]
fn roots_executable_in_roots_folder_is_a_qemu_even_after_an_upgrade_has_replaced_it() {
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
fn an_executable_that_others_own_or_can_write_to_is_not_trusted() {
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
fn an_executable_in_a_folder_that_others_can_write_to_is_not_trusted_whoever_owns_it() {
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
fn a_process_in_another_user_namespace_is_not_trusted() {
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
    loop {
        let kind = kind(&process);
        if kind == Kind::Qemu {
            break;
        }
        assert_eq!(kind, Kind::Other, "`chroot`, until it is QEMU");
        assert!(Process(process.0.id()).uid().is_some(), "it has ended");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn a_fuse_file_system_is_recognised_without_asking_its_program() {
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
    let why = distrust_of_directories(Path::new("/"), &folder.path().join("kvm"));
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
fn a_named_file_that_cannot_be_an_executable_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    fs::write(&text, "no program").unwrap();
    for (path, why) in [
        (folder.path().join("nothing"), "No such file or directory"),
        (folder.path().to_owned(), "it is not an executable file"),
        (text, "it is not an executable file"),
    ] {
        let (named, error) = Binaries::named(&["/bin/sh".into(), path.clone()]).unwrap_err();
        assert_eq!(named, path);
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn a_long_path_is_shortened_and_its_control_characters_are_escaped() {
    assert_eq!(shown(Path::new("/a\u{1b}[2J/kvm")), "`/a\\u{1b}[2J/kvm`");
    let shown = shown(&Path::new("/").join("long".repeat(1_000)));
    assert!(shown.len() < 140 && shown.ends_with("...`"), "{shown}");
}
