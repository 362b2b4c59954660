//! The tables of costs.

use std::fmt;
use std::thread;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::bytes;
use crate::idle::{Idle, Memory};
use crate::line_of;
use crate::packets::Packets;
use crate::statistics::Spread;
use crate::throughput::{Cpu, Throughput};

/// The budget of migtrace.
const LEAST_RATIO: f64 = 0.98;
const MOST_CORES: f64 = 0.01;
const MOST_MEMORY_MIB: f64 = 32.0;
/// Its budget while it waits.
const MOST_IDLE_CORES: f64 = 0.0005;
/// Likewise while it sleeps.
const MOST_ASLEEP_CORES: f64 = 0.0002;
const MOST_IDLE_MEMORY_MIB: f64 = 20.0;

/// Where it was measured.
#[derive(Serialize)]
pub(crate) struct Machine {
    kernel: String,
    cpus: usize,
    /// The load average of the minute before the start: other work of this machine.
    load: String,
}

impl Machine {
    /// Reads this machine, now.
    pub(crate) fn read() -> Result<Self> {
        Ok(Self {
            kernel: line_of("/proc/sys/kernel/osrelease")?,
            cpus: thread::available_parallelism()?.get(),
            load: line_of("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, cpus, load } = self;
        write!(f, "Linux {kernel}, {cpus} CPUs, load average at the start {load}.")
    }
}

/// Everything that was measured.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) packets: Packets,
    pub(crate) idle: Idle,
    pub(crate) throughput: Throughput,
    pub(crate) bytes: Vec<bytes::Row>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(
            f,
            "Each figure is a median; the middle half of the measurements lies in the range after it."
        )?;
        self.packets(f)?;
        self.idle(f)?;
        self.throughput(f)?;
        self.cpu(f)?;
        self.bytes(f)
    }
}

impl Report {
    fn packets(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Packets { empty_ns, rows, passed, messages } = &self.packets;
        writeln!(f, "\nOne packet, over a program that does nothing ({}):\n", nanoseconds(empty_ns))?;
        let mut table = table(["packet", "more", "ratio", "budget", "aim"]);
        for row in rows {
            let over = row.over_empty_ns;
            let verdict = if over.median <= row.budget.most_ns { "" } else { " (over budget)" };
            table.add_row([
                row.packet.to_owned(),
                format!("{:+.1} ns ({:+.1} to {:+.1}){verdict}", over.median, over.low, over.high),
                format!("{:.2}", row.ratio.median),
                format!("{:+.0} ns", row.budget.most_ns),
                format!("{:+.0} ns", row.budget.aim_ns),
            ]);
        }
        writeln!(f, "{table}\n")?;
        writeln!(f, "Messages to user space: {messages} for {passed} packets.")
    }

    fn idle(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nmigtrace record while a QEMU runs and nothing happens:\n")?;
        let Idle { cores_at_first, cores, memory, asleep_cores, asleep_memory } = &self.idle;
        let Memory { resident, anonymous, rings, files } = memory;
        let mut table = table(["while it waits", "used"]);
        let share = |cores: &f64| format!("{:.3} % of a core", cores * 100.0);
        let size = |bytes: &u64| format!("{:.1} MiB", mebibytes(*bytes));
        table.add_row(["CPU in the first minute after a QEMU started".to_owned(), share(cores_at_first)]);
        table.add_row(["CPU after that".to_owned(), share(cores)]);
        table.add_row(["memory".to_owned(), size(resident)]);
        table.add_row(["- its own".to_owned(), size(anonymous)]);
        table.add_row(["- the ring buffers, each page mapped twice".to_owned(), size(rings)]);
        table.add_row(["- the program and its libraries, as far as loaded".to_owned(), size(files)]);
        writeln!(f, "{table}\n")?;
        writeln!(
            f,
            "Budget: at most {} % of a core after the first minute, and {MOST_IDLE_MEMORY_MIB} MiB.",
            MOST_IDLE_CORES * 100.0
        )?;
        writeln!(
            f,
            "\nmigtrace watch during a sleep: {:.4} % of a core, {} ({} its own). Budget: {} % of a core.",
            asleep_cores * 100.0,
            size(&asleep_memory.resident),
            size(&asleep_memory.anonymous),
            MOST_ASLEEP_CORES * 100.0
        )
    }

