//! Other ways between the hosts, and other taps.

use super::{REACHABILITY, VCPUS, bare, list, move_guest, not_measured, shape, shape_watched, shape_with};
use crate::support::{network, number};
use migtrace_lab::record_checks::assert_consistent;
use migtrace_lab::{BarePair, Host, Lab, Migration, Outcome};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;

const FILLED_MIB: usize = 4;

/// Adds a device to both hosts, with an address in 10.78.0.0/24. In `kind`, `HERE` and `OTHER` stand for the ends'
/// addresses. Returns the destination's.
fn add_device(lab: &Lab, name: &str, kind: &[&str]) -> Ipv4Addr {
    for (host, other, number) in [(lab.source(), lab.destination(), 1), (lab.destination(), lab.source(), 2)]
    {
        let addresses = [("HERE", host.ipv4().to_string()), ("OTHER", other.ipv4().to_string())];
        let word = |word: &&str| {
            let address = addresses.iter().find(|(name, _)| name == word);
            address.map_or_else(|| (*word).to_owned(), |(_, address)| address.clone())
        };
        let kind: Vec<String> = kind.iter().map(word).collect();
        let kind: Vec<&str> = kind.iter().map(String::as_str).collect();
        host.tool("ip", &[&["link", "add", "name", name][..], &kind].concat()).unwrap();
        host.tool("ip", &["address", "add", &format!("10.78.0.{number}/24"), "dev", name]).unwrap();
        host.tool("ip", &["link", "set", name, "up"]).unwrap();
    }
    Ipv4Addr::new(10, 78, 0, 2)
}

/// Migrates over this device of both hosts. Returns what the record lists as not measured.
pub(crate) fn over_device(name: &str, device: &str, kind: &[&str]) -> Vec<Value> {
    let lab = network();
    let address = add_device(&lab, device, kind);
    let (from, to) = (lab.source(), lab.destination());
    let migration = Migration { address: Some(address.into()), ..Migration::default() };
    let mut pair = BarePair::start(from, to, &bare(name, FILLED_MIB), &migration).unwrap();
    let shape = shape_watched((to, device), name, from, to, || pair.migrate(&migration).unwrap());
    shape.assert_moved(&["ram"]);
    let flow = &shape.merged.record["traffic"]["flows"][0];
    assert_eq!(flow["interface"], device);
    list(&shape.merged.record["not_measured"]).to_vec()
}

const VXLAN: [&str; 12] =
    ["type", "vxlan", "id", "7", "local", "HERE", "remote", "OTHER", "dstport", "4789", "dev", Host::BRIDGE];
const OUTER_HEADERS: &str = "the outer headers of packets at vx0";

#[test]
fn over_vxlan() {
    let lacking = over_device("vxlan-7.2", "vx0", &VXLAN);
    let entry = lacking.iter().find(|entry| entry["what"] == OUTER_HEADERS).expect("the tunnel's headers");
    let why = entry["why"].as_str().unwrap();
    assert!(why.contains("at least 50 bytes") && why.contains("--decapsulate vxlan"), "{why}");
}

#[test]
fn below_vxlan_the_outer_headers_are_counted() {
    let lab = network();
    let address = add_device(&lab, "vx0", &VXLAN);
    let (from, to) = (lab.source(), lab.destination());
    let migration = Migration { address: Some(address.into()), ..Migration::default() };
    let mut pair = BarePair::start(from, to, &bare("below", FILLED_MIB), &migration).unwrap();
    let options = ["--interface", Host::BRIDGE, "--decapsulate", "vxlan"];
    let watched = (from, Host::UPLINK);
    let shape =
        shape_with(&options, watched, "below-vxlan-7.2", from, to, || pair.migrate(&migration).unwrap());
    let record = &shape.merged.record;
    assert_consistent(record);
    assert!(!not_measured(record).contains(&OUTER_HEADERS), "{record:#}");
    let [flow] = list(&record["traffic"]["flows"]) else { panic!("{:#}", record["traffic"]) };
    assert_eq!(flow["interface"], Host::BRIDGE);
    let counted =
        |name: &str| ["tx", "rx"].map(|way| number(&flow["counters"][way][name])).iter().sum::<u64>();
    // Next to nothing else crosses the uplink, and each segment is a frame of its own there.
    let crossed = shape.capture.all;
    let missing = crossed.bytes.checked_sub(counted("wire_bytes")).expect("not more than there was");
    assert!(missing < 50 * counted("segments") / 4, "{missing} of {crossed:?} are missing: {flow:#}");
}

