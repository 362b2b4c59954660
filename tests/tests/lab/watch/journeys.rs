//! Guests that come and go, one after the other and several at once.

use super::{directory, merged, merged_directory, replayed, whole_pairs};
use crate::support::merged::assert_stop;
use crate::support::{FAST, MIGRATION_PORT, PATIENCE, network};
use migtrace_lab::watch_command::{Pair, Watch, wait_for_pairs};
use migtrace_lab::{
    Action, BareGuest, BarePair, BareQemu, Capture, Host, Lab, Migrated, Migration, Outcome, QemuProgram,
    Side, Wiretap, shared_lab,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::SocketAddr;

/// The connections of a record, and the payload that a packet socket has counted on each.
fn assert_payload(record: &Value, capture: &Capture) {
    let flows = record["traffic"]["flows"].as_array().unwrap();
    assert_eq!(flows.len(), 1, "{flows:#?}");
    let end = |end: &str| flows[0][end].as_str().unwrap().parse::<SocketAddr>().unwrap();
    let (local, remote) = (end("local"), end("remote"));
    let own = flows[0]["counters"]["tx"]["payload_bytes"].as_u64();
    let both =
        [capture.stream(local, remote), capture.stream(remote, local)].map(|tally| tally.payload_bytes);
    assert_eq!(own, both.into_iter().max(), "{flows:#?}");
}

/// The part of a pair's name that both hosts' have in common.
fn id(pair: &Pair) -> String {
    pair.record["migration"]["id"].as_str().unwrap().to_owned()
}

fn move_guest(lab: &mut Lab) -> (Migrated, Capture) {
    let wiretap = Wiretap::start(lab.other_host(), Host::UPLINK).unwrap();
    // So that its tap sees a frame of it before it stops. Afterwards it announces itself.
    lab.ping_guest().unwrap();
    let migrated = lab.migrate(&Migration::default()).unwrap();
    (migrated, wiretap.stop().unwrap())
}

#[test]
fn a_guest_that_goes_there_and_back_has_a_pair_on_each_host_each_time() {
    let mut lab = shared_lab().unwrap();
    let hosts = [lab.guest_host().clone(), lab.other_host().clone()];
    let folders = [directory(), directory()];
    let watches: Vec<_> = hosts
        .iter()
        .zip(&folders)
        .map(|(host, folder)| Watch::start(host, folder.path(), &[]).unwrap())
        .collect();
    let moves: Vec<_> = (0..3).map(|_| move_guest(&mut lab)).collect();
    let [here, there] = folders.each_ref().map(|folder| whole_pairs(folder.path(), moves.len()));
    for (number, ((migrated, capture), (here, there))) in
        moves.iter().zip(here.iter().zip(&there)).enumerate()
    {
        assert_eq!(id(here), id(there));
        assert!(here.name.contains(&id(here)) && there.name.contains(&id(here)), "{}", here.name);
        let (source, destination) = if number % 2 == 0 { (here, there) } else { (there, here) };
        assert!(source.name.ends_with("-source") && destination.name.ends_with("-destination"));
        for pair in [source, destination] {
            assert_payload(&pair.record, capture);
            assert_eq!(pair.record["migration"]["outcome"], "completed");
            assert!(number_of_gaps(&pair.record) == 0, "nobody pings");
        }
        let record = merged([source, destination]);
        assert_stop(&record, migrated, Side::Destination);
        assert!(!record["downtime"]["network"].is_null(), "{:#}", record["downtime"]);
    }
    for watch in watches {
        let watched = watch.stop(PATIENCE).unwrap();
        assert_eq!((watched.code, watched.lines.len()), (Some(0), 3), "{}", watched.stderr);
        assert!(watched.lines.iter().all(|line| line.contains(": completed in ")), "{:?}", watched.lines);
        assert!(watched.stderr.ends_with("3 migrations (3 completed)\n"), "{}", watched.stderr);
    }
}

fn number_of_gaps(record: &Value) -> usize {
    record["gaps"].as_array().map_or(0, Vec::len)
}

/// So many guests move at once.
const AT_ONCE: u16 = 20;

#[test]
fn of_twenty_migrations_at_once_each_has_its_own_record() {
    let lab = network();
    let (from, to) = (lab.source(), lab.destination());
    let names: Vec<String> = (0..AT_ONCE).map(|number| format!("crowd-{number}")).collect();
    let migrations: Vec<_> = (0..AT_ONCE)
        .map(|number| Migration {
            max_bandwidth_bytes_per_s: 1 << 20,
            ram_port: MIGRATION_PORT + number,
            ..Migration::default()
        })
        .collect();
    let mut pairs: Vec<_> = names
        .iter()
        .zip(&migrations)
        .map(|(name, migration)| {
            let program = QemuProgram::installed().unwrap();
            let guest = BareGuest { name, filled_mib: 4, program, disk: None };
            BarePair::start(from, to, &guest, migration).unwrap()
        })
        .collect();
    let all = directory();
    let folders = ["from", "to"].map(|name| all.path().join(name));
    let mut watches = [from, to]
        .into_iter()
        .zip(&folders)
        .map(|(host, folder)| Watch::start(host, folder, &["--format", "json"]).unwrap());
    let (mut source, destination) = (watches.next().unwrap(), watches.next().unwrap());
    let wiretap = Wiretap::start(to, Host::UPLINK).unwrap();
    let migrated: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = pairs
            .iter_mut()
            .zip(&migrations)
            .map(|(pair, migration)| scope.spawn(|| pair.migrate(migration).unwrap()))
            .collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let count = usize::from(AT_ONCE);
    let [here, there] = folders.each_ref().map(|folder| whole_pairs(folder, count));
    let capture = wiretap.stop().unwrap();
    let fleet = merged_directory(all.path());
    assert_eq!(fleet.len(), count);
    for (name, migrated) in names.iter().zip(&migrated) {
        assert_eq!(migrated.outcome, Outcome::Completed);
        let of = |pairs: &[Pair]| pairs.iter().position(|pair| pair.record["vm"]["name"] == **name).unwrap();
        let (source, destination) = (&here[of(&here)], &there[of(&there)]);
        assert_payload(&source.record, &capture);
        assert_payload(&destination.record, &capture);
        let record = merged([source, destination]);
        assert_stop(&record, migrated, Side::Destination);
        assert!(fleet.contains(&record), "{name}: all logs at once give another record");
        let log = std::fs::read_to_string(&source.log).unwrap();
        let strangers = names.iter().filter(|other| *other != name && log.contains(&format!("\"{other}\"")));
        assert_eq!(strangers.count(), 0, "{name}: a log has nothing of other VMs");
    }
    let lines: BTreeSet<_> = (0..count).map(|_| source.next_line(PATIENCE).unwrap()).collect();
    let ids =
        lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["migration"]["id"].to_string());
    assert_eq!(ids.collect::<BTreeSet<_>>().len(), count);
    for watch in [source, destination] {
        assert_eq!(watch.stop(PATIENCE).unwrap().code, Some(0));
    }
}

