//! Whatever happens to its driver, nothing of a lab with libvirt is left behind, and nothing of the machine has changed.

use crate::lab_itself::{assert_gone, remains_of};
use crate::support::one_at_a_time;
use migtrace_lab::{Lab, LibvirtLab};
use std::io::{BufRead as _, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Tells a process of this program that it is the driver, and the name of its lab.
const DRIVER_VARIABLE: &str = "MIGTRACE_LAB_TO_BE_KILLED";

/// Where an installed libvirt has its files.
const FOLDERS: [&str; 7] = [
    "/etc/libvirt",
    "/etc/pki/qemu",
    "/run/libvirt",
    "/var/lib/libvirt",
    "/var/lib/lab",
    "/var/cache/libvirt",
    "/var/log/libvirt",
];

/// What of the machine a lab might change by mistake.
fn machine() -> (String, Vec<bool>, usize) {
    let name = nix::unistd::gethostname().unwrap().into_string().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let of_a_lab = mounts.lines().filter(|line| line.contains("migtrace-lab") || line.contains("lowerdir="));
    (name, FOLDERS.map(|folder| Path::new(folder).exists()).to_vec(), of_a_lab.count())
}

fn start(name: &str) -> LibvirtLab {
    Lab::builder().name(name).memory_mib(160).dirty(16, 10).disk_mib(4).start_with_libvirt().unwrap()
}

/// The process ids of libvirtd on both hosts and of the guest's QEMU.
fn processes(lab: &LibvirtLab) -> Vec<u32> {
    let file = format!("/run/migtrace-lab/{}/src/run/libvirt/qemu/{}.pid", lab.name(), lab.guest().name);
    let qemu = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
    lab.daemons().into_iter().chain([qemu]).collect()
}

fn runs(pid: u32) -> bool {
    // Empty for one that has ended and was not waited for: QEMU's parent is the machine's init.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[test]
fn a_lab_with_libvirt_whose_driver_panics_leaves_nothing() {
    let _lock = one_at_a_time();
    let before = machine();
    let name = format!("libvirt-panic-{}", std::process::id());
    let mut pids = Vec::new();
    let result = catch_unwind(AssertUnwindSafe(|| {
        let lab = start(&name);
        pids = processes(&lab);
        assert!(pids.iter().copied().all(runs), "{pids:?}");
        assert_eq!(machine(), before);
        panic!("as planned");
    }));
    // With fewer the lab has not started, and that was the panic.
    assert!(result.is_err() && pids.len() == 3, "{pids:?}");
    assert_eq!(remains_of(&name), [""; 0]);
    assert!(!pids.iter().copied().any(runs), "{pids:?}");
    assert_eq!(machine(), before);
}

#[test]
fn a_lab_with_libvirt_whose_driver_is_killed_leaves_nothing() {
    if let Ok(name) = std::env::var(DRIVER_VARIABLE) {
        let lab = start(&name);
        let pids = processes(&lab).iter().map(u32::to_string).collect::<Vec<_>>();
        println!("\npids {}", pids.join(" "));
        loop {
            std::thread::park();
        }
    }
    let _lock = one_at_a_time();
    let before = machine();
    let name = format!("libvirt-sigkill-{}", std::process::id());
    let test = "libvirt::removal::a_lab_with_libvirt_whose_driver_is_killed_leaves_nothing";
    let mut driver = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(DRIVER_VARIABLE, &name)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines().map(Result::unwrap);
    let pids = lines.find_map(|line| line.strip_prefix("pids ").map(str::to_owned)).unwrap();
    let pids: Vec<u32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() == 3 && pids.iter().copied().all(runs), "{pids:?}");
    driver.kill().unwrap();
    driver.wait().unwrap();
    // Its janitor needs a moment longer.
    assert_gone(&name, Duration::from_secs(10));
    assert!(!pids.iter().copied().any(runs), "{pids:?}");
    assert_eq!(machine(), before);
}