    fn throughput(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nOne TCP stream at full rate, each tool compared with the streams before and after it:\n"
        )?;
        let mut table = table(["with", "throughput", "with / without", "CPU of the tool", "its memory"]);
        let Throughput { alone_bits_per_s, rows, .. } = &self.throughput;
        let none = String::new;
        table.add_row(["nothing".to_owned(), gigabits(alone_bits_per_s), none(), none(), none()]);
        for row in rows {
            let is_tool = row.peak_memory_bytes > 0;
            table.add_row([
                row.tool.to_owned(),
                gigabits(&row.bits_per_s),
                times(&row.ratio),
                if is_tool { format!("{:.2} % of a core", row.cores.median * 100.0) } else { none() },
                if is_tool { format!("{:.1} MiB", mebibytes(row.peak_memory_bytes)) } else { none() },
            ]);
        }
        writeln!(f, "{table}\n")?;
        writeln!(
            f,
            "Budget of migtrace: at least {LEAST_RATIO} of the throughput, at most {} % of a core and \
             {MOST_MEMORY_MIB} MiB.",
            MOST_CORES * 100.0
        )
    }

    fn cpu(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nCPU time of the same streams, in nanoseconds per KiB of payload. Processes: the sender, the receiver \
             and the tool.\n"
        )?;
        let mut table = table([
            "with",
            "sender",
            "receiver",
            "tool",
            "softirqs",
            "machine",
            "processes, with / without",
            "machine, with / without",
        ]);
        let Throughput { alone_cpu, rows, .. } = &self.throughput;
        let median = |spread: &Spread| format!("{:.0}", spread.median);
        let row = |name: &str, cpu: &Cpu, is_tool: bool, ratios: [String; 2]| {
            let Cpu { sender, receiver, tool, softirq, machine } = cpu;
            let tool = if is_tool { format!("{:.1}", tool.median) } else { String::new() };
            let softirq = softirq.as_ref().map_or_else(|| "unknown".to_owned(), median);
            let [processes_ratio, machine_ratio] = ratios;
            let name = name.to_owned();
            [
                name,
                median(sender),
                median(receiver),
                tool,
                softirq,
                median(machine),
                processes_ratio,
                machine_ratio,
            ]
        };
        table.add_row(row("nothing", alone_cpu, false, Default::default()));
        for of in rows {
            let ratios = [times(&of.processes_ratio), times(&of.machine_ratio)];
            table.add_row(row(of.tool, &of.cpu, of.peak_memory_bytes > 0, ratios));
        }
        writeln!(f, "{table}\n")?;
        writeln!(
            f,
            "The other columns include softirqs and interrupts (with CONFIG_IRQ_TIME_ACCOUNTING=y only the column of the machine)."
        )
    }

    fn bytes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nBytes on the wire, compared with what the receiver saw of the same stream:\n")?;
        let mut table = table(["counted by", "bytes", "receiver", "error", "packets it missed"]);
        for row in &self.bytes {
            let exact = row.counted.bytes == row.true_bytes;
            table.add_row([
                row.tool.to_owned(),
                row.counted.bytes.to_string(),
                row.true_bytes.to_string(),
                if exact { "0".to_owned() } else { format!("{:+.4} %", row.error * 100.0) },
                row.counted.missed_packets.map_or("not reported".to_owned(), |missed| missed.to_string()),
            ]);
        }
        writeln!(f, "{table}")
    }
}

/// A table for the terminal that is Markdown too.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn nanoseconds(spread: &Spread) -> String {
    format!("{:.1} ns, {:.1} to {:.1}", spread.median, spread.low, spread.high)
}

fn times(Spread { median, low, high }: &Spread) -> String {
    format!("{median:.3} ({low:.3} to {high:.3})")
}

fn gigabits(spread: &Spread) -> String {
    format!("{:.1} Gbit/s ({:.1} to {:.1})", spread.median / 1e9, spread.low / 1e9, spread.high / 1e9)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
