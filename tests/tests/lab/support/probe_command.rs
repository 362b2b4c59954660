//! A `migtrace probe` that runs while a test goes on.

use super::PATIENCE;
use migtrace::probe::{ProbeReport, SCHEMA};
use migtrace_lab::migtrace_command::command;
use migtrace_lab::{Host, Process};
use nix::sys::signal::Signal;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::Stdio;

/// A running `migtrace probe`.
pub(crate) struct ProbeCommand {
    process: Process,
    stderr: BufReader<std::process::ChildStderr>,
}

impl ProbeCommand {
    /// Starts it, with a report in JSON, and waits until it is ready.
    pub(crate) fn start(host: &Host, target: IpAddr, arguments: &[&str]) -> Self {
        Self::start_with_format("json", host, target, arguments)
    }

    /// As [`Self::start`], with a report in this format.
    pub(crate) fn start_with_format(format: &str, host: &Host, target: IpAddr, arguments: &[&str]) -> Self {
        let mut command = command(&["probe", &target.to_string(), "--format", format]).unwrap();
        command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = host.spawn(&mut command).unwrap();
        let mut stderr = BufReader::new(process.child().stderr.take().unwrap());
        let mut text = String::new();
        while !text.contains("ready: ") {
            assert!(stderr.read_line(&mut text).unwrap() > 0, "it ended before it was ready: {text}");
        }
        Self { process, stderr }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it ends by itself; its exit code and its report.
    pub(crate) fn finish(self) -> (Option<i32>, ProbeReport) {
        let (code, json) = self.read();
        let report: ProbeReport =
            serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json}"));
        assert_eq!(report.schema, SCHEMA);
        (code, report)
    }

    /// Interrupts it as Ctrl-C does; its exit code and its report.
    pub(crate) fn stop(self) -> (Option<i32>, ProbeReport) {
        self.process.signal(Signal::SIGINT).unwrap();
        self.finish()
    }

    /// As [`Self::stop`], with the report as it was written.
    pub(crate) fn stop_and_read_text(self) -> (Option<i32>, String) {
        self.process.signal(Signal::SIGINT).unwrap();
        self.read()
    }

    fn read(self) -> (Option<i32>, String) {
        // Its standard error must stay open: it may still write to it.
        let Self { process, stderr } = self;
        let output = process.output(PATIENCE).unwrap();
        drop(stderr);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }
}
