//! Several recordings at the same interface.

use super::{clean_up, count_ours};
use crate::support::event_log::FlowRecording;
use crate::support::transfer::{network_of_real_frames, transfer};

/// Two recordings count the same transfer. One ends, another starts, and the first still counts everything.
fn assert_recordings_count_side_by_side(modes: [&str; 2]) {
    let lab = network_of_real_frames();
    let source = lab.source();
    let [first, second] = modes.map(|mode| FlowRecording::start(source, &["--attach", mode]));
    assert_eq!(count_ours(source), 4);
    assert!(clean_up(source).starts_with("nothing to remove"));
    let seen_by_both = transfer(&lab);
    let second = second.stop();
    seen_by_both.assert_counted_by(&second);
    assert_eq!(count_ours(source), 2);

    let seen_by_one = transfer(&lab);
    let third = FlowRecording::start(source, &["--attach", modes[1]]);
    let seen_by_first_and_third = transfer(&lab);
    let first = first.stop();
    assert_eq!(count_ours(source), 2);
    for transfer in [&seen_by_both, &seen_by_one, &seen_by_first_and_third] {
        transfer.assert_counted_by(&first);
    }
    let third = third.stop();
    seen_by_first_and_third.assert_counted_by(&third);
    assert_eq!(count_ours(source), 0);
    for log in [first, second, third] {
        assert_eq!(log.removed(), []);
        assert!(
            log.not_measured().iter().all(|report| !report.contains("somebody")),
            "{:?}",
            log.not_measured()
        );
    }
}

#[test]
fn two_recordings_count_the_same_by_tcx() {
    assert_recordings_count_side_by_side(["tcx", "tcx"]);
}

#[test]
fn two_recordings_count_the_same_by_clsact() {
    assert_recordings_count_side_by_side(["clsact", "clsact"]);
}

#[test]
fn a_recording_by_clsact_and_one_by_tcx_count_the_same() {
    assert_recordings_count_side_by_side(["clsact", "tcx"]);
}