/// Sends what the source sends to the destination through the observer, which gives it its own address.
fn translate_source(lab: &Lab) {
    let (source, destination, router) = (lab.source(), lab.destination(), lab.observer());
    router
        .enter(|| {
            // It would tell the source to send to its neighbour itself.
            for setting in ["conf/all/send_redirects", "conf/uplink/send_redirects"] {
                fs::write(format!("/proc/sys/net/ipv4/{setting}"), "0").unwrap();
            }
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        })
        .unwrap();
    let rules = "add table ip nat; add chain ip nat out { type nat hook postrouting priority srcnat; }; \
                 add rule ip nat out ip daddr DESTINATION masquerade";
    router.tool("nft", &[&rules.replace("DESTINATION", &destination.ipv4().to_string())]).unwrap();
    let (to, via) = (destination.ipv4().to_string(), router.ipv4().to_string());
    source.tool("ip", &["route", "add", &to, "via", &via, "dev", Host::BRIDGE]).unwrap();
}

#[test]
fn from_behind_translated_addresses() {
    let lab = network();
    translate_source(&lab);
    let (from, to) = (lab.source(), lab.destination());
    let migration = Migration::default();
    let mut pair = BarePair::start(from, to, &bare("translated", FILLED_MIB), &migration).unwrap();
    // Before the address is translated.
    let shape =
        shape_watched((from, Host::UPLINK), "nat-7.2", from, to, || pair.migrate(&migration).unwrap());
    shape.assert_moved(&["ram"]);
    let there = shape.merged.destination.record().unwrap();
    let seen_as = super::address(&there["traffic"]["flows"][0]["remote"]);
    assert_eq!(seen_as.ip(), lab.observer().ipv4());
}

#[test]
fn a_guest_with_three_taps() {
    let mut lab = Lab::builder().memory_mib(128).dirty(4, 4).nics(3).start().unwrap();
    lab.wait_guest_ready().unwrap();
    let shape = move_guest("three-taps-7.2", &mut lab, &Migration::default());
    shape.assert_moved(&["ram"]);
    shape.assert_not_measured(&[VCPUS, REACHABILITY]);
    let downtime = &shape.merged.record["downtime"];
    let taps: BTreeSet<_> = list(&downtime["taps"])
        .iter()
        .map(|tap| (tap["role"].as_str().unwrap(), tap["interface"].as_str().unwrap()))
        .collect();
    // At the source, only the first tap is sure to see a frame before the guest stops: that of its answer to a ping.
    assert!(taps.contains(&("source", "vnet0")), "{downtime:#}");
    for tap in ["vnet0", "vnet1", "vnet2"] {
        assert!(taps.contains(&("destination", tap)), "{downtime:#}");
    }
    let announced: BTreeSet<_> = list(&downtime["announcements"])
        .iter()
        .filter(|announcement| announcement["kind"] == "rarp")
        .map(|announcement| announcement["interface"].as_str().unwrap())
        .collect();
    assert_eq!(announced.len(), 3, "{downtime:#}");
}

#[test]
fn over_a_unix_socket_the_bytes_are_not_visible() {
    let lab = network();
    let (from, to) = (lab.source(), lab.destination());
    let folder = tempfile::tempdir().unwrap();
    let migration =
        Migration { unix_socket: Some(folder.path().join("migration.sock")), ..Migration::default() };
    let mut pair = BarePair::start(from, to, &bare("unix", FILLED_MIB), &migration).unwrap();
    let shape = shape("unix-socket-7.2", from, to, || pair.migrate(&migration).unwrap());
    assert_eq!(shape.merged.migrated.outcome, Outcome::Completed);
    let records =
        [&shape.merged.source, &shape.merged.destination].map(|recorded| recorded.record().unwrap());
    for record in records.iter().chain([&shape.merged.record]) {
        assert_consistent(record);
        assert_eq!(record["migration"]["outcome"], "completed");
        assert!(record["traffic"]["total"].is_null(), "{:#}", record["traffic"]);
        assert!(not_measured(record).contains(&"traffic"), "{record:#}");
        for phase in list(&record["phases"]) {
            assert!(phase["traffic"].is_null(), "{phase:#}");
        }
    }
}
