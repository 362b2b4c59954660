//! When vCPUs stop and run, against the stamps of who stops and continues them.

mod pauses;

use lab::Lab;
use std::path::Path;
use std::time::Duration;

/// Half a bound: the error of a figure in its middle.
const MEDIAN_ERROR: Duration = Duration::from_millis(1);

#[test]
fn each_stop_of_a_guest_lies_between_the_stamps_of_its_driver() {
    if !Path::new("/dev/kvm").exists() {
        eprintln!("skipped: this machine has no /dev/kvm");
        return;
    }
    let lab = Lab::builder().without_guests().start().unwrap();
    for vcpus in [1, 3] {
        let mut guest = pauses::guest(lab.source(), vcpus);
        let stops = pauses::trace(lab.source(), &mut guest, 30);
        let width = pauses::check(&stops);
        eprintln!("{vcpus} vCPUs: the median bound of a stop is {width:?} wide");
        assert!(width / 2 < MEDIAN_ERROR, "{width:?}");
        assert!(stops.iter().all(|(_, seen)| seen.vcpus == vcpus), "{stops:?}");

        guest.plug_vcpu().unwrap();
        let stops = pauses::trace(lab.source(), &mut guest, 3);
        pauses::check(&stops);
        assert!(stops.iter().all(|(_, seen)| seen.vcpus == vcpus + 1), "{stops:?}");
    }
}
