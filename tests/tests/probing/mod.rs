//! `migtrace probe` as a test runs it.

pub(crate) mod silences;

use migtrace::probe::{Report, SCHEMA};
use migtrace_lab::migtrace_command::command;
use migtrace_lab::{Host, Lab, Process};
use nix::sys::signal::Signal;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

/// Two real-time threads take turns on two CPUs: one at a time.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn network() -> Lab {
    Lab::builder().without_guests().start().unwrap()
}

/// A `migtrace probe` at work.
pub(crate) struct Probing {
    process: Process,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Probing {
    /// Starts one, and waits until it watches.
    pub(crate) fn start(host: &Host, target: IpAddr, arguments: &[&str]) -> Self {
        Self::start_as("json", host, target, arguments)
    }

    /// As [`Self::start`], with a report of that format.
    pub(crate) fn start_as(format: &str, host: &Host, target: IpAddr, arguments: &[&str]) -> Self {
        let mut command = command(&["probe", &target.to_string(), "--format", format]).unwrap();
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = host.spawn(&mut command).unwrap();
        let mut stderr = BufReader::new(process.child().stderr.take().unwrap());
        let mut said = String::new();
        while !said.contains("ready: ") {
            assert!(stderr.read_line(&mut said).unwrap() > 0, "it ended before it was ready: {said}");
        }
        Self { process, stderr }
    }

    /// Its process id.
    #[allow(dead_code, reason = "each file of tests uses a part of it")]
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits for its end.
    pub(crate) fn end(self) -> (Option<i32>, Report) {
        let (code, json) = self.read();
        let report: Report = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
        assert_eq!(report.schema, SCHEMA);
        (code, report)
    }

    /// Ends it as Ctrl-C does.
    pub(crate) fn stop(self) -> (Option<i32>, Report) {
        self.process.signal(Signal::SIGINT).unwrap();
        self.end()
    }

    /// As [`Self::stop`], whatever it writes.
    pub(crate) fn stop_and_read(self) -> (Option<i32>, String) {
        self.process.signal(Signal::SIGINT).unwrap();
        self.read()
    }

    fn read(self) -> (Option<i32>, String) {
        // Its pipe must stay open: it may still have something to say.
        let Self { process, stderr } = self;
        let output = process.output(PATIENCE).unwrap();
        drop(stderr);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }
}
