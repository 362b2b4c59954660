//! When vCPUs stop and run, compared with the stamps of a test that stops and continues them.

use crate::support::{network, vcpu_stops};
use std::path::Path;

#[test]
fn each_stop_of_a_guest_lies_between_the_stamps_of_the_test() {
    if !Path::new("/dev/kvm").exists() {
        eprintln!("skipped: this machine has no /dev/kvm");
        return;
    }
    let lab = network();
    for vcpus in [1, 3] {
        let mut guest = vcpu_stops::start_counting_guest(lab.source(), vcpus);
        vcpu_stops::assert_stops_are_precise(lab.source(), &mut guest, vcpus);
        guest.plug_vcpu().unwrap();
        vcpu_stops::assert_stops_lie_between_stamps(lab.source(), &mut guest, vcpus + 1, 3);
    }
}
