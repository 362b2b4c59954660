//! The lab does what the other tests build on: guests arrive, and nothing is left behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics, and its backtrace says where")]

use migtrace_lab::{Action, Host, Lab, Migration, Outcome, Progress, Qmp, Side};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Two emulated guests at a time are enough for any machine.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lab with a guest that has booted and answers ping over both protocols.
fn ready(builder: migtrace_lab::Builder) -> Lab {
    let mut lab = builder.start().unwrap();
    lab.wait_guest_ready().unwrap();
    lab
}

/// Migrates, and proves that the guest is at the other host, alive, and still answers.
fn migrate(lab: &mut Lab, migration: &Migration) -> migtrace_lab::Migrated {
    let goal = lab.other_host().role();
    let migrated = lab.migrate(migration).unwrap();
    assert_eq!(migrated.outcome, Outcome::Completed, "{}", migrated.source);
    assert_eq!(lab.guest_host().role(), goal);
    lab.ping_guest().unwrap();
    let console = lab.qemu().unwrap().console();
    assert!(!console.contains("panic"), "{console}");
    migrated
}

/// Processes (of anybody) whose command line has this text.
fn processes_with(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let own = entry.file_name().to_str() == Some(&std::process::id().to_string());
        if line.contains(text) && !own {
            found.push(line);
        }
    }
    found
}

/// What is left of a lab: namespaces, processes, files.
fn left_of(name: &str) -> Vec<String> {
    let mut left = migtrace_lab::netns::list(&format!("migtrace-{name}-")).unwrap();
    left.extend(processes_with(&format!("/run/migtrace-lab/{name}")));
    let directory = format!("/run/migtrace-lab/{name}");
    left.extend(Path::new(&directory).exists().then_some(directory));
    left
}

