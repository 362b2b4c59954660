//! When a migtrace sleeps: then it counts no packets.

use super::PATIENCE;
use migtrace_lab::migtrace_command::Recording;
use migtrace_lab::{Host, links};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Programs at interfaces are detached and attached first. What observes vCPUs follows within this time.
const THE_REST: Duration = Duration::from_secs(1);

/// A recording that sleeps whenever it can.
pub(crate) struct Sleeper<'a> {
    host: &'a Host,
    pub(crate) recording: Recording,
    awake: BTreeMap<String, usize>,
}

impl<'a> Sleeper<'a> {
    pub(crate) fn start(host: &'a Host, options: &[&str]) -> Self {
        let options = [options, &["--sleep-after", "100ms"]].concat();
        let recording = Recording::start(host, &options).unwrap();
        let awake = links(recording.pid()).unwrap();
        Self { host, recording, awake }
    }

    /// Waits until it sleeps.
    pub(crate) fn fall_asleep(&self) {
        self.wait("it does not fall asleep", || !counts_packets(self.host, self.recording.pid()));
    }

    /// Somebody listens on this port, on which migrations come.
    pub(crate) fn wake_up(&self, port: u16) {
        drop(self.host.enter(|| TcpListener::bind((self.host.ipv4(), port))).unwrap().unwrap());
        let pid = self.recording.pid();
        let is_awake = || counts_packets(self.host, pid) && links(pid).unwrap() == self.awake;
        self.wait("it does not wake up", is_awake);
    }

    fn wait(&self, what: &str, is_done: impl Fn() -> bool) {
        let started = Instant::now();
        while !is_done() {
            assert!(started.elapsed() < PATIENCE, "{what}: {:?}", links(self.recording.pid()).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(THE_REST);
    }
}

/// Whether packets are counted on a host, by this process or by filters.
pub(crate) fn counts_packets(host: &Host, pid: u32) -> bool {
    // Before Linux 6.6 there are filters instead of links.
    let filters = || host.tool("tc", &["filter", "show", "dev", Host::BRIDGE, "egress"]).unwrap();
    links(pid).unwrap().contains_key("tcx") || filters().contains("migtrace_")
}
