//! Runs the real `migtrace record` on a host of the lab, and reads what it has written.

use lab::{Host, Process};
use migtrace::event::{Event, Fact, FlowCounters, LogReader, Lost};
use migtrace::units::{Counters, Directions};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{ChildStderr, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// The command under test: what `MIGTRACE_BIN` names, or the one that was built beside this test.
pub(crate) fn migtrace() -> PathBuf {
    if let Some(path) = std::env::var_os("MIGTRACE_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("migtrace");
    assert!(path.is_file(), "there is no {}: build it with `cargo build -p migtrace`", path.display());
    path
}

/// A `migtrace record` that counts.
pub(crate) struct Recording {
    process: Process,
    stderr: BufReader<ChildStderr>,
    directory: TempDir,
}

impl Recording {
    /// Returns when everything is attached.
    pub(crate) fn start(host: &Host, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new(migtrace());
        command.arg("record").arg("--events").arg(directory.path().join("events.jsonl")).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = host.spawn(&mut command).unwrap();
        let mut stderr = BufReader::new(process.child().stderr.take().unwrap());
        let mut said = String::new();
        while !said.ends_with("ready\n") {
            let length = stderr.read_line(&mut said).unwrap();
            assert_ne!(length, 0, "migtrace ended before it was ready: {said}");
        }
        Self { process, stderr, directory }
    }

    /// Ends it as Ctrl-C does. No QEMU owns the flows of these tests, so it has seen no migration.
    pub(crate) fn stop(mut self) -> Facts {
        self.process.signal(Signal::SIGINT).unwrap();
        let status = self.process.wait(PATIENCE).unwrap();
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        assert!(said.contains("no migration was seen before the recording was interrupted"), "{said}");
        assert_eq!(status.code(), Some(1), "{said}");
        let log = File::open(self.directory.path().join("events.jsonl")).unwrap();
        Facts(LogReader::new(BufReader::new(log)).map(Result::unwrap).collect())
    }

    /// Ends it so that it cannot clean up.
    pub(crate) fn kill(mut self) {
        self.process.signal(Signal::SIGKILL).unwrap();
        self.process.wait(PATIENCE).unwrap();
    }
}

/// The facts of an event log.
pub(crate) struct Facts(Vec<Event>);

impl Facts {
    fn last<T>(&self, wanted: impl Fn(&Fact) -> Option<T>) -> Option<T> {
        self.0.iter().rev().find_map(|event| wanted(&event.fact))
    }

    /// What was counted of a connection in the end, if it was counted at all.
    pub(crate) fn flow(&self, local: SocketAddr, remote: SocketAddr) -> Option<FlowCounters> {
        self.last(|fact| match fact {
            Fact::FlowCounters(of) if of.flow.local == local && of.flow.remote == remote => Some(of.clone()),
            _ => None,
        })
    }

    /// How many connections were seen.
    pub(crate) fn flows(&self) -> usize {
        self.0.iter().filter(|event| matches!(event.fact, Fact::FlowSeen { .. })).count()
    }

    /// Whether the opening of a connection was seen.
    pub(crate) fn is_from_start(&self, local: SocketAddr) -> bool {
        let from_start = self.last(|fact| match fact {
            Fact::FlowSeen { flow, from_start, .. } if flow.local == local => Some(*from_start),
            _ => None,
        });
        from_start.unwrap_or_else(|| panic!("no connection of {local} was seen"))
    }

    /// What was counted of IP fragments between two hosts in the end.
    pub(crate) fn fragments(&self, here: IpAddr, there: IpAddr) -> Option<Directions<Counters>> {
        self.last(|fact| match fact {
            Fact::Fragments { local, remote, counters } if (*local, *remote) == (here, there) => {
                Some(*counters)
            }
            _ => None,
        })
    }

    /// What was lost in the end.
    pub(crate) fn lost(&self) -> Lost {
        self.last(|fact| if let Fact::Lost(lost) = fact { Some(*lost) } else { None }).unwrap_or_default()
    }

    /// What is said not to be measured.
    pub(crate) fn not_measured(&self) -> Vec<String> {
        let told = self.0.iter().filter_map(|event| match &event.fact {
            Fact::NotMeasured(what) => Some(format!("{}: {}", what.what, what.why)),
            _ => None,
        });
        told.collect()
    }
}
