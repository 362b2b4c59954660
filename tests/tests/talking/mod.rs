//! A process that migtrace takes for a QEMU, and that writes to its monitor what a test tells it, by `sendmsg`.
//!
//! It is this very program, copied under QEMU's name to a folder that is root's.

use std::collections::BTreeSet;
use std::fs;
use std::io::{IoSlice, Read, Write as _, stdin};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use lab::tracing::Recording;
use lab::{Connection, Host, Lab, Process};
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, sendmsg};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Names the socket of the monitor, by its path or by its address and port; set for a talker only.
const MONITOR_VARIABLE: &str = "TALKER_MONITOR";
/// What a talker runs of this program.
const TALKER: &str = "talking::a_talker_writes_what_it_is_told";
/// In a write that is repeated: its number.
pub(crate) const NUMBER: &str = "#";

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// One `sendmsg`, or several that are alike.
#[derive(Deserialize, Serialize)]
struct Write {
    pieces: Vec<String>,
    times: u64,
    pause: Duration,
}

/// Not a test of its own: what a [`Talker`] does.
#[test]
fn a_talker_writes_what_it_is_told() {
    let Ok(monitor) = std::env::var(MONITOR_VARIABLE) else { return };
    let monitor: OwnedFd = match monitor.parse::<SocketAddr>() {
        Ok(address) => TcpStream::connect(address).unwrap().into(),
        Err(_) => UnixStream::connect(monitor).unwrap().into(),
    };
    let mut lines = stdin().lines().map(Result::unwrap);
    for line in lines.by_ref().take_while(|line| !line.is_empty()) {
        let write: Write = serde_json::from_str(&line).unwrap();
        for number in 0..write.times {
            let pieces: Vec<_> =
                write.pieces.iter().map(|p| p.replace(NUMBER, &number.to_string())).collect();
            let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece.as_bytes())).collect();
            let sent = sendmsg::<()>(monitor.as_raw_fd(), &slices, &[], MsgFlags::empty(), None).unwrap();
            assert_eq!(sent, pieces.iter().map(String::len).sum::<usize>());
            thread::sleep(write.pause);
        }
    }
    drop(monitor);
    // A process that ends may end the migration that it told of, and with it the recording.
    assert_eq!(lines.next(), None, "it was to write no more");
}

/// A running one.
pub(crate) struct Talker {
    process: Process,
    /// All that came out at the other end of its monitor.
    heard: Option<thread::JoinHandle<String>>,
    _directory: TempDir,
}

impl Talker {
    /// With a monitor as libvirt has it.
    pub(crate) fn start(host: &Host) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("monitor.sock");
        let listener = UnixListener::bind(&path).unwrap();
        Self::start_at(host, path.to_str().unwrap(), || listener.accept().unwrap().0)
    }

    /// With a TCP connection to this port.
    fn start_at_port(host: &Host, port: u16) -> Self {
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
        command.args(["--exact", TALKER]).env(MONITOR_VARIABLE, monitor);
        let process = host.spawn(command.stdin(Stdio::piped()).stdout(Stdio::null())).unwrap();
        let mut monitor = accept();
        let heard = thread::spawn(move || {
            let mut heard = String::new();
            monitor.read_to_string(&mut heard).unwrap();
            heard
        });
        Self { process, heard: Some(heard), _directory: directory }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn tell(&mut self, pieces: &[&str], times: u64, pause: Duration) {
        let pieces = pieces.iter().map(|&piece| piece.to_owned()).collect();
        let mut line = serde_json::to_vec(&Write { pieces, times, pause }).unwrap();
        line.push(b'\n');
        self.process.child().stdin.as_mut().unwrap().write_all(&line).unwrap();
    }

    /// Has it write these pieces at once.
    fn write(&mut self, pieces: &[&str]) {
        self.tell(pieces, 1, Duration::ZERO);
    }

    /// Has it write a text so many times, each with its number in place of `#`.
    pub(crate) fn repeat(&mut self, text: &str, times: u64, pause: Duration) {
        self.tell(&[text], times, pause);
    }

    /// Waits until it has written all; its process goes on. Returns what came out at the other end.
    fn finish(&mut self) -> String {
        self.process.child().stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        self.heard.take().unwrap().join().unwrap()
    }

    /// Ends one that has [finished](Self::finish).
    fn end(mut self) {
        drop(self.process.child().stdin.take());
        assert!(self.process.wait(PATIENCE).unwrap().success());
    }
}

/// An event about a migration, as QEMU writes it, with a number to know it by and a padding.
pub(crate) fn event(number: impl std::fmt::Display, padding: usize) -> String {
    let padding = "x".repeat(padding);
    format!(
        r#"{{"timestamp": {{"seconds": 1800000000, "microseconds": 5}}, "event": "MIGRATION_PASS", "data": {{"pass": {number}, "padding": "{padding}"}}}}"#
    ) + "\r\n"
}

