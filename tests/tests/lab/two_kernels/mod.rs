//! A migration between two kernels: this machine's, and that of a virtual machine. Each has clocks of its own, which began at
//! another time, run at another rate, and show another wall time. What they really showed is known by asking the virtual
//! machine all the time ([`truth`]).

mod journey;
mod truth;

use crate::support::network;
use journey::{Journey, PACKETS, READINGS, Trip};
use migtrace_lab::vm::VmHost;
use migtrace_lab::{BareQemu, Side};
use serde_json::Value;

const GUEST: &str = "wanderer";
/// Nobody could take it for this machine's.
const WALL_CLOCK: &str = "2031-05-06 07:08:09";
/// By how many millionths a clock is slewed: as fast as NTP does, and faster.
const SLEW_PPM: i64 = 500;
const FAST_SLEW_PPM: i64 = 5_000;

/// Checks the record of both logs, and those of what aligns the clocks: packets alone, readings alone.
fn assert_aligned(journey: &Journey) {
    journey.assert_true_with(PACKETS, &|_| true);
    journey.assert_true_with(PACKETS, &|event| event["event"] != "peer_clock");
    journey.assert_true_with(READINGS, &|event| event["event"] != "milestones");
}

fn has_fast_slew(events: &[Value]) -> bool {
    events.iter().any(|event| event["event"] == "clock_slew")
}

#[test]
fn clocks_of_two_kernels_are_aligned_whatever_they_show_and_however_fast_they_run() {
    let lab = network();
    let vm = VmHost::boot(&lab).unwrap();
    vm.run(&format!("date -s '{WALL_CLOCK}' >/dev/null")).unwrap();
    let mut there = vm.start_qemu(GUEST).unwrap();
    let mut here = BareQemu::start(lab.source(), GUEST).unwrap();

    let trip = Trip { lab: &lab, vm: &vm, vm_side: Side::Destination };
    let journey = trip.make(here.qmp(), &mut there, [SLEW_PPM, -SLEW_PPM]);
    journey.keep("two-kernels-7.2");
    assert!(!journey.logs.iter().any(|events| has_fast_slew(events)));
    assert_aligned(&journey);

    drop(here);
    let mut here = BareQemu::waiting(lab.source(), GUEST).unwrap();
    let back = Trip { vm_side: Side::Source, ..trip };
    let journey = back.make(&mut there, here.qmp(), [-SLEW_PPM, FAST_SLEW_PPM]);
    journey.keep("two-kernels-fast-slew-7.2");
    assert_eq!(journey.logs.each_ref().map(|events| has_fast_slew(events)), [true, false]);
    assert_aligned(&journey);
}
