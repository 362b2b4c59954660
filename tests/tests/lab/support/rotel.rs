//! The collector Rotel on a host. It prints what it receives.

use super::GUEST_PATIENCE;
use migtrace_lab::{Download, Host, Process};
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The ports of OTLP.
const GRPC_PORT: u16 = 4317;
const HTTP_PORT: u16 = 4318;

/// A collector. Dropping it ends it.
pub(crate) struct Rotel {
    _process: Process,
    folder: tempfile::TempDir,
}

/// A span as it is printed.
#[derive(Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Span {
    pub(crate) trace: String,
    pub(crate) parent: String,
    pub(crate) id: String,
    pub(crate) name: String,
}

impl Rotel {
    /// Starts it for programs of the same host.
    pub(crate) fn start(host: &Host) -> Self {
        Self::start_at(host, Ipv4Addr::LOCALHOST)
    }

    /// Starts it at an address of a host, and waits until it listens.
    pub(crate) fn start_at(host: &Host, address: Ipv4Addr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = Download::Otlp.fetch().unwrap().join("rotel/rotel-agent");
        let mut command = Command::new(program);
        command.args(["start", "--otlp-grpc-endpoint", &format!("{address}:{GRPC_PORT}")]);
        command.args(["--otlp-http-endpoint", &format!("{address}:{HTTP_PORT}")]);
        command.args(["--exporter", "blackhole", "--debug-log-verbosity", "detailed"]);
        command.args(["--debug-log", "traces", "--debug-log", "metrics"]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command.stdout(File::create(folder.path().join("log")).unwrap());
        let process = host.spawn(&mut command).unwrap();
        let rotel = Self { _process: process, folder };
        for port in [GRPC_PORT, HTTP_PORT] {
            let listens = || host.enter(|| TcpStream::connect((address, port)).is_ok()).unwrap();
            rotel.wait_until("it listens", |_| listens());
        }
        rotel
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    fn wait_until(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        loop {
            let log = self.log();
            if is_so(&log) {
                return log;
            }
            assert!(begun.elapsed() < GUEST_PATIENCE, "waited for Rotel in vain ({what}): {log}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What it has printed, once this is a part of it.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        self.wait_until(text, |log| log.contains(text))
    }

    /// The spans, once so many of them are migrations.
    pub(crate) fn wait_for_migrations(&self, count: usize) -> Vec<Span> {
        let are_there =
            |log: &str| spans(log).iter().filter(|span| span.name == "migration").count() >= count;
        let mut log = self.wait_until("migrations", are_there);
        // What belongs to them follows at once.
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let later = self.log();
            if later == log {
                return spans(&log);
            }
            log = later;
        }
    }
}

/// The values of a field of spans, as Rotel prints them.
pub(crate) fn fields<'l>(log: &'l str, name: &str) -> Vec<&'l str> {
    log.lines().filter_map(|line| field(line, name)).collect()
}

fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    Some(line.strip_prefix("    ")?.strip_prefix(name)?.trim_start().strip_prefix(": ")?.trim())
}

/// The spans that were printed as a whole.
pub(crate) fn spans(log: &str) -> Vec<Span> {
    let mut found: Vec<Span> = Vec::new();
    for line in log.lines() {
        if line.starts_with("Span #") {
            found.push(Span::default());
        }
        let Some(span) = found.last_mut() else { continue };
        let known = [
            ("Trace ID", &mut span.trace),
            ("Parent ID", &mut span.parent),
            ("ID", &mut span.id),
            ("Name", &mut span.name),
        ];
        for (name, place) in known {
            if let Some(value) = field(line, name) {
                value.clone_into(place);
            }
        }
    }
    found.retain(|span| !span.name.is_empty());
    found
}
