//! A process that passes for a QEMU, and writes to its monitor, by `sendmsg`, what a test orders.
//!
//! It is this test program, copied under QEMU's name to a folder of root's.

use super::GUEST_PATIENCE;
use migtrace_lab::migtrace_command::Recording;
use migtrace_lab::{Host, Process};
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, sendmsg};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fs;
use std::io::{IoSlice, Read, Write as _, stdin};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// Set only for a writer: the monitor's socket, as a path or as an address and port.
const MONITOR_VARIABLE: &str = "MIGTRACE_TEST_MONITOR";
/// The test that a writer runs.
const WRITER_TEST: &str = "support::monitor_writer::writes_what_is_ordered";
/// In a text that is written several times, this stands for the number of the write.
pub(crate) const NUMBER: &str = "#";

/// An order: the pieces of one `sendmsg`, how often to send it, and the pause after each.
#[derive(Deserialize, Serialize)]
struct Order {
    pieces: Vec<String>,
    times: u64,
    pause: Duration,
}

/// Not a test: what the process of a [`MonitorWriter`] does. It does nothing elsewhere.
#[test]
fn writes_what_is_ordered() {
    let Ok(monitor) = std::env::var(MONITOR_VARIABLE) else { return };
    let monitor: OwnedFd = match monitor.parse::<SocketAddr>() {
        Ok(address) => TcpStream::connect(address).unwrap().into(),
        Err(_) => UnixStream::connect(monitor).unwrap().into(),
    };
    let mut lines = stdin().lines().map(Result::unwrap);
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        let order: Order = serde_json::from_str(&line).unwrap();
        for number in 0..order.times {
            let number = number.to_string();
            let pieces: Vec<_> = order.pieces.iter().map(|piece| piece.replace(NUMBER, &number)).collect();
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece.as_bytes())).collect();
            let sent = sendmsg::<()>(monitor.as_raw_fd(), &slices, &[], MsgFlags::empty(), None).unwrap();
            assert_eq!(sent, pieces.iter().map(String::len).sum::<usize>());
            thread::sleep(order.pause);
        }
    }
    drop(monitor);
    // Its end may end the migration that it wrote about, and with it the recording, so it waits until it may end.
    assert_eq!(lines.next(), None, "an order came after the last one");
}

/// A running writer.
pub(crate) struct MonitorWriter {
    process: Process,
    /// Receives everything that it writes.
    reader: Option<thread::JoinHandle<String>>,
    _directory: TempDir,
}

impl MonitorWriter {
    /// Starts one whose monitor is a Unix socket, as libvirt has it.
    pub(crate) fn start(host: &Host) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("monitor.sock");
        let listener = UnixListener::bind(&path).unwrap();
        Self::start_at(host, path.to_str().unwrap(), || listener.accept().unwrap().0)
    }

    /// Starts one whose monitor is a TCP connection to this port.
    pub(crate) fn start_at_port(host: &Host, port: u16) -> Self {
        let address = SocketAddr::from((host.ipv4(), port));
        let listener = host.enter(|| TcpListener::bind(address)).unwrap().unwrap();
        Self::start_at(host, &address.to_string(), || listener.accept().unwrap().0)
    }

    fn start_at<M: Read + Send + 'static>(host: &Host, monitor: &str, accept: impl FnOnce() -> M) -> Self {
        let program = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(program.parent().unwrap()).unwrap();
        let qemu = directory.path().join("qemu-system-x86_64");
        fs::copy(&program, &qemu).unwrap();
        let mut command = Command::new(&qemu);
        command.args(["--exact", WRITER_TEST]).env(MONITOR_VARIABLE, monitor);
        let process = host.spawn(command.stdin(Stdio::piped()).stdout(Stdio::null())).unwrap();
        let mut monitor = accept();
        let reader = thread::spawn(move || {
            let mut text = String::new();
            monitor.read_to_string(&mut text).unwrap();
            text
        });
        Self { process, reader: Some(reader), _directory: directory }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn order(&mut self, pieces: &[&str], times: u64, pause: Duration) {
        let pieces = pieces.iter().map(|&piece| piece.to_owned()).collect();
        let mut line = serde_json::to_vec(&Order { pieces, times, pause }).unwrap();
        line.push(b'\n');
        self.process.child().stdin.as_mut().unwrap().write_all(&line).unwrap();
    }

    /// Orders one write of these pieces.
    pub(crate) fn write(&mut self, pieces: &[&str]) {
        self.order(pieces, 1, Duration::ZERO);
    }

    /// Orders `times` writes of a text, with [`NUMBER`] replaced by the number of the write, from 0.
    pub(crate) fn repeat(&mut self, text: &str, times: u64, pause: Duration) {
        self.order(&[text], times, pause);
    }

    /// Waits until it has written everything, and returns that. Its process goes on.
    pub(crate) fn finish(&mut self) -> String {
        self.process.child().stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.reader.take().unwrap().join().unwrap()
    }

    /// Lets a [finished](Self::finish) one end.
    pub(crate) fn end(mut self) {
        drop(self.process.child().stdin.take());
        assert!(self.process.wait(GUEST_PATIENCE).unwrap().success());
    }
}

