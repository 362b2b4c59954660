use std::collections::BTreeSet;
use std::io::Write as _;

use super::message::EVERY_PROTOCOL;
use super::*;
use crate::host::testing::{in_new_netns, ip};

const INGRESS: Place = Place { interface: 77, way: Way::Ingress };

fn tc(words: &str) {
    let output = std::process::Command::new("tc").args(words.split_whitespace()).output();
    let output = output.expect("iproute2's tc command");
    assert!(output.status.success(), "tc {words}: {}", String::from_utf8_lossy(&output.stderr));
}

fn add_bpf(way: &str, preference: u16) {
    // Without spaces between its instructions; the last one may be followed by a comma.
    let place = format!("filter add dev v0 {way} pref {preference} protocol all bpf bytecode");
    let words = place.split_whitespace().chain(["1,6 0 0 0,", "flowid", "1:1"]);
    let output = std::process::Command::new("tc").args(words).output().expect("iproute2's tc command");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn in_netns_with_clsact(test: impl FnOnce() + Send) {
    in_new_netns(|| {
        ip("link add v0 index 77 type veth peer name v1");
        tc("qdisc add dev v0 clsact");
        test();
    });
}

#[test]
fn bpf_filters_are_found_among_all_kinds_in_the_order_in_which_they_run() {
    in_netns_with_clsact(|| {
        tc("filter add dev v0 ingress pref 3 protocol ip u32 match ip protocol 17 0xff flowid 1:1");
        tc("filter add dev v0 ingress pref 4 protocol ipv6 u32 match ip6 protocol 17 0xff flowid 1:1");
        add_bpf("ingress", 5);
        add_bpf("ingress", 2);
        add_bpf("ingress", 2);
        tc("filter add dev v0 ingress chain 7 pref 1 protocol ip u32 match ip protocol 17 0xff flowid 1:1");
        let mut filters = Filters::open().unwrap();
        let found = filters.list(INGRESS, None).unwrap();
        let places: Vec<_> = found.iter().map(|filter| (filter.preference, filter.handle)).collect();
        assert_eq!(places, [(2, 2), (2, 1), (5, 1)], "the newest filter with a preference runs first");
        assert!(found.iter().all(|filter| filter.protocol == EVERY_PROTOCOL && filter.name.is_empty()));
        assert_eq!(filters.list(INGRESS, Some(5)).unwrap(), found[2..]);
        assert_eq!(filters.list(Place { way: Way::Egress, ..INGRESS }, None).unwrap(), []);

        filters.remove(&found[0]).unwrap();
        filters.remove(&found[0]).unwrap();
        assert_eq!(filters.list(INGRESS, None).unwrap(), found[1..]);
        tc("qdisc del dev v0 clsact");
        assert_eq!(filters.list(INGRESS, None).unwrap(), []);
        filters.remove(&found[1]).unwrap();
        ip("link del v0");
        assert_eq!(filters.list(INGRESS, None).unwrap(), []);
        filters.remove(&found[1]).unwrap();
    });
}

#[test]
fn changes_are_reported_with_their_interface_and_nothing_else_is() {
    in_netns_with_clsact(|| {
        ip("link add w0 index 78 type veth peer name w1");
        let mut news = News::listen().unwrap();
        let touched = |news: &mut News| news.touched().unwrap();
        assert_eq!(touched(&mut news), Touched::Some(BTreeSet::new()));
        ip("link set v0 up");
        ip("link set v0 down");
        assert!(!touched(&mut news).contains(INGRESS.interface), "to go down and up is nothing");
        add_bpf("ingress", 1);
        let found = touched(&mut news);
        assert!(found.contains(77) && !found.contains(78), "{found:?}");
        for change in ["filter del dev v0 ingress", "filter del dev v0 egress", "qdisc del dev v0 clsact"] {
            add_bpf("egress", 1);
            touched(&mut news);
            tc(change);
            assert!(touched(&mut news).contains(77), "{change}");
        }
        assert_eq!(touched(&mut news), Touched::Some(BTreeSet::new()));
    });
}

#[test]
fn after_too_many_changes_any_interface_may_have_changed() {
    in_netns_with_clsact(|| {
        let mut news = News::listen().unwrap();
        let round = "filter add dev v0 ingress pref 1 protocol ip u32 match ip protocol 17 0xff flowid 1:1\n\
                     filter del dev v0 ingress\n";
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(round.repeat(1_000).as_bytes()).unwrap();
        tc(&format!("-batch {}", file.path().display()));
        assert_eq!(news.touched().unwrap(), Touched::Any);
        assert!(Touched::Any.contains(1));
    });
}
