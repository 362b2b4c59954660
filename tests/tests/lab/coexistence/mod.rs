//! migtrace shares interfaces: other programs still see every packet and stay attached, and so do other recordings.

mod killed_recordings;
mod other_programs;
mod removal;
mod several_recordings;

use crate::support::event_log::FlowRecording;
use crate::support::transfer::transfer;
use aya::programs::{SchedClassifier, tc::TcAttachType};
use migtrace::units::Directions;
use migtrace_lab::{Host, Lab, PacketCounter, PacketDirection, TcVerdict, migtrace_command};
use nix::mount::{MsFlags, mount, umount};
use std::os::fd::OwnedFd;

const DIRECTIONS: [(PacketDirection, &str); 2] =
    [(PacketDirection::Ingress, "ingress"), (PacketDirection::Egress, "egress")];

fn filters(host: &Host, direction: &str) -> String {
    host.tool("tc", &["filter", "show", "dev", Host::BRIDGE, direction]).unwrap()
}

fn qdiscs(host: &Host) -> String {
    host.tool("tc", &["qdisc", "show", "dev", Host::BRIDGE]).unwrap()
}

/// How many programs of migtrace are attached to a host's bridge, by TCX or as filters.
fn count_ours(host: &Host) -> usize {
    let chains = host.enter(|| {
        let directions = [TcAttachType::Ingress, TcAttachType::Egress];
        let programs =
            directions.map(|direction| SchedClassifier::query_tcx(Host::BRIDGE, direction).unwrap().1);
        let names = programs.iter().flatten().map(|program| program.name_as_str().unwrap().to_owned());
        names.filter(|name| name.starts_with("migtrace_")).count()
    });
    let of_qdisc =
        |direction| filters(host, direction).lines().filter(|line| line.contains("migtrace_")).count();
    chains.unwrap() + DIRECTIONS.iter().map(|(_, direction)| of_qdisc(direction)).sum::<usize>()
}

/// Sends both directions during a recording, and compares its counts with a packet socket's.
fn assert_transfer_is_counted(lab: &Lab, attach: &str) {
    let recording = FlowRecording::start(lab.source(), &["--attach", attach]);
    assert_transfer_is_counted_by(lab, recording);
}

/// As [`assert_transfer_is_counted`] with this recording. Returns what it reported as not measured.
fn assert_transfer_is_counted_by(lab: &Lab, recording: FlowRecording) -> Vec<String> {
    let transfer = transfer(lab);
    let log = recording.stop();
    transfer.assert_counted_by(&log);
    log.not_measured()
}

/// Starts a recording and kills it, so that it cannot clean up.
fn kill_a_recording(host: &Host, attach: &str) {
    FlowRecording::start(host, &["--attach", attach]).kill();
}

fn clean_up(host: &Host) -> String {
    let output = migtrace_command::run(host, &["cleanup"]).unwrap();
    assert_eq!(output.code, Some(0), "{output:?}");
    output.stdout
}

/// How another program is attached.
#[derive(Clone, Copy, PartialEq)]
enum Hook {
    Tcx,
    Clsact,
}

/// Another owner's programs at the source's bridge.
struct OtherPrograms {
    ingress: PacketCounter,
    egress: PacketCounter,
    _links: Vec<OwnedFd>,
}

impl OtherPrograms {
    fn attach(host: &Host, hook: Hook, verdict: TcVerdict) -> Self {
        let [ingress, egress] = [(); 2].map(|()| PacketCounter::load(verdict).unwrap());
        let mut links = Vec::new();
        if hook == Hook::Clsact {
            host.tool("tc", &["qdisc", "add", "dev", Host::BRIDGE, "clsact"]).unwrap();
        }
        for (counter, (direction, name)) in [&ingress, &egress].into_iter().zip(DIRECTIONS) {
            match hook {
                Hook::Tcx => links.push(counter.attach_tcx(host, Host::BRIDGE, direction).unwrap()),
                Hook::Clsact => add_filter(host, name, counter),
            }
        }
        Self { ingress, egress, _links: links }
    }

    fn packets(&self) -> Directions<u64> {
        Directions { tx: self.egress.packets().unwrap(), rx: self.ingress.packets().unwrap() }
    }
}

/// Adds a filter with the first preference, as many container networks do.
fn add_filter(host: &Host, direction: &str, counter: &PacketCounter) {
    let directory = tempfile::tempdir().unwrap();
    mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
    let pin = directory.path().join("other");
    let added = counter.pin(&pin).and_then(|()| {
        let pin = pin.display().to_string();
        let place = ["filter", "add", "dev", Host::BRIDGE, direction, "pref", "1", "protocol", "all"];
        host.tool("tc", &[&place[..], &["bpf", "direct-action", "object-pinned", &pin]].concat())
    });
    umount(directory.path()).unwrap();
    added.unwrap();
}