fn assert_gone(name: &str, patience: Duration) {
    let started = Instant::now();
    while !left_of(name).is_empty() {
        assert!(started.elapsed() < patience, "left of {name}: {:#?}", left_of(name));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_guest_moves_to_the_other_host_and_back_again() {
    let _lock = one_at_a_time();
    let mut lab = ready(Lab::builder());
    let there = migrate(&mut lab, &Migration::default());
    assert_eq!(lab.guest_host().role(), "dst");
    assert_eq!(there.states(Side::Source), ["setup", "active", "completed"]);
    assert_eq!(there.states(Side::Destination), ["setup", "active", "completed"]);
    assert!(there.passes() >= 2);
    assert!(there.source["ram"]["transferred"].as_u64().unwrap() > 64 << 20, "{}", there.source);
    assert!(there.started_ns < there.event(Side::Source, "STOP").unwrap().received_ns);
    assert!(there.stop_to_resume_ns().unwrap() < 10_000_000_000);

    let back = migrate(&mut lab, &Migration::like_libvirt());
    assert_eq!(lab.guest_host().role(), "src");
    assert_eq!(back.states(Side::Source), ["setup", "active", "pre-switchover", "device", "completed"]);

    let name = lab.name().to_owned();
    drop(lab);
    assert_eq!(left_of(&name), [""; 0]);
}

#[test]
fn memory_survives_many_migrations_under_load() {
    let _lock = one_at_a_time();
    let mut lab = ready(Lab::builder().vcpus(2).dirty(96, 60));
    for _ in 0..4 {
        migrate(&mut lab, &Migration::default());
    }
}

#[test]
fn a_migration_takes_several_channels_over_ipv6() {
    let _lock = one_at_a_time();
    let mut lab = ready(Lab::builder());
    let migration = Migration { multifd: Some(3), ipv6: true, ..Migration::default() };
    let migrated = migrate(&mut lab, &migration);
    assert!(migrated.source["ram"]["multifd-bytes"].as_u64().unwrap() > 64 << 20, "{}", migrated.source);
}

#[test]
fn a_guest_goes_ahead_of_its_memory() {
    let _lock = one_at_a_time();
    // More change than the wire can carry: it would never converge.
    let mut lab = ready(Lab::builder().dirty(96, 80).rate("300mbit"));
    let migration = Migration { return_path: true, postcopy_at_pass: Some(2), ..Migration::default() };
    let migrated = migrate(&mut lab, &migration);
    assert!(
        migrated.states(Side::Source).contains(&"postcopy-active"),
        "{:?}",
        migrated.states(Side::Source)
    );
    let completed =
        migrated.events.iter().rfind(|o| o.side == Side::Source && o.event.data["status"] == "completed");
    let resume = migrated.event(Side::Destination, "RESUME").unwrap();
    assert!(resume.received_ns < completed.unwrap().event.received_ns);
}

/// The distinct 64 KiB clusters of the image of a host's disk, in no order.
fn clusters(lab: &str, host: &str) -> HashSet<Vec<u8>> {
    let image = std::fs::read(format!("/run/migtrace-lab/{lab}/{host}/disk.qcow2")).unwrap();
    image.chunks(1 << 16).map(<[u8]>::to_vec).collect()
}

#[test]
fn a_disk_is_copied_before_the_memory() {
    let _lock = one_at_a_time();
    let mut lab = ready(Lab::builder().disk_mib(32));
    let migrated = migrate(&mut lab, &Migration::default());
    let job = migrated.event(Side::Source, "BLOCK_JOB_COMPLETED").unwrap();
    assert_eq!(job.data["offset"], 32 << 20);
    assert_eq!(job.data["len"], 32 << 20);
    let ready = migrated.event(Side::Source, "BLOCK_JOB_READY").unwrap();
    assert!(migrated.started_ns < ready.received_ns && ready.received_ns < migrated.migrate_ns);
    let [original, copy] = ["src", "dst"].map(|host| clusters(lab.name(), host));
    // Beside 512 clusters of data, the images have headers and tables of their own.
    assert!(original.intersection(&copy).count() >= 512, "{} {}", original.len(), copy.len());
    // The copy is a disk that the guest's new QEMU can move on, in turn.
    migrate(&mut lab, &Migration::default());
}

#[test]
fn without_events_the_driver_still_knows_the_end() {
    let _lock = one_at_a_time();
    let mut lab = ready(Lab::builder());
    let migrated = migrate(&mut lab, &Migration { events: false, ..Migration::default() });
    assert!(migrated.states(Side::Source).is_empty());
    assert!(migrated.stop_to_resume_ns().is_some());
}

#[test]
fn a_cancelled_migration_leaves_the_guest_where_it_was() {
    let _lock = one_at_a_time();
    let mut lab = ready(Lab::builder().dirty(96, 80).rate("200mbit").disk_mib(4));
    let mut statuses = Vec::new();
    let cancel_in_second_pass = |progress: &Progress<'_>| {
        statuses.push(progress.status.to_owned());
        if progress.pass >= 2 { Action::Cancel } else { Action::Continue }
    };
    let migrated = lab.migrate_with(&Migration::default(), cancel_in_second_pass).unwrap();
    assert_eq!(migrated.outcome, Outcome::Cancelled);
    assert!(statuses.iter().any(|status| status == "active"), "{statuses:?}");
    assert_eq!(lab.guest_host().role(), "src");
    lab.ping_guest().unwrap();
}

#[test]
fn a_migration_whose_destination_dies_has_failed() {
    let _lock = one_at_a_time();
    let mut lab = ready(Lab::builder().dirty(96, 80).rate("200mbit"));
    let migration = Migration::default();
    lab.prepare(&migration).unwrap();
    let destination = Pid::from_raw(lab.other_qemu().unwrap().pid().cast_signed());
    let kill_when_active = |progress: &Progress<'_>| {
        if progress.status == "active" {
            let _ = kill(destination, Signal::SIGKILL);
        }
        Action::Continue
    };
    let migrated = lab.migrate_with(&migration, kill_when_active).unwrap();
    assert_eq!(migrated.outcome, Outcome::Failed);
    assert!(migrated.source["error-desc"].is_string(), "{}", migrated.source);
    lab.ping_guest().unwrap();
    // The guest can try again.
    let second = Migration { postcopy_at_pass: Some(1), return_path: true, ..migration };
    migrate(&mut lab, &second);
}

#[test]
fn the_second_monitor_is_free_while_the_driver_holds_the_first() {
    let _lock = one_at_a_time();
    let mut lab = ready(Lab::builder());
    let qemu = lab.qemu().unwrap();
    let mut spare = Qmp::connect(&qemu.spare_qmp_socket()).unwrap();
    assert_eq!(
        spare.greeting()["version"]["qemu"]["major"],
        qemu.qmp().greeting()["version"]["qemu"]["major"]
    );
    let uuid = spare.execute("query-uuid", json!({})).unwrap();
    assert_eq!(uuid["UUID"], lab.guest().uuid);
}

