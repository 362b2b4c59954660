//! What a killed recording or probe leaves at an interface, and what removes it.

use super::{
    DIRECTIONS, Hook, OtherPrograms, assert_transfer_is_counted, clean_up, count_ours, filters,
    kill_a_recording, qdiscs,
};
use crate::support::event_log::FlowRecording;
use crate::support::transfer::{connect, network_of_real_frames, transfer};
use migtrace_lab::{TcVerdict, migtrace_command};
use nix::sys::signal::Signal;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

#[test]
fn cleanup_removes_the_filters_of_a_killed_recording_and_keeps_those_of_a_running_one() {
    let lab = network_of_real_frames();
    let source = lab.source();
    let running = FlowRecording::start(source, &["--attach", "clsact"]);
    kill_a_recording(source, "clsact");
    assert_eq!(count_ours(source), 4);
    // In a pid namespace of its own it sees no other process, but still knows which recording runs.
    let mut apart = Command::new("unshare");
    apart.args(["--pid", "--fork", "--mount-proc"]).arg(migtrace_command::binary().unwrap()).arg("cleanup");
    let output = migtrace_command::run_command(source, apart).unwrap();
    assert_eq!((output.code, output.stdout.lines().count()), (Some(0), 2), "{output:?}");
    assert!(!output.stdout.contains(&format!("@{}-", running.pid())), "{output:?}");
    assert_eq!(count_ours(source), 2);
    assert!(clean_up(source).starts_with("nothing to remove"));

    kill_a_recording(source, "clsact");
    let next = FlowRecording::start(source, &["--attach", "clsact"]);
    assert_eq!(count_ours(source), 4);
    let transfer = transfer(&lab);
    for recording in [running, next] {
        let log = recording.stop();
        transfer.assert_counted_by(&log);
        assert_eq!(log.removed(), []);
    }
    assert_eq!(count_ours(source), 0);
}

#[test]
fn a_recording_removes_the_filters_of_a_killed_probe() {
    let lab = network_of_real_frames();
    let source = lab.source();
    let arguments = ["probe", &lab.destination().ipv4().to_string(), "--passive", "--attach", "clsact"];
    let mut command = migtrace_command::command(&arguments).unwrap();
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut probe = source.spawn(&mut command).unwrap();
    let mut output = String::new();
    BufReader::new(probe.child().stderr.take().unwrap()).read_line(&mut output).unwrap();
    assert!(output.starts_with("ready"), "{output}");
    assert_eq!(count_ours(source), 2, "{}", filters(source, "ingress"));
    let recording = FlowRecording::start(source, &["--attach", "clsact"]);
    assert_eq!(count_ours(source), 4);
    probe.signal(Signal::SIGKILL).unwrap();
    drop(probe);
    assert_eq!(count_ours(source), 4);
    let next = FlowRecording::start(source, &["--attach", "clsact"]);
    assert_eq!(count_ours(source), 4, "two for each running recording");
    assert!(!filters(source, "ingress").contains("migtrace_echo"));
    next.stop();
    recording.stop();
}

#[test]
fn cleanup_removes_the_filters_of_a_killed_recording_and_no_others() {
    let lab = network_of_real_frames();
    let source = lab.source();
    let others = OtherPrograms::attach(source, Hook::Clsact, TcVerdict::Pass);
    let before = DIRECTIONS.map(|(_, direction)| filters(source, direction));
    kill_a_recording(source, "clsact");
    for (_, direction) in DIRECTIONS {
        assert!(
            filters(source, direction).contains(&format!("migtrace_{direction}")),
            "{}",
            filters(source, direction)
        );
    }
    // Until then, they do no harm.
    connect(&lab).close().unwrap();
    let output = clean_up(source);
    for (_, direction) in DIRECTIONS {
        assert!(output.contains(&format!("removed the filter migtrace_{direction}@")), "{output}");
    }
    assert_eq!(DIRECTIONS.map(|(_, direction)| filters(source, direction)), before);
    assert!(qdiscs(source).contains("clsact"));
    let seen = others.packets().tx;
    source.ping(lab.destination().ipv4(), Duration::from_secs(5)).unwrap();
    assert!(others.packets().tx > seen);
    assert!(clean_up(source).starts_with("nothing to remove"));
}

#[test]
fn the_next_recording_removes_the_filters_of_a_killed_one() {
    let lab = network_of_real_frames();
    kill_a_recording(lab.source(), "clsact");
    assert!(filters(lab.source(), "egress").contains("migtrace"));
    assert_transfer_is_counted(&lab, "clsact");
    assert!(!filters(lab.source(), "egress").contains("migtrace"));
}

#[test]
fn a_killed_recording_leaves_nothing_where_there_is_tcx() {
    let lab = network_of_real_frames();
    kill_a_recording(lab.source(), "tcx");
    assert!(clean_up(lab.source()).starts_with("nothing to remove"));
    assert!(!qdiscs(lab.source()).contains("clsact"));
}
