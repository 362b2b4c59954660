//! Somebody removes the programs of a running recording.

use super::count_ours;
use crate::support::event_log::FlowRecording;
use crate::support::transfer::{network_of_real_frames, transfer};
use migtrace::event::{TcProgram, TcRemoved};
use migtrace_lab::{Host, detach_tcx_links, monotonic_ns};
use std::time::Duration;

/// How late a machine under load may be.
const MARGIN_NS: u64 = 3_000_000_000;

/// Checks that, when somebody removes what a recording attached, this is recorded in time and counting resumes.
fn assert_removal_is_recorded(attach: &str, remove: impl Fn(&Host, u32)) {
    let lab = network_of_real_frames();
    let source = lab.source();
    let recording = FlowRecording::start(source, &["--attach", attach]);
    let before_removal = transfer(&lab);
    // It checks about once a second, so it has checked since the transfer.
    std::thread::sleep(Duration::from_millis(1500));
    let before_ns = monotonic_ns();
    remove(source, recording.pid());
    let after_ns = monotonic_ns();
    recording.wait_for("tc_removed");
    let after_removal = transfer(&lab);
    assert_eq!(count_ours(source), 2);
    let log = recording.stop();
    for transfer in [before_removal, after_removal] {
        transfer.assert_counted_by(&log);
    }
    let removed = log.removed();
    let [
        (
            recorded_ns,
            TcRemoved { interface, program, last_seen_ns, attached_again_ns: Some(restored_ns), .. },
        ),
    ] = &removed[..]
    else {
        panic!("{removed:?}")
    };
    assert_eq!((interface.as_str(), *program), (Host::BRIDGE, TcProgram::Count));
    assert!(last_seen_ns.0 <= after_ns, "it was last seen after it was removed: {removed:?}");
    assert!(
        before_ns <= restored_ns.0 && restored_ns.0 <= *recorded_ns,
        "{removed:?}, not before {before_ns}"
    );
    let late_ns = [before_ns.saturating_sub(last_seen_ns.0), recorded_ns.saturating_sub(after_ns)];
    assert!(late_ns.iter().all(|late| *late < 1_000_000_000 + MARGIN_NS), "{late_ns:?}: {removed:?}");
    assert_eq!(count_ours(source), 0);
}

#[test]
fn removed_filters_are_reported_and_counting_resumes() {
    assert_removal_is_recorded("clsact", |host, _| {
        host.tool("tc", &["filter", "del", "dev", Host::BRIDGE, "egress"]).unwrap();
    });
}

#[test]
fn a_removed_qdisc_is_reported_and_counting_resumes() {
    assert_removal_is_recorded("clsact", |host, _| {
        host.tool("tc", &["qdisc", "del", "dev", Host::BRIDGE, "clsact"]).unwrap();
    });
}

#[test]
fn detached_tcx_links_are_reported_and_counting_resumes() {
    assert_removal_is_recorded("tcx", |_, pid| assert_eq!(detach_tcx_links(pid).unwrap(), 2));
}

#[test]
fn a_removal_just_before_the_end_is_reported() {
    let lab = network_of_real_frames();
    let recording = FlowRecording::start(lab.source(), &["--attach", "clsact"]);
    lab.source().tool("tc", &["qdisc", "del", "dev", Host::BRIDGE, "clsact"]).unwrap();
    assert_eq!(recording.stop().removed().len(), 1);
}