/// Sends `bytes` over one TCP connection from the source to `address` of the destination; returns the time taken.
fn send(lab: &Lab, address: impl Into<IpAddr>, bytes: usize) -> Duration {
    let to = SocketAddr::new(address.into(), 49152);
    let listener = lab.destination().enter(|| TcpListener::bind(to)).unwrap().unwrap();
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    });
    let mut stream = lab.source().enter(|| TcpStream::connect(to)).unwrap().unwrap();
    let started = Instant::now();
    stream.write_all(&vec![0x55; bytes]).unwrap();
    drop(stream);
    assert_eq!(receiver.join().unwrap(), bytes as u64);
    started.elapsed()
}

#[test]
fn hosts_talk_through_the_switch_at_the_rate_they_are_given() {
    let lab = Lab::builder().without_guests().rate("80mbit").start().unwrap();
    let elapsed = send(&lab, lab.destination().ipv4(), 4 << 20);
    // 4 MiB at 80 Mbit/s are 0.42 s; the first 256 KiB go as fast as they can.
    assert!(elapsed > Duration::from_millis(380), "{elapsed:?}");
}

/// The TCP segments that the two hosts have sent and not received, as their kernels count them.
fn segments_on_the_way(lab: &Lab) -> u64 {
    let of = |host: &Host| {
        let tcp = |name| host.tcp_statistic("snmp", "Tcp", name).unwrap();
        // Sending a SYN-ACK again counts as sending, too.
        let twice = host.tcp_statistic("netstat", "TcpExt", "TCPSynRetrans").unwrap();
        (tcp("OutSegs") + tcp("RetransSegs"), tcp("InSegs"), twice)
    };
    let ((sent, received, _), (answered, arrived, twice)) = (of(lab.source()), of(lab.destination()));
    (sent + answered - twice).saturating_sub(received + arrived)
}

#[test]
fn the_switch_loses_as_many_packets_as_it_counts() {
    let lab = Lab::builder().without_guests().sender_offloads(false).receiver_gro(false).start().unwrap();
    lab.drop_packets(20).unwrap();
    send(&lab, lab.destination().ipv6(), 4 << 20);
    // The hosts miss as many segments, once the last of them have arrived or are lost.
    let started = Instant::now();
    let dropped = loop {
        let (missed, dropped) = (segments_on_the_way(&lab), lab.dropped_packets().unwrap());
        if missed == dropped {
            break dropped;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{missed} missed, {dropped} dropped");
        std::thread::sleep(Duration::from_millis(10));
    };
    // 20 of 1000 of about 2900 frames of the stream and their acknowledgements.
    assert!((20..400).contains(&dropped), "{dropped}");
    assert!(lab.source().retransmitted_segments().unwrap() > 0);
    lab.drop_packets(0).unwrap();
    lab.dropped_packets().unwrap_err();
}

#[test]
fn a_guard_brings_the_thread_home() {
    let lab = Lab::builder().without_guests().start().unwrap();
    let namespace = || std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    let home = namespace();
    {
        let _guard = lab.source().guard().unwrap();
        assert_ne!(namespace(), home);
        assert_eq!(namespace(), lab.source().enter(namespace).unwrap());
    }
    assert_eq!(namespace(), home);
}

#[test]
fn a_command_on_a_host_sees_its_network_and_ends_with_its_guard() {
    let lab = Lab::builder().without_guests().start().unwrap();
    let output = lab.observer().run(Command::new("ip").args(["-brief", "address"])).unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("10.77.0.3/24"), "{output:?}");
    let error = lab.source().tool("ip", &["link", "show", "eth7"]).unwrap_err().to_string();
    assert!(error.contains("ip link show eth7") && error.contains("src"), "{error}");

    let sleeper = lab.source().spawn(Command::new("sleep").arg("7777")).unwrap();
    let directory = format!("/proc/{}", sleeper.id());
    assert!(Path::new(&directory).exists());
    drop(sleeper);
    assert!(!Path::new(&directory).exists());
}

#[test]
fn a_second_lab_of_the_same_name_is_refused_and_harms_nothing() {
    let name = format!("twice-{}", std::process::id());
    let lab = Lab::builder().name(&name).without_guests().start().unwrap();
    let error = Lab::builder().name(&name).without_guests().start().unwrap_err().to_string();
    assert!(error.contains(&name) && error.contains("lab down"), "{error}");
    lab.source().ping(lab.destination().ipv4(), Duration::from_secs(5)).unwrap();
    drop(lab);
    assert_eq!(left_of(&name), [""; 0]);
}

