use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use super::testing::{Folder, Running, started};
use super::*;
use crate::host::testing::{in_new_netns, ip};

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
fn what_is_left_of_a_process_that_has_ended_describes_nothing() {
    let mut child = Command::new("/bin/true").spawn().unwrap();
    let process = Process(child.id());
    // Its entry stays until somebody waits for it.
    while !fs::read_to_string(process.path("stat")).unwrap().contains(") Z ") {
        std::thread::yield_now();
    }
    assert_eq!(process.arguments().unwrap(), [""]);
    assert_eq!(process.describe(), None);
    child.wait().unwrap();
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
fn a_process_that_only_calls_itself_qemu_is_found_as_a_pretender() {
    let process = started(Command::new("/bin/sh").arg0("qemu-system-x86_64"));
    let pid = process.0.id();
    assert_eq!(read(pid, &none_named()), None);
    let found = find(&none_named()).unwrap();
    assert!(!found.qemus.iter().any(|qemu| qemu.pid == pid));
    assert!(found.pretenders.iter().any(|pretender| pretender.pid == pid && pretender.why == Distrust::Name));
    in_new_netns(|| assert_eq!(find(&none_named()).unwrap().pretenders, []));
}

#[test]
fn a_process_of_another_network_namespace_is_not_found() {
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
fn a_process_that_is_not_a_qemu_is_not_read() {
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
fn a_real_qemu_is_described_with_its_taps_and_version() {
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