/// As [`event`], as a `pretty` monitor has it.
fn pretty(number: u64) -> String {
    let value: Value = serde_json::from_str(&event(number, 0)).unwrap();
    // The stamp comes first in QEMU; here the keys are in the order of the alphabet.
    let fields = ["timestamp", "event", "data"].map(|key| {
        let text = serde_json::to_string_pretty(&value[key]).unwrap().replace("  ", "    ");
        format!("    \"{key}\": {}", text.replace('\n', "\n    "))
    });
    format!("{{\n{}\n}}\n", fields.join(",\n")).replace('\n', "\r\n")
}

/// A recording of talkers, all of which it knows.
pub(crate) fn record(host: &Host, talkers: &[&Talker]) -> Recording {
    let recording = Recording::start(host, &[]).unwrap();
    for talker in talkers {
        recording.wait_for_event(&format!("\"pid\":{}", talker.pid()), PATIENCE).unwrap();
    }
    recording
}

/// What a recording has of the lines.
pub(crate) struct Heard {
    events: Vec<Value>,
    lost: Value,
}

impl Heard {
    /// Ends a recording and reads its log.
    pub(crate) fn of(recording: Recording) -> Self {
        recording.signal(Signal::SIGINT).unwrap();
        let recorded = recording.finish(PATIENCE).unwrap();
        let events = recorded.events().unwrap();
        let lost = events.iter().rfind(|event| event["event"] == "lost").cloned();
        Self { events, lost: lost.unwrap_or_else(|| json!({})) }
    }

    /// What the log tells of a kind.
    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.events.iter().filter(move |event| event["event"] == kind)
    }

    /// The numbers of the events that were read of a process, in order.
    fn numbers(&self, pid: u32) -> Vec<u64> {
        let of_pid = self.of_kind("qmp").filter(|event| event["pid"] == pid);
        of_pid.map(|event| event["data"]["pass"].as_u64().unwrap()).collect()
    }

    /// A counter of what was lost.
    pub(crate) fn lost(&self, counter: &str) -> u64 {
        self.lost[counter].as_u64().unwrap_or(0)
    }

    /// What is said not to be measured of a process, in order.
    pub(crate) fn not_measured(&self, pid: u32) -> Vec<&str> {
        let what = format!("QMP events of QEMU {pid}");
        let told = self.of_kind("not_measured").filter(|event| event["what"] == *what);
        told.map(|event| event["why"].as_str().unwrap()).collect()
    }

    /// Whether a text is anywhere in the log.
    fn mentions(&self, text: &str) -> bool {
        self.events.iter().any(|event| event.to_string().contains(text))
    }
}

/// Every way to write events that is read: whole or in pieces, one or several, spaced as QEMU does.
pub(crate) fn every_shape_of_an_event_is_read(host: &Host) {
    let mut talker = Talker::start(host);
    let pid = talker.pid();
    let recording = record(host, &[&talker]);
    let mut numbers = 0..;
    let mut next = || numbers.next().unwrap();
    let reply = "{\"return\": {\"secret\": 1}}\r\n";

    talker.write(&[&event(next(), 0)]);
    // Two in one write.
    talker.write(&[&(event(next(), 0) + &event(next(), 0))]);
    // In pieces, of which the first is shorter than what tells an event, and some are empty.
    for splits in [[1, 9], [5, 40], [14, 15]] {
        let text = event(next(), 100);
        talker.write(&[&text[..splits[0]], "", &text[splits[0]..splits[1]], &text[splits[1]..]]);
    }
    // Each piece as long as the verifier must believe it to be.
    let (long, longer) = (event(next(), 1_900), event(next(), 1_900));
    talker.write(&[&long, &longer]);
    talker.write(&[&event(next(), 3_000)]);
    talker.write(&[&pretty(next())]);
    talker.write(&[&pretty(next()), &pretty(next())]);
    // As a `pretty` monitor writes: line by line, and replies likewise.
    for _ in 0..3 {
        for line in pretty(next()).split_inclusive('\n') {
            talker.write(&[line]);
        }
        for line in ["{\r\n", "    \"return\": {\r\n", "        \"secret\": 1\r\n", "    }\r\n", "}\r\n"] {
            talker.write(&[line]);
        }
    }
    // A reply, alone and between events.
    talker.write(&[reply]);
    talker.write(&[&(event(next(), 0) + reply + &event(next(), 0))]);
    let sound = next();

    // From here on something is missing from each: what precedes it is still read.
    talker.write(&[&(event(sound, 0) + &event(7_000, 5_000))]);
    let text = event(next(), 0);
    talker.write(&[&text, "{", "\"timestamp\"", ": ", "{}}"]);
    talker.write(&[&(event(next(), 0) + "garbage\r\n" + &event(next(), 0))]);
    // A write that begins otherwise is not looked at.
    talker.write(&[&(reply.to_owned() + &event(8_000, 0))]);
    let last = next();
    talker.write(&[&event(last, 0)]);

    let heard = talker.finish();
    talker.end();
    assert_eq!(heard.matches("MIGRATION_PASS").count() as u64, last + 1 + 2, "{heard}");
    let found = Heard::of(recording);
    assert_eq!(found.numbers(pid), (0..=last).collect::<Vec<_>>());
    assert_eq!(found.lost("qmp_lines"), 3);
    assert_eq!((found.lost("ring_buffer"), found.lost("hook_calls")), (0, 0));
    assert!(!found.mentions("secret"));
    let told = found.not_measured(pid);
    assert_eq!(told.last(), Some(&"3 of its lines were too long or no QMP in all"), "{told:?}");
}

