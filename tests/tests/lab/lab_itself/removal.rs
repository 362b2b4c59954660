//! Whatever happens to its driver, nothing of a lab is left behind.

use super::{assert_gone, remains_of};
use crate::support::one_at_a_time;
use migtrace_lab::Lab;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead as _, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

#[test]
fn a_second_lab_of_the_same_name_is_refused_and_leaves_the_first_alone() {
    let name = format!("twice-{}", std::process::id());
    let lab = Lab::builder().name(&name).without_guests().start().unwrap();
    let error = Lab::builder().name(&name).without_guests().start().unwrap_err().to_string();
    assert!(error.contains(&name) && error.contains("lab down"), "{error}");
    lab.source().ping(lab.destination().ipv4(), Duration::from_secs(5)).unwrap();
    drop(lab);
    assert_eq!(remains_of(&name), [""; 0]);
}

#[test]
fn a_lab_that_cannot_start_leaves_nothing() {
    let name = format!("bad-{}", std::process::id());
    let error = Lab::builder().name(&name).without_guests().rate("much").start().unwrap_err().to_string();
    assert!(error.contains("tc") && error.contains("much"), "{error}");
    assert_eq!(remains_of(&name), [""; 0]);
}

#[test]
fn a_lab_whose_driver_panics_leaves_nothing() {
    let _lock = one_at_a_time();
    let name = format!("panic-{}", std::process::id());
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut lab = Lab::builder().name(&name).start().unwrap();
        assert!(lab.qemu().unwrap().is_alive());
        assert!(remains_of(&name).len() >= 6, "{:?}", remains_of(&name));
        panic!("as planned");
    }));
    assert!(result.is_err());
    assert_eq!(remains_of(&name), [""; 0]);
}

/// Starts `migtrace-lab run` with a migration that would take a minute, and returns in the middle of it.
fn start_long_migration(name: &str) -> Child {
    let mut driver = Command::new(env!("CARGO_BIN_EXE_migtrace-lab"))
        .args(["run", "--name", name, "--rate", "50mbit", "--dirty", "96", "--dirty-rate", "40"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(driver.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("active")), "the migration did not begin");
    // The driver still writes to the pipe, which somebody must read.
    std::thread::spawn(move || lines.count());
    assert!(remains_of(name).len() >= 7, "{:?}", remains_of(name));
    driver
}

#[test]
fn a_lab_whose_driver_is_interrupted_leaves_nothing() {
    let _lock = one_at_a_time();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let name = format!("{}-{}", signal.as_str().to_lowercase(), std::process::id());
        let mut driver = start_long_migration(&name);
        kill(Pid::from_raw(driver.id().cast_signed()), signal).unwrap();
        assert_eq!(driver.wait().unwrap().code(), Some(128 + signal as i32));
        assert_eq!(remains_of(&name), [""; 0]);
    }
}

#[test]
fn a_lab_whose_driver_is_killed_leaves_nothing() {
    let _lock = one_at_a_time();
    let name = format!("sigkill-{}", std::process::id());
    let mut driver = start_long_migration(&name);
    driver.kill().unwrap();
    driver.wait().unwrap();
    // Its janitor needs a moment longer.
    assert_gone(&name, Duration::from_secs(10));
}