#[test]
fn a_migration_that_is_cancelled_and_tried_again_has_two_pairs() {
    let lab = network();
    let folder = directory();
    let watch = Watch::start(lab.source(), folder.path(), &[]).unwrap();
    let slow = Migration { max_bandwidth_bytes_per_s: 4 << 20, ..Migration::default() };
    let program = || QemuProgram::installed().unwrap();
    let guest = BareGuest { name: "again", filled_mib: 16, program: program(), disk: None };
    let mut pair = BarePair::start(lab.source(), lab.destination(), &guest, &slow).unwrap();
    let wiretap = Wiretap::start(lab.source(), Host::UPLINK).unwrap();
    let cancel = |progress: &migtrace_lab::Progress<'_>| {
        if progress.transferred_bytes > 0 { Action::Cancel } else { Action::Continue }
    };
    let first = pair.migrate_with(&slow, cancel).unwrap();
    assert_eq!(first.outcome, Outcome::Cancelled);
    // At once, and before the first has settled.
    let mut destination = BareQemu::incoming(lab.destination(), "again", MIGRATION_PORT + 1).unwrap();
    pair.source.migrate(lab.destination().ipv4(), MIGRATION_PORT + 1, FAST).unwrap();
    destination.wait_for_status("completed", PATIENCE).unwrap();
    let pairs = whole_pairs(folder.path(), 2);
    let capture = wiretap.stop().unwrap();
    let outcomes: Vec<_> = pairs.iter().map(|pair| &pair.record["migration"]["outcome"]).collect();
    assert_eq!(outcomes, ["cancelled", "completed"]);
    for pair in &pairs {
        assert_payload(&pair.record, &capture);
        let phases = pair.record["phases"].as_array().unwrap();
        assert!(phases.iter().all(|phase| !phase["traffic"].is_null()), "{phases:#?}");
    }
    assert_eq!(watch.stop(PATIENCE).unwrap().code, Some(0));
}