/// A process that writes without pause, beside one that writes as a QEMU does.
pub(crate) fn a_flood_is_counted_and_leaves_room_for_the_others(host: &Host, flooded: u64) {
    const QUIET: u64 = 200;
    let (mut flood, mut quiet) = (Talker::start(host), Talker::start(host));
    let (flooding, quietly) = (flood.pid(), quiet.pid());
    let recording = record(host, &[&flood, &quiet]);
    flood.repeat(&event(NUMBER, 0), flooded, Duration::ZERO);
    quiet.repeat(&event(NUMBER, 0), QUIET, Duration::from_millis(10));
    quiet.finish();
    flood.finish();
    flood.end();
    let found = Heard::of(recording);
    quiet.end();

    let skipped = found.lost("hook_calls");
    assert_eq!(found.lost("ring_buffer"), 0);
    let others = found.numbers(quietly);
    assert_eq!(others, (0..QUIET).collect::<Vec<_>>(), "and {skipped} were skipped");
    let read = found.numbers(flooding);
    assert!(read.is_sorted_by(|a, b| a < b), "{read:?}");
    // The whole burst at least, in order and from the first.
    assert_eq!(read[..1_000], (0..1_000).collect::<Vec<_>>());
    let dropped = found.lost("qmp_lines");
    let told = found.not_measured(flooding);
    let in_all = format!(": {dropped} lines were dropped in all");
    assert!(told.last().is_some_and(|why| why.ends_with(&in_all)), "{dropped}: {told:?}");
    assert!(dropped > flooded / 2, "{dropped}");
    assert_eq!(found.not_measured(quietly), [""; 0]);
    let known = read.len() as u64 + dropped;
    assert!(known <= flooded && known + skipped >= flooded, "{} + {dropped}, {skipped} skipped", read.len());
}

/// The memory that a QEMU sends is its guest's: what looks like events there is none, but a monitor may be a TCP connection.
pub(crate) fn events_on_a_connection_of_a_migration_are_none(host: &Host) {
    let (mut monitor, mut migration) =
        (Talker::start_at_port(host, 4444), Talker::start_at_port(host, 49152));
    let (told, forged) = (monitor.pid(), migration.pid());
    let recording = record(host, &[&monitor, &migration]);
    for talker in [&mut monitor, &mut migration] {
        talker.write(&[&event(0, 0)]);
        for line in pretty(1).split_inclusive('\n') {
            talker.write(&[line]);
        }
    }
    assert_eq!(monitor.finish(), migration.finish());
    let found = Heard::of(recording);
    monitor.end();
    migration.end();
    assert_eq!((found.numbers(told), found.numbers(forged)), (vec![0, 1], vec![]));
}

/// Lines that nobody reads in time fill a ring of their own: connections that are opened meanwhile are still seen.
pub(crate) fn lines_push_no_other_messages_out(lab: &Lab) {
    // As many as the budget of each has at once; together more than there is room for.
    const LINES: u64 = 900;
    let mut talkers = [(); 5].map(|()| Talker::start(lab.source()));
    let recording = record(lab.source(), &talkers.each_ref());
    recording.signal(Signal::SIGSTOP).unwrap();
    let pids = talkers.each_ref().map(Talker::pid);
    for talker in &mut talkers {
        talker.repeat(&event(NUMBER, 0), LINES, Duration::ZERO);
    }
    for talker in &mut talkers {
        talker.finish();
    }
    // More of them than the gap behind the last line has room for, if there were only one ring.
    let mut ends = BTreeSet::new();
    for _ in 0..20 {
        let connection = Connection::open(lab.source(), lab.destination(), false, 49152, 64 << 10).unwrap();
        ends.insert(connection.local().unwrap().to_string());
        connection.close().unwrap();
    }
    recording.signal(Signal::SIGCONT).unwrap();
    let found = Heard::of(recording);
    talkers.into_iter().for_each(Talker::end);
    let read: u64 = pids.iter().map(|pid| found.numbers(*pid).len() as u64).sum();
    let lost = pids.len() as u64 * LINES - read;
    assert!(lost > 0);
    assert_eq!(found.lost("ring_buffer"), lost, "something else than lines was lost");
    let seen = found.of_kind("flow_seen").map(|seen| seen["flow"]["local"].as_str().unwrap().to_owned());
    assert_eq!(seen.collect::<BTreeSet<_>>(), ends);
}
