//! Load on a lab's hosts and on the link between them.

use super::{Received, command, remains_of};
use crate::support::one_at_a_time;
use migtrace_lab::{Host, Lab};
use nix::unistd::{SysconfVar, sysconf};
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The processes on a host whose command line has this word.
fn processes(host: &Host, word: &str) -> Vec<u32> {
    let pids = Command::new("ip").args(["netns", "pids", host.netns().name()]).output().unwrap();
    let pids = String::from_utf8(pids.stdout).unwrap();
    let has_word = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
    };
    pids.lines().map(|pid| pid.trim().parse().unwrap()).filter(has_word).collect()
}

/// How long a process has run on CPUs, as its kernel counts it.
fn cpu_time(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<u64> =
        stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2).map(|n| n.parse().unwrap()).collect();
    let ticks = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_secs(fields.iter().sum()) / u32::try_from(ticks).unwrap()
}

/// The name of a lasting lab, which must not outlive a test that fails.
struct Name(String);

impl Drop for Name {
    fn drop(&mut self) {
        if thread::panicking() {
            let _ = migtrace_lab::tear_down(&self.0);
        }
    }
}

#[test]
fn loads_are_what_was_asked_for_and_end_with_the_lab() {
    let _lock = one_at_a_time();
    let guard = Name(format!("loads-{}", std::process::id()));
    let name = &guard.0;
    let options = ["--dirty", "0", "--rate", "1gbit", "--host-load", "30", "--network-load", "200mbit"];
    command::run(name, "up", &options);
    let lab = Lab::attach(name).unwrap();
    let (cpus, sender, receiver) = (
        processes(lab.switch(), "cpus"),
        processes(lab.source(), "send"),
        processes(lab.destination(), "receive"),
    );
    let pids = [&cpus[..], &sender, &receiver].concat();
    assert_eq!((cpus.len(), sender.len(), receiver.len()), (1, 1, 1), "{pids:?}");

    let measure = || (Instant::now(), cpu_time(cpus[0]), Received::by(lab.destination()).bytes);
    let before = measure();
    thread::sleep(Duration::from_secs(2));
    let after = measure();
    let seconds = (after.0 - before.0).as_secs_f64();
    let all_cpus = thread::available_parallelism().unwrap().get() as f64;
    let share = (after.1 - before.1).as_secs_f64() / seconds / all_cpus;
    // Other work of the machine may take some of it.
    assert!((0.2..0.33).contains(&share), "{share} of the CPUs' time");
    let mbit_per_s = (after.2 - before.2) as f64 * 8.0 / 1e6 / seconds;
    // With headers.
    assert!((190.0..215.0).contains(&mbit_per_s), "{mbit_per_s} Mbit/s");

    drop(lab);
    command::run(name, "down", &[]);
    assert_eq!(remains_of(name), [""; 0]);
    for pid in pids {
        // Empty for a process that has ended, and for which nobody has waited yet.
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert_eq!(String::from_utf8_lossy(&line), "");
    }
}
