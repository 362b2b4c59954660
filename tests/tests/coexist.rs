//! migtrace is a guest at an interface: who was there before still sees every packet, and is still there afterwards.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

#[allow(dead_code, reason = "each file of tests uses a part of it")]
mod recording;

use aya::programs::{SchedClassifier, tc::TcAttachType};
use migtrace::event::{TcProgram, TcRemoved};
use migtrace::units::Directions;
use migtrace_lab::{Host, Lab, PacketCounter, Verdict, Way, break_tcx_links, migtrace_command, monotonic_ns};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::Signal;
use recording::Recording;
use recording::transfer::{connect, network, transfer};
use std::io::{BufRead as _, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A machine under load is late by no more.
const MARGIN_NS: u64 = 3_000_000_000;
const WAYS: [(Way, &str); 2] = [(Way::Ingress, "ingress"), (Way::Egress, "egress")];

/// How somebody else is attached.
#[derive(Clone, Copy, PartialEq)]
enum Hook {
    Tcx,
    Clsact,
}

/// Somebody else's programs at the source's bridge.
struct Others {
    ingress: PacketCounter,
    egress: PacketCounter,
    _links: Vec<OwnedFd>,
}

impl Others {
    fn attach(host: &Host, hook: Hook, verdict: Verdict) -> Self {
        let [ingress, egress] = [(); 2].map(|()| PacketCounter::load(verdict).unwrap());
        let mut links = Vec::new();
        if hook == Hook::Clsact {
            host.tool("tc", &["qdisc", "add", "dev", Host::BRIDGE, "clsact"]).unwrap();
        }
        for (counter, (way, name)) in [&ingress, &egress].into_iter().zip(WAYS) {
            match hook {
                Hook::Tcx => links.push(counter.attach_tcx(host, Host::BRIDGE, way).unwrap()),
                Hook::Clsact => add_filter(host, name, counter),
            }
        }
        Self { ingress, egress, _links: links }
    }

    fn packets(&self) -> Directions<u64> {
        Directions { tx: self.egress.packets().unwrap(), rx: self.ingress.packets().unwrap() }
    }
}

/// A filter of the first priority, as many networks of containers have it.
fn add_filter(host: &Host, way: &str, counter: &PacketCounter) {
    let directory = tempfile::tempdir().unwrap();
    mount(Some("bpf"), directory.path(), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
    let pin = directory.path().join("other");
    let added = counter.pin(&pin).and_then(|()| {
        let pin = pin.display().to_string();
        let place = ["filter", "add", "dev", Host::BRIDGE, way, "pref", "1", "protocol", "all"];
        host.tool("tc", &[&place[..], &["bpf", "direct-action", "object-pinned", &pin]].concat())
    });
    umount(directory.path()).unwrap();
    added.unwrap();
}

fn filters(host: &Host, way: &str) -> String {
    host.tool("tc", &["filter", "show", "dev", Host::BRIDGE, way]).unwrap()
}

fn qdiscs(host: &Host) -> String {
    host.tool("tc", &["qdisc", "show", "dev", Host::BRIDGE]).unwrap()
}

/// What the bridge itself says of packets.
fn of_bridge(host: &Host) -> Directions<u64> {
    let text = host.tool("ip", &["-j", "-s", "link", "show", "dev", Host::BRIDGE]).unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    let packets = |way: &str| links[0]["stats64"][way]["packets"].as_u64().unwrap();
    Directions { tx: packets("tx"), rx: packets("rx") }
}

/// What the bridge and the others have seen, at an instant at which nothing crossed.
fn witnesses(host: &Host, others: &Others) -> (Directions<u64>, Directions<u64>) {
    for _ in 0..100 {
        let before = of_bridge(host);
        let seen = others.packets();
        if of_bridge(host) == before {
            return (before, seen);
        }
    }
    panic!("packets never cease to cross the bridge");
}

fn difference(now: Directions<u64>, before: Directions<u64>) -> Directions<u64> {
    Directions { tx: now.tx - before.tx, rx: now.rx - before.rx }
}

/// Sends both ways while migtrace counts, and compares it with a tap.
fn transfer_is_counted(lab: &Lab, attach: &str) {
    let recording = Recording::start(lab.source(), &["--attach", attach]);
    transfer_is_counted_by(lab, recording);
}

/// Returns what was said not to be measured.
fn transfer_is_counted_by(lab: &Lab, recording: Recording) -> Vec<String> {
    let transfer = transfer(lab);
    let facts = recording.stop();
    transfer.is_counted_by(&facts);
    facts.not_measured()
}

/// The others see as many packets as the bridge, before, while and after migtrace counts.
fn others_see_every_packet(hook: Hook, verdict: Verdict, attach: &str) {
    let lab = network();
    let source = lab.source();
    let others = Others::attach(source, hook, verdict);
    let (bridge_before, seen_before) = witnesses(source, &others);
    transfer_is_counted(&lab, attach);
    let (bridge, seen) = witnesses(source, &others);
    let crossed = difference(bridge, bridge_before);
    assert!(crossed.tx > 100 && crossed.rx > 20, "{crossed:?}");
    assert_eq!(difference(seen, seen_before), crossed, "left is what the others saw, right the bridge");

    connect(&lab).close().unwrap();
    let (bridge_after, seen_after) = witnesses(source, &others);
    let crossed = difference(bridge_after, bridge);
    assert!(crossed.tx >= 3, "{crossed:?}");
    assert_eq!(difference(seen_after, seen), crossed, "they are still there afterwards");
    for (_, way) in WAYS {
        let filters = filters(source, way);
        assert!(!filters.contains("migtrace"), "{filters}");
        assert_eq!(filters.contains("other"), hook == Hook::Clsact, "{filters}");
    }
    assert_eq!(qdiscs(source).contains("clsact"), hook == Hook::Clsact || attach == "clsact");
}

#[test]
fn a_tcx_program_that_ends_the_walk_still_sees_every_packet_beside_our_tcx() {
    others_see_every_packet(Hook::Tcx, Verdict::Pass, "tcx");
}

#[test]
fn a_tcx_program_still_sees_every_packet_beside_our_filter() {
    others_see_every_packet(Hook::Tcx, Verdict::Next, "clsact");
}

#[test]
fn a_filter_that_ends_the_walk_still_sees_every_packet_beside_our_tcx() {
    others_see_every_packet(Hook::Clsact, Verdict::Pass, "tcx");
}

#[test]
fn a_filter_that_ends_the_walk_still_sees_every_packet_beside_our_filter() {
    others_see_every_packet(Hook::Clsact, Verdict::Pass, "clsact");
}

#[test]
fn filters_of_another_kind_at_the_first_priority_stay_first_and_it_is_told() {
    let lab = network();
    let source = lab.source();
    source.tool("tc", &["qdisc", "add", "dev", Host::BRIDGE, "clsact"]).unwrap();
    for (_, way) in WAYS {
        // It takes UDP only, so that TCP is left to us.
        let place = ["filter", "add", "dev", Host::BRIDGE, way, "pref", "1", "protocol", "ip"];
        let rule = ["u32", "match", "ip", "protocol", "17", "0xff", "flowid", "1:1"];
        source.tool("tc", &[&place[..], &rule[..]].concat()).unwrap();
    }
    let before = WAYS.map(|(_, way)| filters(source, way));
    let recording = Recording::start(source, &["--attach", "clsact"]);
    assert!(filters(source, "egress").contains("pref 2 bpf"), "{}", filters(source, "egress"));
    let told = transfer_is_counted_by(&lab, recording);
    assert!(told.iter().any(|told| told.starts_with("packets that other filters at br0 drop")), "{told:?}");
    assert_eq!(WAYS.map(|(_, way)| filters(source, way)), before);
}

/// The programs of migtrace at the source's bridge, of either kind.
fn ours(host: &Host) -> usize {
    let chains = host.enter(|| {
        let ways = [TcAttachType::Ingress, TcAttachType::Egress];
        let programs = ways.map(|way| SchedClassifier::query_tcx(Host::BRIDGE, way).unwrap().1);
        let names = programs.iter().flatten().map(|program| program.name_as_str().unwrap().to_owned());
        names.filter(|name| name.starts_with("migtrace_")).count()
    });
    let of_qdisc = |way| filters(host, way).lines().filter(|line| line.contains("migtrace_")).count();
    chains.unwrap() + WAYS.iter().map(|(_, way)| of_qdisc(way)).sum::<usize>()
}

/// Two record the same, one ends, and the other goes on as if nothing had been.
fn two_count_the_same(modes: [&str; 2]) {
    let lab = network();
    let source = lab.source();
    let [first, second] = modes.map(|mode| Recording::start(source, &["--attach", mode]));
    assert_eq!(ours(source), 4);
    assert!(clean_up(source).starts_with("nothing to remove"));
    let of_both = transfer(&lab);
    let second = second.stop();
    of_both.is_counted_by(&second);
    assert_eq!(ours(source), 2);

    let of_one = transfer(&lab);
    let third = Recording::start(source, &["--attach", modes[1]]);
    let of_two = transfer(&lab);
    let first = first.stop();
    assert_eq!(ours(source), 2);
    for transfer in [&of_both, &of_one, &of_two] {
        transfer.is_counted_by(&first);
    }
    let third = third.stop();
    of_two.is_counted_by(&third);
    assert_eq!(ours(source), 0);
    for facts in [first, second, third] {
        assert_eq!(facts.removed(), []);
        assert!(
            facts.not_measured().iter().all(|told| !told.contains("somebody")),
            "{:?}",
            facts.not_measured()
        );
    }
}

#[test]
fn two_of_us_count_the_same_by_tcx() {
    two_count_the_same(["tcx", "tcx"]);
}

#[test]
fn two_of_us_count_the_same_by_clsact() {
    two_count_the_same(["clsact", "clsact"]);
}

#[test]
fn two_of_us_count_the_same_each_in_its_way() {
    two_count_the_same(["clsact", "tcx"]);
}

#[test]
fn what_a_killed_one_left_goes_and_what_a_living_one_has_stays() {
    let lab = network();
    let source = lab.source();
    let living = Recording::start(source, &["--attach", "clsact"]);
    kill_a_recording(source, "clsact");
    assert_eq!(ours(source), 4);
    // In a pid namespace of its own it sees no other process, and yet knows which one lives.
    let mut apart = Command::new("unshare");
    apart.args(["--pid", "--fork", "--mount-proc"]).arg(migtrace_command::binary().unwrap()).arg("cleanup");
    let said = migtrace_command::run_command(source, apart).unwrap();
    assert_eq!((said.code, said.stdout.lines().count()), (Some(0), 2), "{said:?}");
    assert!(!said.stdout.contains(&format!("@{}-", living.pid())), "{said:?}");
    assert_eq!(ours(source), 2);
    assert!(clean_up(source).starts_with("nothing to remove"));

    kill_a_recording(source, "clsact");
    let next = Recording::start(source, &["--attach", "clsact"]);
    assert_eq!(ours(source), 4);
    let transfer = transfer(&lab);
    for recording in [living, next] {
        let facts = recording.stop();
        transfer.is_counted_by(&facts);
        assert_eq!(facts.removed(), []);
    }
    assert_eq!(ours(source), 0);
}

#[test]
fn an_echo_filter_of_a_killed_probe_goes_when_another_kind_starts() {
    let lab = network();
    let source = lab.source();
    let arguments = ["probe", &lab.destination().ipv4().to_string(), "--passive", "--attach", "clsact"];
    let mut command = migtrace_command::command(&arguments).unwrap();
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut probe = source.spawn(&mut command).unwrap();
    let mut said = String::new();
    BufReader::new(probe.child().stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.starts_with("ready"), "{said}");
    assert_eq!(ours(source), 2, "{}", filters(source, "ingress"));
    let recording = Recording::start(source, &["--attach", "clsact"]);
    assert_eq!(ours(source), 4);
    probe.signal(Signal::SIGKILL).unwrap();
    drop(probe);
    assert_eq!(ours(source), 4);
    let next = Recording::start(source, &["--attach", "clsact"]);
    assert_eq!(ours(source), 4, "two of each living one");
    assert!(!filters(source, "ingress").contains("migtrace_echo"));
    next.stop();
    recording.stop();
}

/// Somebody comes before us, and it is told once.
fn is_told_who_comes_first(attach: &str, what: &str, come: impl FnOnce(&Host) -> Others) {
    let lab = network();
    let source = lab.source();
    let recording = Recording::start(source, &["--attach", attach]);
    let _others = come(source);
    recording.wait_for(what);
    std::thread::sleep(Duration::from_millis(2500));
    let facts = recording.stop();
    let told = facts.not_measured();
    assert_eq!(told.iter().filter(|told| told.starts_with(what)).count(), 1, "{told:?}");
    assert_eq!(facts.removed(), []);
}

#[test]
fn a_tcx_program_that_comes_before_ours_later_is_told() {
    is_told_who_comes_first("tcx", "packets that other TCX programs at br0 drop or accept", |host| {
        let [ingress, egress] = [(); 2].map(|()| PacketCounter::load(Verdict::Next).unwrap());
        let links = [(&ingress, Way::Ingress), (&egress, Way::Egress)];
        let links = links.map(|(counter, way)| counter.attach_tcx_first(host, Host::BRIDGE, way).unwrap());
        Others { ingress, egress, _links: links.into() }
    });
}

#[test]
fn a_filter_that_comes_before_ours_later_is_told() {
    is_told_who_comes_first("clsact", "packets that other filters at br0 drop or accept", |host| {
        let [ingress, egress] = [(); 2].map(|()| PacketCounter::load(Verdict::Next).unwrap());
        for (counter, (_, way)) in [&ingress, &egress].into_iter().zip(WAYS) {
            add_filter(host, way, counter);
        }
        Others { ingress, egress, _links: Vec::new() }
    });
}

/// Somebody removes what a recording has attached: it is told in time, and counting goes on.
fn removal_is_told(attach: &str, remove: impl Fn(&Host, u32)) {
    let lab = network();
    let source = lab.source();
    let recording = Recording::start(source, &["--attach", attach]);
    let whole = transfer(&lab);
    // It looks about once a second; so it has looked since then.
    std::thread::sleep(Duration::from_millis(1500));
    let before_ns = monotonic_ns();
    remove(source, recording.pid());
    let after_ns = monotonic_ns();
    recording.wait_for("tc_removed");
    let again = transfer(&lab);
    assert_eq!(ours(source), 2);
    let facts = recording.stop();
    for transfer in [whole, again] {
        transfer.is_counted_by(&facts);
    }
    let removed = facts.removed();
    let [(told_ns, TcRemoved { interface, program, last_seen_ns, attached_again_ns: Some(again), .. })] =
        &removed[..]
    else {
        panic!("{removed:?}")
    };
    assert_eq!((interface.as_str(), *program), (Host::BRIDGE, TcProgram::Count));
    assert!(last_seen_ns.0 <= after_ns, "it was not seen after it was gone: {removed:?}");
    assert!(before_ns <= again.0 && again.0 <= *told_ns, "{removed:?}, not before {before_ns}");
    let late_ns = [before_ns.saturating_sub(last_seen_ns.0), told_ns.saturating_sub(after_ns)];
    assert!(late_ns.iter().all(|late| *late < 1_000_000_000 + MARGIN_NS), "{late_ns:?}: {removed:?}");
    assert_eq!(ours(source), 0);
}

#[test]
fn removed_filters_are_told_and_counting_resumes() {
    removal_is_told("clsact", |host, _| {
        host.tool("tc", &["filter", "del", "dev", Host::BRIDGE, "egress"]).unwrap();
    });
}

#[test]
fn a_removed_qdisc_is_told_and_counting_resumes() {
    removal_is_told("clsact", |host, _| {
        host.tool("tc", &["qdisc", "del", "dev", Host::BRIDGE, "clsact"]).unwrap();
    });
}

#[test]
fn broken_tcx_links_are_told_and_counting_resumes() {
    removal_is_told("tcx", |_, pid| assert_eq!(break_tcx_links(pid).unwrap(), 2));
}

#[test]
fn what_is_removed_just_before_the_end_is_told_as_well() {
    let lab = network();
    let recording = Recording::start(lab.source(), &["--attach", "clsact"]);
    lab.source().tool("tc", &["qdisc", "del", "dev", Host::BRIDGE, "clsact"]).unwrap();
    assert_eq!(recording.stop().removed().len(), 1);
}

/// Ends in a way that leaves no time to clean up.
fn kill_a_recording(host: &Host, attach: &str) {
    Recording::start(host, &["--attach", attach]).kill();
}

fn clean_up(host: &Host) -> String {
    let said = migtrace_command::run(host, &["cleanup"]).unwrap();
    assert_eq!(said.code, Some(0), "{said:?}");
    said.stdout
}

#[test]
fn cleanup_removes_the_filters_of_a_killed_run_and_nothing_else() {
    let lab = network();
    let source = lab.source();
    let others = Others::attach(source, Hook::Clsact, Verdict::Pass);
    let before = WAYS.map(|(_, way)| filters(source, way));
    kill_a_recording(source, "clsact");
    for (_, way) in WAYS {
        assert!(filters(source, way).contains(&format!("migtrace_{way}")), "{}", filters(source, way));
    }
    // They do no harm meanwhile.
    connect(&lab).close().unwrap();
    let said = clean_up(source);
    for (_, way) in WAYS {
        assert!(said.contains(&format!("removed the filter migtrace_{way}@")), "{said}");
    }
    assert_eq!(WAYS.map(|(_, way)| filters(source, way)), before);
    assert!(qdiscs(source).contains("clsact"));
    let seen = others.packets().tx;
    source.ping(lab.destination().ipv4(), Duration::from_secs(5)).unwrap();
    assert!(others.packets().tx > seen);
    assert!(clean_up(source).starts_with("nothing to remove"));
}

#[test]
fn the_next_run_takes_away_what_a_killed_one_has_left() {
    let lab = network();
    kill_a_recording(lab.source(), "clsact");
    assert!(filters(lab.source(), "egress").contains("migtrace"));
    transfer_is_counted(&lab, "clsact");
    assert!(!filters(lab.source(), "egress").contains("migtrace"));
}

#[test]
fn a_killed_run_leaves_nothing_where_there_is_tcx() {
    let lab = network();
    kill_a_recording(lab.source(), "tcx");
    assert!(clean_up(lab.source()).starts_with("nothing to remove"));
    assert!(!qdiscs(lab.source()).contains("clsact"));
}