#[test]
fn qemus_interfaces_and_ports_that_come_and_go_are_followed_and_leave_nothing() {
    let lab = network();
    let source = lab.source();
    let folder = directory();
    let mut watch = Watch::start(source, folder.path(), &[]).unwrap();
    let before = descriptors(watch.pid());
    for number in 0..5 {
        let link = format!("come{number}");
        source.tool("ip", &["link", "add", &link, "type", "veth", "peer", "name", "other"]).unwrap();
        source.tool("ip", &["address", "add", &format!("10.99.{number}.1/24"), "dev", &link]).unwrap();
        source.tool("ip", &["link", "set", &link, "up"]).unwrap();
        let mut destination = BareQemu::incoming_tiny(lab.destination(), "fleeting", MIGRATION_PORT).unwrap();
        let mut guest = BareQemu::tiny(source, "fleeting").unwrap();
        guest.migrate(lab.destination().ipv4(), MIGRATION_PORT, FAST).unwrap();
        destination.wait_for_status("completed", PATIENCE).unwrap();
        let line = watch.next_line(PATIENCE).unwrap();
        assert!(line.contains("fleeting") && line.contains("completed"), "{line}");
        drop((guest, destination));
        source.tool("ip", &["link", "delete", &link]).unwrap();
    }
    let pairs = whole_pairs(folder.path(), 5);
    for (number, pair) in pairs.iter().enumerate() {
        let log = std::fs::read_to_string(&pair.log).unwrap();
        // The interfaces of earlier migrations are gone, and so is their trace.
        let seen: Vec<_> = (0..5).filter(|other| log.contains(&format!("\"come{other}\""))).collect();
        assert!(seen.iter().all(|other| *other == number), "{number}: {seen:?}");
    }
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(descriptors(watch.pid()), before, "descriptors");
    assert_eq!(watch.stop(PATIENCE).unwrap().code, Some(0));
}

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn a_migration_within_one_host_has_one_record_of_both_ends() {
    let lab = network();
    let folder = directory();
    let watch = Watch::start(lab.source(), folder.path(), &[]).unwrap();
    let unix = directory();
    let migration = Migration { unix_socket: Some(unix.path().join("socket")), ..Migration::default() };
    let program = QemuProgram::installed().unwrap();
    let guest = BareGuest { name: "within", filled_mib: 4, program, disk: None };
    let mut pair = BarePair::start(lab.source(), lab.source(), &guest, &migration).unwrap();
    let migrated = pair.migrate(&migration).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed);
    // Nothing more comes of this migration.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let pairs = wait_for_pairs(folder.path(), 1, PATIENCE).unwrap();
    let record = &pairs[0].record;
    assert_eq!(record["observers"][0]["role"], "source");
    // The log tells it from both ends.
    let ends: Vec<Value> =
        replayed(&pairs[0]).0.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(ends.len() == 2 && ends.contains(record));
    assert_eq!(record["migration"]["outcome"], "completed");
    assert_stop(record, &migrated, Side::Destination);
    assert_eq!(watch.stop(PATIENCE).unwrap().code, Some(0));
}
