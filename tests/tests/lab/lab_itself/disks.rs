//! The guest's disk: how much of it holds data, and whether a migration copies it.

use super::{Received, start_with_guest};
use crate::support::{MIB, number, one_at_a_time};
use migtrace_lab::{Lab, Migrated, Migration, Outcome, Side};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The distinct 64 KiB clusters of the first `mib` MiB of a file.
fn clusters(path: &Path, mib: u64) -> HashSet<Vec<u8>> {
    let bytes = fs::read(path).unwrap();
    bytes[..usize::try_from(mib * MIB).unwrap()].chunks(1 << 16).map(<[u8]>::to_vec).collect()
}

/// Where the lab keeps the data of its disks.
fn data_file() -> PathBuf {
    let cache = std::env::var_os("MIGTRACE_LAB_CACHE")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab"), PathBuf::from);
    cache.join("disk-data/data.raw")
}

/// Checks that a copied image has the first `mib` MiB of the data, and nothing else of its size.
fn assert_copied(image: &Path, mib: u64) {
    let size = fs::metadata(image).unwrap().len();
    // Headers and tables take less than a MiB.
    assert!((mib * MIB..(mib + 1) * MIB).contains(&size), "{size} bytes for {mib} MiB of data");
    let wanted = clusters(&data_file(), mib);
    assert_eq!(wanted.len() as u64, mib * 16, "the data repeats itself");
    let missing = wanted.difference(&clusters(image, size / MIB)).count();
    // The file's last cluster may be cut off here.
    assert!(missing <= 16, "{missing} clusters are missing");
}

/// What a full segment carries.
const SEGMENT: u64 = 1500 - 20 - 32;

/// Migrates. Returns how many bytes crossed beyond the memory: device states, the disk, and its protocol. What a busy receiver
/// drops has been received once already, and comes again.
fn migrate(lab: &mut Lab) -> (Migrated, u64) {
    let [from, target] = [lab.guest_host(), lab.other_host()].map(Clone::clone);
    let (before, resent_before) = (Received::by(&target), from.retransmitted_segments().unwrap());
    let migrated = lab.migrate(&Migration::like_libvirt()).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed, "{}", migrated.source);
    lab.ping_guest().unwrap();
    let payload = Received::by(&target).payload_since(&before);
    let memory = number(&migrated.source["ram"]["transferred"]);
    let resent = (from.retransmitted_segments().unwrap() - resent_before) * SEGMENT;
    (migrated, payload - memory - resent)
}

/// The files that a process has open.
fn open_files(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    entries.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok()).collect()
}

#[test]
fn a_disk_is_copied_before_the_memory() {
    let _lock = one_at_a_time();
    let mut lab = start_with_guest(Lab::builder().disk_mib(32));
    let (migrated, _) = migrate(&mut lab);
    let job = migrated.event(Side::Source, "BLOCK_JOB_COMPLETED").unwrap();
    assert_eq!(job.data["offset"], 32 << 20);
    assert_eq!(job.data["len"], 32 << 20);
    let ready = migrated.event(Side::Source, "BLOCK_JOB_READY").unwrap();
    assert!(migrated.started_ns < ready.received_ns && ready.received_ns < migrated.migrate_ns);
    let directory = Path::new("/run/migtrace-lab").join(lab.name());
    assert_copied(&directory.join("dst/disk.qcow2"), 32);
    // The new QEMU can migrate the copied disk in turn.
    migrate(&mut lab);
    assert_copied(&directory.join("src/disk.qcow2"), 32);
}

#[test]
fn of_a_disk_that_is_hardly_used_only_the_data_crosses_the_network() {
    let _lock = one_at_a_time();
    let mut lab = start_with_guest(Lab::builder().dirty(16, 4).disk_mib(1024).disk_data_mib(24));
    for host in ["dst", "src"] {
        let (_, bytes) = migrate(&mut lab);
        assert!((24 * MIB..25 * MIB).contains(&bytes), "{bytes} bytes to {host}");
        let directory = Path::new("/run/migtrace-lab").join(lab.name());
        assert_copied(&directory.join(host).join("disk.qcow2"), 24);
    }
}

#[test]
fn nothing_is_copied_of_a_disk_that_both_hosts_reach() {
    let _lock = one_at_a_time();
    let mut lab = start_with_guest(Lab::builder().dirty(16, 4).disk_mib(64).shared_storage());
    let image = Path::new("/run/migtrace-lab").join(lab.name()).join("shared/disk.qcow2");
    assert!(open_files(lab.qemu().unwrap().pid()).contains(&image));
    for host in ["dst", "src"] {
        let (migrated, bytes) = migrate(&mut lab);
        assert!(bytes < MIB / 2, "{bytes} bytes to {host}");
        assert!(migrated.event(Side::Source, "BLOCK_JOB_READY").is_none());
        let files = open_files(lab.qemu().unwrap().pid());
        assert!(files.contains(&image), "{files:?}");
    }
}
