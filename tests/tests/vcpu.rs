//! When vCPUs stop and run, against the stamps of who stops and continues them.

mod pauses;

use migtrace_lab::Lab;
use std::path::Path;

#[test]
fn each_stop_of_a_guest_lies_between_the_stamps_of_its_driver() {
    if !Path::new("/dev/kvm").exists() {
        eprintln!("skipped: this machine has no /dev/kvm");
        return;
    }
    let lab = Lab::builder().without_guests().start().unwrap();
    for vcpus in [1, 3] {
        let mut guest = pauses::guest(lab.source(), vcpus);
        pauses::check_precision(lab.source(), &mut guest, vcpus);
        guest.plug_vcpu().unwrap();
        pauses::check(lab.source(), &mut guest, vcpus + 1, 3);
    }
}
