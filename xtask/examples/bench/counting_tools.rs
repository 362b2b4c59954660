//! The tools that count bytes: how each is started and ended, and how its count is read.

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use migtrace::record::Record;
use migtrace_lab::{Host, Process, process_status};
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::cpu_time;
use crate::traffic::PORT;

/// How long a tool may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// For packets on their way to a tool when the stream has ended: tcpdump lets the kernel buffer them for a second.
const SETTLE: Duration = Duration::from_millis(1500);
/// From when a tool reports its start until it sees packets.
const BEGIN: Duration = Duration::from_millis(300);

/// How much longer than the stream a tool counts that ends after a fixed time.
const COUNTING_MARGIN: Duration = Duration::from_secs(3);

/// A tool that counts the bytes of a migration.
#[derive(Clone, Debug)]
pub(crate) enum Tool {
    /// The command at this path.
    Migtrace(PathBuf),
    Tcpdump,
    Iftop,
}

/// What a tool is started for: which of its figures is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Its cost during a stream.
    Cost,
    /// Its cost while nothing happens.
    Wait,
    /// Its count of a stream that ends within this time.
    Count(Duration),
}

/// The count of a tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counted {
    /// Both directions.
    pub(crate) bytes: u64,
    /// Packets that it reports as missed; `None` if it reports no such number.
    pub(crate) missed_packets: Option<u64>,
}

impl Tool {
    /// Its name in a table.
    pub(crate) fn name(&self, purpose: Purpose) -> &'static str {
        match (self, purpose) {
            (Self::Migtrace(_), _) => "migtrace record",
            (Self::Tcpdump, Purpose::Cost | Purpose::Wait) => "tcpdump -w /dev/null",
            (Self::Tcpdump, Purpose::Count(_)) => "tcpdump -s 128 -w",
            (Self::Iftop, _) => "iftop -t",
        }
    }

    /// Starts it on `host`, and waits until it sees every packet.
    pub(crate) fn start(&self, host: &Host, purpose: Purpose, directory: &Path) -> Result<Running> {
        let filter = format!("tcp port {PORT}");
        let record = directory.join("record.json");
        let interface = Host::BRIDGE;
        let (mut command, ready) = match self {
            Self::Migtrace(path) => {
                let mut command = Command::new(path);
                command.args(["record", "--output"]).arg(&record);
                if purpose != Purpose::Wait {
                    // The sender is this program.
                    let sender = env::current_exe().context("cannot find this program")?;
                    command.args(["--timeout", "60s", "--qemu-binary"]).arg(sender);
                }
                (command, "ready")
            }
            Self::Tcpdump => {
                let mut command = Command::new("tcpdump");
                command.args(["-n", "-i", interface]);
                match purpose {
                    Purpose::Cost | Purpose::Wait => command.args(["-w", "/dev/null"]),
                    // A capture holds no sum, so its packets are added up here: without their payload, which would only
                    // keep both sides busy.
                    Purpose::Count(_) => command.args(["-s", "128", "-U", "-w", "-"]),
                };
                command.arg(&filter);
                (command, "listening on")
            }
            Self::Iftop => {
                let seconds = match purpose {
                    Purpose::Cost | Purpose::Wait => PATIENCE,
                    Purpose::Count(stream) => stream + COUNTING_MARGIN,
                };
                let mut command = Command::new("iftop");
                command.args(["-t", "-n", "-N", "-i", interface]);
                command.args(["-s", &seconds.as_secs().to_string()]);
                (command, "MAC address")
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = host.spawn(&mut command)?;
        let output = process.child().stdout.take().context("no pipe to the tool")?;
        let tool = self.clone();
        let output = thread::spawn(move || tool.read(output));
        let errors = process.child().stderr.take().context("no pipe to the tool")?;
        let errors = Errors::read(errors);
        let mut running =
            Running { tool: self.clone(), purpose, host: host.clone(), process, output, errors, record };
        running.errors.wait_for(ready).with_context(|| format!("{} does not start", self.name(purpose)))?;
        // The other tools report their start a little too early.
        if !matches!(self, Self::Migtrace(_)) {
            thread::sleep(BEGIN);
        }
        Ok(running)
    }

    /// Reads its standard output to the end, and extracts the bytes that it counted.
    fn read(&self, output: impl Read) -> Result<u64> {
        match self {
            Self::Migtrace(_) => Ok(0),
            Self::Tcpdump => sum_of_capture(output),
            Self::Iftop => {
                let mut text = String::new();
                BufReader::new(output).read_to_string(&mut text)?;
                Ok(cumulative(&text).unwrap_or(0))
            }
        }
    }
}

/// A tool at work; dropping it kills it.
pub(crate) struct Running {
    tool: Tool,
    purpose: Purpose,
    host: Host,
    process: Process,
    output: JoinHandle<Result<u64>>,
    errors: Errors,
    record: PathBuf,
}

impl Running {
    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The CPU time that it has used.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        cpu_time::of_process(self.id())
    }

    /// The most memory that it has had resident, in bytes.
    pub(crate) fn peak_memory_bytes(&self) -> Result<u64> {
        Ok(process_status(self.id(), "VmHWM")? << 10)
    }

    /// Ends it after the stream to `peer` has ended.
    pub(crate) fn finish(mut self, peer: IpAddr) -> Result<Counted> {
        match (&self.tool, self.purpose) {
            // It ends by itself.
            (Tool::Migtrace(_), _) => {}
            (Tool::Iftop, Purpose::Count(_)) => self.wake_until_it_ends(peer)?,
            (_, purpose) => {
                if purpose != Purpose::Cost {
                    thread::sleep(SETTLE);
                }
                self.process.signal(Signal::SIGINT)?;
            }
        }
        let name = self.tool.name(self.purpose);
        let status = self.process.wait(PATIENCE)?;
        let errors = self.errors.all();
        if !status.success() {
            bail!("{name} ended with {status}: {}", errors.trim());
        }
        let bytes = self.output.join().map_err(|_| anyhow!("the reader of {name} panicked"))??;
        match self.tool {
            Tool::Migtrace(_) => {
                let text = fs::read(&self.record).context("migtrace left no record")?;
                let record: Record = serde_json::from_slice(&text).context("the record of migtrace")?;
                let total = record.traffic.total.context("the record of migtrace has no traffic")?;
                let bytes = total.tx.wire_bytes + total.rx.wire_bytes;
                Ok(Counted { bytes, missed_packets: Some(record.lost.flows) })
            }
            Tool::Tcpdump => Ok(Counted { bytes, missed_packets: dropped(&errors) }),
            Tool::Iftop => Ok(Counted { bytes, missed_packets: None }),
        }
    }
}

