//! The lab does what the other tests rely on: guests migrate, hosts have their networks, and nothing is left behind.

mod command;
mod converge;
mod cpu_load;
mod disks;
mod loads;
mod migrations;
mod networks;
mod removal;

use migtrace_lab::{Builder, Host, Lab};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Starts a lab whose guest has booted and answers ping over IPv4 and IPv6.
fn start_with_guest(builder: Builder) -> Lab {
    let mut lab = builder.start().unwrap();
    lab.wait_guest_ready().unwrap();
    lab
}

/// What a host has received on its uplink, as its kernel counts it.
#[derive(Clone, Copy)]
struct Received {
    bytes: u64,
    packets: u64,
}

impl Received {
    /// Ethernet, IPv4, and TCP with its timestamps.
    const HEADERS: u64 = 14 + 20 + 32;

    fn by(host: &Host) -> Self {
        let output = host.run(Command::new("cat").arg("/proc/thread-self/net/dev")).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let uplink = text.lines().find_map(|line| line.trim().strip_prefix("uplink:")).unwrap();
        let mut numbers = uplink.split_whitespace().map(|number| number.parse().unwrap());
        let mut next = || numbers.next().unwrap();
        Self { bytes: next(), packets: next() }
    }

    /// What connections have carried since then, if nothing but they sends much.
    fn payload_since(&self, earlier: &Self) -> u64 {
        self.bytes - earlier.bytes - (self.packets - earlier.packets) * Self::HEADERS
    }
}

/// What remains of a lab: namespaces, processes, files.
pub(crate) fn remains_of(name: &str) -> Vec<String> {
    let mut remains = migtrace_lab::netns::list(&format!("migtrace-{name}-")).unwrap();
    remains.extend(processes_with(&format!("/run/migtrace-lab/{name}")));
    let directory = format!("/run/migtrace-lab/{name}");
    remains.extend(Path::new(&directory).exists().then_some(directory));
    remains
}

/// Waits until nothing remains of a lab.
pub(crate) fn assert_gone(name: &str, patience: Duration) {
    let started = Instant::now();
    while !remains_of(name).is_empty() {
        assert!(started.elapsed() < patience, "remains of {name}: {:#?}", remains_of(name));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The command lines of all processes but this one that contain this text.
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
