//! The guest's disk is copied, or both hosts reach it.

use super::{BareGuest, bare, move_guest, shape};
use crate::support::network;
use migtrace_lab::{BarePair, Lab, Migration, NbdDisk};

/// Where the disk is served. It is not one of the ports of migrations.
const NBD_PORT: u16 = 10809;

#[test]
fn a_disk_is_copied_by_nbd() {
    let mut lab = Lab::builder().memory_mib(128).dirty(4, 4).disk_mib(8).start().unwrap();
    lab.wait_guest_ready().unwrap();
    let shape = move_guest("disk-copy-7.2", &mut lab, &Migration::like_libvirt());
    shape.assert_moved(&["nbd", "ram"]);
}

#[test]
fn a_disk_that_both_hosts_reach_is_no_part_of_the_migration() {
    let lab = network();
    let disk = NbdDisk::serve(lab.observer(), NBD_PORT).unwrap();
    let (from, to) = (lab.source(), lab.destination());
    let guest = BareGuest { disk: Some(&disk), ..bare("shared-storage", 4) };
    let migration = Migration::default();
    let mut pair = BarePair::start(from, to, &guest, &migration).unwrap();
    let shape = shape("shared-storage-7.2", from, to, || pair.migrate(&migration).unwrap());
    shape.assert_moved(&["ram"]);
}