impl Running {
    /// iftop prints its sum when its time has elapsed, and then waits for one more packet before it ends.
    fn wake_until_it_ends(&mut self, peer: IpAddr) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.process.try_wait()?.is_none() && Instant::now() < deadline {
            thread::sleep(COUNTING_MARGIN);
            self.host.ping(peer, PATIENCE)?;
        }
        Ok(())
    }
}

/// The standard error of a tool, line by line as it arrives.
struct Errors {
    lines: mpsc::Receiver<String>,
    text: String,
}

impl Errors {
    fn read(errors: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            BufReader::new(errors).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { lines, text: String::new() }
    }

    fn wait_for(&mut self, word: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = line.contains(word);
                    self.text.push_str(&line);
                    self.text.push('\n');
                    if found {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("it printed only: {}", self.text.trim()),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("it ended, after it printed: {}", self.text.trim())
                }
            }
        }
    }

    /// All of it, after the tool has ended.
    fn all(&mut self) -> String {
        for line in &self.lines {
            self.text.push_str(&line);
            self.text.push('\n');
        }
        std::mem::take(&mut self.text)
    }
}

/// Adds up the original lengths of the packets of a capture (pcap, in this machine's byte order); 0 if there is none.
fn sum_of_capture(capture: impl Read) -> Result<u64> {
    const FILE_HEADER: usize = 24;
    const PACKET_HEADER: usize = 16;
    let mut capture = BufReader::with_capacity(1 << 20, capture);
    let mut header = [0; FILE_HEADER];
    if capture.read_exact(&mut header).is_err() {
        return Ok(0);
    }
    let mut sum = 0;
    let mut header = [0; PACKET_HEADER];
    while capture.read_exact(&mut header).is_ok() {
        let field =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (captured, length) = (field(8), field(12));
        sum += u64::from(length);
        std::io::copy(&mut capture.by_ref().take(captured.into()), &mut std::io::sink())?;
    }
    Ok(sum)
}

/// Adds up lines like "3 packets dropped by kernel" (or by the interface), which tcpdump prints at its end.
fn dropped(errors: &str) -> Option<u64> {
    let count = |line: &str| line.split_once(" packets dropped by ")?.0.trim().parse::<u64>().ok();
    let counts: Vec<_> = errors.lines().filter_map(count).collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}

/// Reads the sum of both directions that iftop prints at its end, in the precision in which it does.
fn cumulative(text: &str) -> Option<u64> {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("Cumulative (sent/received/total):"))?;
    let total = line.split_whitespace().last()?;
    let units = [("GB", 30), ("MB", 20), ("KB", 10), ("B", 0)];
    let (number, shift) = units.iter().find_map(|(unit, shift)| Some((total.strip_suffix(unit)?, *shift)))?;
    let number: f64 = number.parse().ok()?;
    Some((number * f64::from(1_u32 << shift)).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_of_a_capture_counts_whole_packets_even_if_cut() {
        let mut capture = vec![0; 24];
        for (captured, length) in [(4_u32, 1514_u32), (0, 60), (2, 2)] {
            capture.extend([0; 8]);
            capture.extend(captured.to_ne_bytes());
            capture.extend(length.to_ne_bytes());
            capture.extend(vec![0xff; captured as usize]);
        }
        assert_eq!(sum_of_capture(&capture[..]).unwrap(), 1576);
        assert_eq!(sum_of_capture(&[][..]).unwrap(), 0);
    }

    #[test]
    fn dropped_packets_are_those_of_the_kernel_and_of_the_interface() {
        let errors = "10 packets captured\n12 packets received by filter\n2 packets dropped by kernel\n\
                    1 packets dropped by interface\n";
        assert_eq!(dropped(errors), Some(3));
        assert_eq!(dropped("tcpdump: listening on br0\n"), None);
    }

    #[test]
    fn the_sum_of_iftop_is_read_in_its_units() {
        let line = |total: &str| {
            format!("x\nCumulative (sent/received/total):      148B       148B   {total}\n====\n")
        };
        assert_eq!(cumulative(&line("296B")), Some(296));
        assert_eq!(cumulative(&line("1.50KB")), Some(1536));
        assert_eq!(cumulative(&line("3.00GB")), Some(3 << 30));
        assert_eq!(cumulative("nothing"), None);
    }
}