#[test]
fn a_lab_that_cannot_be_made_leaves_nothing() {
    let name = format!("bad-{}", std::process::id());
    let error = Lab::builder().name(&name).without_guests().rate("much").start().unwrap_err().to_string();
    assert!(error.contains("tc") && error.contains("much"), "{error}");
    assert_eq!(left_of(&name), [""; 0]);
}

#[test]
fn a_panic_of_the_driver_leaves_nothing() {
    let _lock = one_at_a_time();
    let name = format!("panic-{}", std::process::id());
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut lab = Lab::builder().name(&name).start().unwrap();
        assert!(lab.qemu().unwrap().is_alive());
        assert!(left_of(&name).len() >= 6, "{:?}", left_of(&name));
        panic!("as planned");
    }));
    assert!(result.is_err());
    assert_eq!(left_of(&name), [""; 0]);
}

/// `lab run` of a migration that would take a minute, interrupted in the middle of it.
fn interrupted(name: &str) -> Child {
    let mut driver = Command::new(env!("CARGO_BIN_EXE_migtrace-lab"))
        .args(["run", "--name", name, "--rate", "50mbit", "--dirty", "96", "--dirty-rate", "40"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(driver.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("active")), "the migration did not begin");
    // Whoever writes to a pipe that nobody reads gets an error, and the driver has more to say.
    std::thread::spawn(move || lines.count());
    assert!(left_of(name).len() >= 7, "{:?}", left_of(name));
    driver
}

#[test]
fn an_interrupted_driver_leaves_nothing() {
    let _lock = one_at_a_time();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let name = format!("{}-{}", signal.as_str().to_lowercase(), std::process::id());
        let mut driver = interrupted(&name);
        kill(Pid::from_raw(driver.id().cast_signed()), signal).unwrap();
        assert_eq!(driver.wait().unwrap().code(), Some(128 + signal as i32));
        assert_eq!(left_of(&name), [""; 0]);
    }
}

#[test]
fn a_killed_driver_leaves_nothing_either() {
    let _lock = one_at_a_time();
    let name = format!("sigkill-{}", std::process::id());
    let mut driver = interrupted(&name);
    driver.kill().unwrap();
    driver.wait().unwrap();
    // Its janitor outlives it by a moment.
    assert_gone(&name, Duration::from_secs(10));
}

#[test]
fn a_lab_stays_up_between_commands_until_it_is_taken_down() {
    let _lock = one_at_a_time();
    let name = format!("stays-{}", std::process::id());
    let lab = |arguments: &[&str]| {
        let mut all = vec![arguments[0], "--name", &name];
        all.extend(&arguments[1..]);
        let output = Command::new(env!("CARGO_BIN_EXE_migtrace-lab")).args(all).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let (ok, text) = lab(&["up", "--dirty", "16"]);
    assert!(ok, "{text}");
    for goal in ["dst", "src"] {
        let (ok, text) = lab(&["migrate"]);
        assert!(ok && text.contains(&format!("now from {goal}")), "{text}");
    }
    let (ok, text) = lab(&["exec", "dst", "--", "ip", "-brief", "address"]);
    assert!(ok && text.contains("10.77.0.2/24"), "{text}");
    let (ok, text) = lab(&["down"]);
    assert!(ok, "{text}");
    assert_eq!(left_of(&name), [""; 0]);
    let (ok, text) = lab(&["migrate"]);
    assert!(!ok && text.contains("lab up"), "{text}");
    let (ok, text) = lab(&["down"]);
    assert!(!ok && text.contains("no lab"), "{text}");
}

#[test]
fn a_command_runs_on_the_source_while_the_guest_moves() {
    let _lock = one_at_a_time();
    let script = "ip -brief address >&2; echo ready >&2; sleep 3; echo seen";
    let output = Command::new(env!("CARGO_BIN_EXE_migtrace-lab"))
        .args(["run", "--dirty", "16", "--ready-line", "ready", "--", "sh", "-c", script])
        .output()
        .unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    assert!(stderr.contains("10.77.0.1/24") && stdout.contains("seen"), "{stdout}{stderr}");
    assert!(stderr.find("\nready").unwrap() < stderr.find("migrating").unwrap(), "{stderr}");
}
