//! Filters of the clsact qdisc at an interface in a namespace of the test. `tc` shows them independently.

use std::os::fd::AsFd as _;

use super::filter_owner::Owner;
use super::*;
use crate::host::filters::Filters;
use crate::host::testing::{block_on, in_new_netns, ip};
use crate::kernel::testing::soon;
use crate::kernel::{Kernel, Settings};

const INDEX: u32 = 77;
const OTHER: &str = "1,6 0 0 4294967295,";

/// Runs `test` in a namespace with an interface `v0` of index [`INDEX`]; not without root.
fn with_interface(test: impl FnOnce() + Send) {
    in_new_netns(|| {
        ip("link add v0 index 77 type veth peer name v1");
        ip("link set v0 up");
        block_on(async { test() });
    });
}

/// Programs that are attached to nothing.
fn detached() -> Kernel {
    Kernel::load_detached(&Settings::default().attach(AttachChoice::Clsact)).unwrap()
}

fn counting() -> Kernel {
    let mut kernel = detached();
    kernel.attach("v0", INDEX, false, 0).unwrap();
    kernel
}

fn tc(words: &[&str]) -> String {
    let output = std::process::Command::new("tc").args(words).output().expect("iproute2's tc");
    assert!(output.status.success(), "tc {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The filters as `tc` shows them, one a line.
fn shown(way: &str) -> Vec<String> {
    let shown = tc(&["filter", "show", "dev", "v0", way]);
    shown.lines().filter(|line| line.contains("handle")).map(str::to_owned).collect()
}

fn ours(way: &str) -> usize {
    shown(way).iter().filter(|line| line.contains("migtrace_")).count()
}

/// Adds a filter of the classic kind, which has no name.
fn add_other(way: &str, preference: &str) {
    let place = ["filter", "add", "dev", "v0", way, "pref", preference, "protocol", "all"];
    tc(&[&place[..], &["bpf", "bytecode", OTHER, "flowid", "1:1"]].concat());
}

fn news(kernel: &mut Kernel) -> Vec<ChangeNews> {
    kernel.look_after_attachments().unwrap().into_iter().map(|change| change.news).collect()
}

fn clean_up() -> Vec<Leftover> {
    cleanup([(INDEX, "v0")]).unwrap()
}

#[test]
fn two_tracers_have_filters_of_their_own_and_each_removes_only_its_own() {
    with_interface(|| {
        let first = counting();
        let second = counting();
        assert_eq!([ours("ingress"), ours("egress")], [2, 2], "{:?}", shown("ingress"));
        assert_eq!(clean_up(), []);
        let own = format!("migtrace_ingress@{}-", std::process::id());
        assert!(shown("ingress").iter().all(|line| line.contains(&own) && line.contains("direct-action")));
        drop(first);
        assert_eq!([ours("ingress"), ours("egress")], [1, 1]);
        drop(second);
        assert_eq!([ours("ingress"), ours("egress")], [0, 0]);
    });
}

#[test]
fn the_next_start_removes_the_filters_of_killed_runs_and_no_others() {
    with_interface(|| {
        tc(&["qdisc", "add", "dev", "v0", "clsact"]);
        add_other("ingress", "1");
        let of_udp = ["u32", "match", "ip", "protocol", "17", "0xff", "flowid", "1:1"];
        let place = ["filter", "add", "dev", "v0", "ingress", "pref", "9", "protocol", "ip"];
        tc(&[&place[..], &of_udp[..]].concat());
        let others = shown("ingress");
        let living = Owner::new().unwrap();
        let mut bare = detached();
        let place = Place { interface: INDEX, way: Way::Ingress };
        let mut filters = Filters::open().unwrap();
        let program = programs::tc_mut(&mut bare.ebpf, INGRESS).unwrap();
        let mut add = |preference, name: &str| {
            filters.add(place, preference, name, program.fd().unwrap().as_fd()).unwrap();
        };
        let kept = [
            living.filter("migtrace_ingress").to_string(),
            living.filter("migtrace_echo_egress").to_string(),
            "migtrace_of_somebody".to_owned(),
            "somebodys_migtrace_ingress".to_owned(),
        ];
        kept.iter().for_each(|name| add(1, name));
        let left = ["ingress", "egress", "guest", "echo_ingress", "echo_egress"]
            .map(|program| [format!("migtrace_{program}"), format!("migtrace_{program}@1-0123456789abcdef")]);
        left.iter().flatten().for_each(|name| add(2, name));
        let before = shown("ingress").len();
        assert_eq!(before, others.len() + 4 + 10);

        let next = counting();
        let after = shown("ingress");
        assert_eq!(after.len(), others.len() + 4 + 1, "{after:#?}");
        assert!(kept.iter().all(|name| after.iter().any(|line| line.contains(name.as_str()))), "{after:#?}");
        assert!(others.iter().all(|line| after.contains(line)), "{after:#?}");
        drop(next);

        left.iter().flatten().for_each(|name| {
            let program = programs::tc_mut(&mut bare.ebpf, INGRESS).unwrap();
            filters.add(place, 2, name, program.fd().unwrap().as_fd()).unwrap();
        });
        let mut removed: Vec<_> = clean_up().into_iter().map(|leftover| leftover.filter).collect();
        removed.sort();
        let mut expected: Vec<_> = left.iter().flatten().cloned().collect();
        expected.sort();
        assert_eq!(removed, expected);
        assert_eq!(clean_up(), []);
        drop(living);
        let mut removed = 0;
        let are_gone = || {
            removed += clean_up().len();
            removed == 2
        };
        assert!(soon(are_gone));
    });
}

/// Removes filters with `tc`. The next check must notice that and attach them again.
fn assert_noticed(kernel: &mut Kernel, remove: &[&str]) {
    assert_eq!(news(kernel), []);
    let before = clock::now().unwrap();
    assert_eq!(news(kernel), [], "all of them were there");
    let looked = clock::now().unwrap();
    tc(remove);
    let removed = clock::now().unwrap();
    let found = news(kernel);
    let [ChangeNews::Removed { last_seen_ns, again: Ok(again) }] = found[..] else {
        panic!("{remove:?}: {found:?}")
    };
    assert!(before <= last_seen_ns && last_seen_ns <= looked, "{found:?}");
    assert!(removed <= again && again <= clock::now().unwrap(), "{found:?}");
    assert_eq!([ours("ingress"), ours("egress")], [1, 1], "{remove:?}");
    assert_eq!(news(kernel), []);
}

#[test]
fn a_removed_filter_and_a_removed_qdisc_are_noticed_and_attached_again() {
    with_interface(|| {
        let mut kernel = counting();
        assert_noticed(&mut kernel, &["filter", "del", "dev", "v0", "ingress"]);
        assert_noticed(&mut kernel, &["filter", "del", "dev", "v0", "egress", "pref", "1"]);
        assert_noticed(&mut kernel, &["qdisc", "del", "dev", "v0", "clsact"]);
        // The name changes, the index does not.
        ip("link set v0 down");
        ip("link set v0 name w0");
        ip("link set w0 up");
        assert_eq!(news(&mut kernel), []);
        tc(&["qdisc", "del", "dev", "w0", "clsact"]);
        assert!(matches!(news(&mut kernel)[..], [ChangeNews::Removed { again: Ok(_), .. }]));
        ip("link del w0");
        assert_eq!(news(&mut kernel), [], "a vanished interface is reported elsewhere");
    });
}

/// What a single check finds: it is not followed by another.
fn check_once(kernel: &mut Kernel) -> Vec<ChangeNews> {
    let mut all: Vec<_> = kernel.interfaces.values_mut().collect();
    let changes = kernel.attacher.check_once(&mut kernel.ebpf, &mut all).unwrap();
    changes.into_iter().map(|change| change.news).collect()
}

#[test]
fn filters_that_are_removed_one_after_the_other_were_last_seen_together_before_the_first_removal() {
    with_interface(|| {
        let mut kernel = counting();
        assert_eq!(check_once(&mut kernel), []);
        let looked = clock::now().unwrap();
        tc(&["filter", "del", "dev", "v0", "ingress"]);
        let first = check_once(&mut kernel);
        tc(&["filter", "del", "dev", "v0", "egress"]);
        let second = check_once(&mut kernel);
        let [[first], [second]] = [&first[..], &second[..]] else { panic!("{first:?}, {second:?}") };
        let [(first_seen, first_again), (second_seen, second_again)] =
            [first, second].map(|news| match news {
                ChangeNews::Removed { last_seen_ns, again: Ok(again) } => (last_seen_ns, again),
                other => panic!("{other:?}"),
            });
        assert!(first_seen == second_seen && *first_seen <= looked, "{first:?}, {second:?}");
        assert!(first_again < second_again, "{first:?}, {second:?}");
        assert_eq!([ours("ingress"), ours("egress")], [1, 1]);
    });
}

#[test]
fn a_failure_to_attach_again_is_reported_once_and_tried_again_until_it_works() {
    with_interface(|| {
        let mut kernel = counting();
        tc(&["qdisc", "del", "dev", "v0", "clsact"]);
        tc(&["qdisc", "add", "dev", "v0", "ingress"]);
        let found = news(&mut kernel);
        let [ChangeNews::Removed { last_seen_ns: first, again: Err(why) }] = &found[..] else {
            panic!("{found:?}")
        };
        assert!(why.contains("tc qdisc show dev v0"), "{why}");
        assert_eq!(ours("ingress"), 1, "an `ingress` qdisc would put the egress filter at ingress, too");
        assert_eq!(news(&mut kernel), []);
        tc(&["qdisc", "del", "dev", "v0", "ingress"]);
        let found = news(&mut kernel);
        let [ChangeNews::Removed { last_seen_ns, again: Ok(_) }] = &found[..] else { panic!("{found:?}") };
        assert_eq!(last_seen_ns, first);
        assert_eq!([ours("ingress"), ours("egress")], [1, 1]);
    });
}

#[test]
fn somebody_elses_filter_before_ours_is_reported_once_and_another_migtraces_never() {
    with_interface(|| {
        let mut kernel = counting();
        assert_eq!(news(&mut kernel), []);
        let _another = counting();
        add_other("ingress", "2");
        assert_eq!(news(&mut kernel), []);
        add_other("egress", "1");
        assert_eq!(news(&mut kernel), [ChangeNews::Behind]);
        add_other("ingress", "1");
        assert_eq!(news(&mut kernel), []);
    });
}

#[test]
fn a_removed_program_at_a_tap_is_attached_again_too() {
    with_interface(|| {
        let mut kernel = detached();
        assert!(kernel.attach_tap(1, "v0", INDEX).unwrap());
        assert_eq!([ours("ingress"), ours("egress")], [1, 0]);
        assert_eq!(news(&mut kernel), []);
        tc(&["filter", "del", "dev", "v0", "ingress"]);
        let changes = kernel.look_after_attachments().unwrap();
        assert!(
            matches!(
                &changes[..],
                [Change {
                    interface: INDEX,
                    what: TcProgram::Guest,
                    news: ChangeNews::Removed { again: Ok(_), .. },
                    ..
                }]
            ),
            "{changes:?}"
        );
        assert_eq!([ours("ingress"), ours("egress")], [1, 0]);
        kernel.detach_tap(1, INDEX).unwrap();
        assert_eq!([ours("ingress"), ours("egress")], [0, 0]);
    });
}