/// An event about a migration, as QEMU writes it, with a number that identifies it and `padding` more bytes.
pub(crate) fn event(number: impl std::fmt::Display, padding: usize) -> String {
    let padding = "x".repeat(padding);
    format!(
        r#"{{"timestamp": {{"seconds": 1800000000, "microseconds": 5}}, "event": "MIGRATION_PASS", "data": {{"pass": {number}, "padding": "{padding}"}}}}"#
    ) + "\r\n"
}

/// An [`event`] as a monitor with `pretty=on` writes it.
pub(crate) fn pretty(number: u64) -> String {
    let value: Value = serde_json::from_str(&event(number, 0)).unwrap();
    // QEMU writes the stamp first; serde_json sorts the keys.
    let fields = ["timestamp", "event", "data"].map(|key| {
        let text = serde_json::to_string_pretty(&value[key]).unwrap().replace("  ", "    ");
        format!("    \"{key}\": {}", text.replace('\n', "\n    "))
    });
    format!("{{\n{}\n}}\n", fields.join(",\n")).replace('\n', "\r\n")
}

/// Starts a recording, and waits until it traces these writers.
pub(crate) fn record(host: &Host, writers: &[&MonitorWriter]) -> Recording {
    let recording = Recording::start(host, &[]).unwrap();
    for writer in writers {
        recording.wait_for_event(&format!("\"pid\":{}", writer.pid()), GUEST_PATIENCE).unwrap();
    }
    recording
}

/// What a recording reported of the lines on monitors.
pub(crate) struct RecordedLines {
    events: Vec<Value>,
    lost: Value,
}

impl RecordedLines {
    /// Interrupts a recording and reads its log.
    pub(crate) fn stop(recording: Recording) -> Self {
        recording.signal(Signal::SIGINT).unwrap();
        let recorded = recording.finish(GUEST_PATIENCE).unwrap();
        let events = recorded.events().unwrap();
        let lost = events.iter().rfind(|event| event["event"] == "lost").cloned();
        Self { events, lost: lost.unwrap_or_else(|| json!({})) }
    }

    /// The events of this kind.
    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |event| event["event"] == kind)
    }

    /// The numbers of the QMP events that were read from a process, in order.
    pub(crate) fn numbers(&self, pid: u32) -> Vec<u64> {
        let of_pid = self.of_kind("qmp").filter(|event| event["pid"] == pid);
        of_pid.map(|event| event["data"]["pass"].as_u64().unwrap()).collect()
    }

    /// A counter of losses, at the end.
    pub(crate) fn lost(&self, counter: &str) -> u64 {
        self.lost[counter].as_u64().unwrap_or(0)
    }

    /// The reasons why events of a process were not measured, in order.
    pub(crate) fn not_measured(&self, pid: u32) -> Vec<&str> {
        let what = format!("QMP events of QEMU {pid}");
        let reports = self.of_kind("not_measured").filter(|event| event["what"] == *what);
        reports.map(|event| event["why"].as_str().unwrap()).collect()
    }

    /// Whether a text is anywhere in the log.
    pub(crate) fn mentions(&self, text: &str) -> bool {
        self.events.iter().any(|event| event.to_string().contains(text))
    }
}
