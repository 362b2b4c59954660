//! A watch that sleeps between migrations.

use super::{directory, whole_pairs};
use crate::support::merged::{assert_stop, merge};
use crate::support::{MIGRATION_PORT, PATIENCE, network};
use migtrace_lab::watch_command::{Pair, Watch};
use migtrace_lab::{
    Capture, Host, Migration, Side, Wiretap, descriptors, links, map_entries, shared_lab, wait_for_tcx_links,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A watch that sleeps after so long.
fn sleepy(host: &Host, folder: &tempfile::TempDir, after: &str) -> Watch {
    Watch::start(host, folder.path(), &["--sleep-after", after]).unwrap()
}

fn wait_until_asleep(watch: &Watch) {
    wait_for_tcx_links(watch.pid(), 0, PATIENCE).unwrap();
    // The rest is detached after that.
    std::thread::sleep(Duration::from_millis(300));
}

/// Waits until exactly these are attached.
fn wait_for_links(watch: &Watch, wanted: &BTreeMap<String, usize>) {
    let started = Instant::now();
    loop {
        let attached = links(watch.pid()).unwrap();
        if attached == *wanted {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{attached:?}, and not {wanted:?}");
        // Often, so that the tracer has done little more when this returns.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What was attached before a watch has fallen asleep.
fn links_until_asleep(watch: &Watch) -> BTreeMap<String, usize> {
    let mut awake = BTreeMap::new();
    while !is_asleep(watch) {
        let attached = links(watch.pid()).unwrap();
        if attached.values().sum::<usize>() > awake.values().sum() {
            awake = attached;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    awake
}

fn is_asleep(watch: &Watch) -> bool {
    !links(watch.pid()).unwrap().contains_key("tcx")
}

/// Checks that a record has every byte of its connection.
fn assert_every_byte(pair: &Pair, capture: &Capture) {
    let flows = pair.record["traffic"]["flows"].as_array().unwrap();
    assert_eq!(flows.len(), 1, "{flows:#?}");
    let end = |end: &str| flows[0][end].as_str().unwrap().parse::<SocketAddr>().unwrap();
    let (local, remote) = (end("local"), end("remote"));
    let is_source = pair.record["observers"][0]["role"] == "source";
    let (from, to) = if is_source { (local, remote) } else { (remote, local) };
    for (way, tally) in [("tx", capture.stream(from, to)), ("rx", capture.stream(to, from))] {
        let counted = &flows[0]["counters"][way]["payload_bytes"];
        assert_eq!(counted.as_u64(), Some(tally.payload_bytes), "{way} of {}: {:#}", pair.name, flows[0]);
    }
    assert_eq!(flows[0]["from_start"], true, "{:#}", pair.record["not_measured"]);
}

#[test]
fn a_watch_that_sleeps_between_migrations_records_each_from_its_first_packet() {
    let mut lab = shared_lab().unwrap();
    let hosts = [lab.guest_host().clone(), lab.other_host().clone()];
    let folders = [directory(), directory()];
    // A destination that has just been started is awake when it is connected to.
    let watches = [sleepy(&hosts[0], &folders[0], "3s"), sleepy(&hosts[1], &folders[1], "3s")];
    let mut moves = Vec::new();
    for _ in 0..2 {
        watches.iter().for_each(wait_until_asleep);
        let wiretap = Wiretap::start(lab.other_host(), Host::UPLINK).unwrap();
        lab.ping_guest().unwrap();
        assert!(watches.iter().all(is_asleep), "a guest that sends does not wake them up");
        let migrated = lab.migrate(&Migration::default()).unwrap();
        moves.push((migrated, wiretap.stop().unwrap()));
    }
    let pairs = folders.each_ref().map(|folder| whole_pairs(folder.path(), moves.len()));
    for (number, (migrated, capture)) in moves.iter().enumerate() {
        let both = [&pairs[0][number], &pairs[1][number]];
        for pair in both {
            assert_every_byte(pair, capture);
            assert_eq!(pair.record["migration"]["outcome"], "completed");
            let purpose = &pair.record["traffic"]["flows"][0]["purpose"];
            let log = || std::fs::read_to_string(&pair.log).unwrap();
            assert_eq!(purpose, "ram", "{}: {}", pair.name, log());
        }
        let record: Value = serde_json::from_str(&merge(&[&both[0].log, &both[1].log]).unwrap()).unwrap();
        assert_stop(&record, migrated, Side::Destination);
    }
}

/// A busy host may have no time for the tracer while a connection lasts.
#[test]
fn a_watch_that_is_held_up_once_it_counts_still_aligns_the_clocks() {
    let mut lab = shared_lab().unwrap();
    let hosts = [lab.guest_host().clone(), lab.other_host().clone()];
    let folders = [directory(), directory()];
    let [source, destination] = [0, 1].map(|at| sleepy(&hosts[at], &folders[at], "1s"));
    let awake = links_until_asleep(&source);
    wait_until_asleep(&destination);
    lab.ping_guest().unwrap();
    let held_up = std::thread::spawn(move || {
        wait_for_links(&source, &awake);
        source.signal(Signal::SIGSTOP).unwrap();
        source
    });
    let slow = Migration { max_bandwidth_bytes_per_s: 64 << 20, ..Migration::default() };
    let migrated = lab.migrate(&slow).unwrap();
    let source = held_up.join().unwrap();
    source.signal(Signal::SIGCONT).unwrap();
    let [here, there] = folders.each_ref().map(|folder| whole_pairs(folder.path(), 1).remove(0));
    let record: Value = serde_json::from_str(&merge(&[&here.log, &there.log]).unwrap()).unwrap();
    assert_stop(&record, &migrated, Side::Destination);
}

#[test]
fn a_sleep_leaves_nothing_behind_and_a_refused_connection_does_not_end_it() {
    let lab = network();
    let folders = [directory(), directory()];
    let [here, there] =
        [sleepy(lab.source(), &folders[0], "100ms"), sleepy(lab.destination(), &folders[1], "100ms")];
    let awake = links(there.pid()).unwrap();
    [&here, &there].into_iter().for_each(wait_until_asleep);
    let asleep = links(there.pid()).unwrap();
    assert!(asleep.values().sum::<usize>() < awake.values().sum(), "{awake:?} {asleep:?}");
    let open = descriptors(there.pid()).unwrap();

    let address = SocketAddr::new(lab.destination().ipv4().into(), MIGRATION_PORT);
    lab.source().enter(|| TcpStream::connect(address)).unwrap().unwrap_err();
    wait_for_tcx_links(here.pid(), 2, PATIENCE).unwrap();
    assert!(is_asleep(&there), "only a SYN has come");

    wait_until_asleep(&there);
    // It is going to be migrated to, perhaps.
    let listener = lab.destination().enter(|| TcpListener::bind(address)).unwrap().unwrap();
    wait_for_links(&there, &awake);
    drop(listener);
    wait_for_links(&there, &asleep);
    assert_eq!(descriptors(there.pid()).unwrap(), open);
    assert_eq!(map_entries(there.pid()).unwrap().get("OPENED"), Some(&0));
    for watch in [here, there] {
        let watched = watch.stop(PATIENCE).unwrap();
        assert_eq!(watched.code, Some(0), "{}", watched.stderr);
    }
}
