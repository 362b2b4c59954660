//! How much a tool slows a stream down, how much more CPU time the stream takes, and what the tool itself uses.

use std::iter;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use migtrace_lab::Lab;
use serde::Serialize;

use crate::counting_tools::{Purpose, Running, Tool};
use crate::cpu_time::Machine;
use crate::statistics::Spread;
use crate::traffic::{Receiver, Sender};

/// Until TCP has reached its rate, and migtrace knows the owner of the flow.
const WARM_UP: Duration = Duration::from_millis(300);
const MEASURED: Duration = Duration::from_millis(1500);

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Throughput {
    /// Without any tool.
    pub(crate) alone_bits_per_s: Spread,
    pub(crate) alone_cpu: Cpu,
    pub(crate) rows: Vec<Row>,
}

/// One tool.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) tool: &'static str,
    pub(crate) bits_per_s: Spread,
    /// Throughput with the tool over the mean of the throughputs right before and right after, without it.
    pub(crate) ratio: Spread,
    pub(crate) cpu: Cpu,
    /// CPU time of the sender, the receiver and the tool together, for the same payload, likewise.
    pub(crate) processes_ratio: Spread,
    /// CPU time of the whole machine, likewise.
    pub(crate) machine_ratio: Spread,
    /// CPU time of the tool's process a second.
    pub(crate) cores: Spread,
    pub(crate) peak_memory_bytes: u64,
}

/// CPU time of a stream: nanoseconds for each KiB of its payload.
#[derive(Serialize)]
pub(crate) struct Cpu {
    pub(crate) sender: Spread,
    pub(crate) receiver: Spread,
    pub(crate) tool: Spread,
    /// None where the kernel does not account it. It is in the others too, unless the kernel has
    /// `CONFIG_IRQ_TIME_ACCOUNTING`: then in that of the machine only.
    pub(crate) softirq: Option<Spread>,
    /// Everything that was done on this machine meanwhile.
    pub(crate) machine: Spread,
}

/// One stream.
struct Sample {
    seconds: f64,
    bytes: f64,
    used: Used,
    peak_memory_bytes: u64,
}

/// CPU time.
struct Used {
    sender: Duration,
    receiver: Duration,
    tool: Duration,
    softirq: Duration,
    machine: Duration,
}

impl Sample {
    fn bits_per_s(&self) -> f64 {
        self.bytes * 8.0 / self.seconds
    }

    fn ns_per_kib(&self, of: impl Fn(&Used) -> Duration) -> f64 {
        of(&self.used).as_secs_f64() * 1e9 * 1024.0 / self.bytes
    }

    fn processes(&self) -> f64 {
        self.ns_per_kib(|used| used.sender + used.receiver + used.tool)
    }

    fn machine(&self) -> f64 {
        self.ns_per_kib(|used| used.machine)
    }
}

/// A stream with a tool, and the streams right before and right after, without it.
struct Compared {
    sample: Sample,
    /// Places among the streams without any tool.
    before: usize,
    after: usize,
}

/// The name of a comparison of nothing with nothing: the others are as uncertain as this one differs from 1.
const CONTROL: &str = "nothing, as a tool";

/// Measures without, with nothing for a tool, without, with the first tool, without, with the second, and so on.
pub(crate) fn measure(lab: &Lab, receiver: &Receiver, tools: &[Tool], rounds: u32) -> Result<Throughput> {
    let mut alone = vec![stream(lab, receiver, None)?];
    let tools: Vec<_> = iter::once(None).chain(tools.iter().map(Some)).collect();
    let name = |tool: Option<&Tool>| tool.map_or(CONTROL, |tool| tool.name(Purpose::Cost));
    let mut with: Vec<Vec<Compared>> = tools.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (tool, compared) in tools.iter().zip(&mut with) {
            let sample = stream(lab, receiver, *tool).with_context(|| format!("with {}", name(*tool)))?;
            let after = alone.len();
            compared.push(Compared { sample, before: after - 1, after });
            alone.push(stream(lab, receiver, None)?);
        }
    }
    let all = || with.iter().flatten().map(|compared| &compared.sample).chain(&alone);
    let knows_softirqs = all().any(|sample| !sample.used.softirq.is_zero());
    let rows = tools.iter().zip(&with).map(|(tool, compared)| {
        let samples = || compared.iter().map(|compared| &compared.sample);
        let ratio = |of: fn(&Sample) -> f64| {
            let ratios = compared.iter().map(|Compared { sample, before, after }| {
                of(sample) / ((of(&alone[*before]) + of(&alone[*after])) / 2.0)
            });
            Spread::of(ratios)
        };
        Row {
            tool: name(*tool),
            bits_per_s: Spread::of(samples().map(Sample::bits_per_s)),
            ratio: ratio(Sample::bits_per_s),
            cpu: cpu(samples, knows_softirqs),
            processes_ratio: ratio(Sample::processes),
            machine_ratio: ratio(Sample::machine),
            cores: Spread::of(samples().map(|sample| sample.used.tool.as_secs_f64() / sample.seconds)),
            peak_memory_bytes: samples().map(|sample| sample.peak_memory_bytes).max().unwrap_or_default(),
        }
    });
    let rows = rows.collect();
    Ok(Throughput {
        alone_bits_per_s: Spread::of(alone.iter().map(Sample::bits_per_s)),
        alone_cpu: cpu(|| alone.iter(), knows_softirqs),
        rows,
    })
}

fn cpu<'a, I: Iterator<Item = &'a Sample>>(samples: impl Fn() -> I, knows_softirqs: bool) -> Cpu {
    let spread = |of: fn(&Used) -> Duration| Spread::of(samples().map(|sample| sample.ns_per_kib(of)));
    Cpu {
        sender: spread(|used| used.sender),
        receiver: spread(|used| used.receiver),
        tool: spread(|used| used.tool),
        softirq: knows_softirqs.then(|| spread(|used| used.softirq)),
        machine: spread(|used| used.machine),
    }
}

/// The counters that are read before and after the measured time.
struct Reading {
    at: Instant,
    bytes: u64,
    sender: Duration,
    receiver: Duration,
    tool: Duration,
    machine: Machine,
}

fn stream(lab: &Lab, receiver: &Receiver, tool: Option<&Tool>) -> Result<Sample> {
    let directory = tempfile::tempdir().context("cannot make a directory for a record")?;
    let mut sender = Sender::start(lab.source(), receiver.address())?;
    let tool = tool.map(|tool| tool.start(lab.source(), Purpose::Cost, directory.path())).transpose()?;
    sender.go()?;
    let connection = receiver.accept()?;
    thread::sleep(WARM_UP);
    let read = || -> Result<Reading> {
        Ok(Reading {
            at: Instant::now(),
            bytes: connection.bytes(),
            sender: sender.cpu_time()?,
            receiver: connection.cpu_time()?,
            tool: tool.as_ref().map_or(Ok(Duration::ZERO), Running::cpu_time)?,
            machine: Machine::read()?,
        })
    };
    let before = read()?;
    thread::sleep(MEASURED);
    let after = read()?;
    let peak_memory_bytes = tool.as_ref().map_or(Ok(0), Running::peak_memory_bytes)?;
    sender.stop()?;
    connection.finish()?;
    if let Some(tool) = tool {
        tool.finish(receiver.address().ip())?;
    }
    sender.quit()?;
    Ok(Sample {
        seconds: (after.at - before.at).as_secs_f64(),
        bytes: (after.bytes - before.bytes) as f64,
        used: Used {
            sender: after.sender - before.sender,
            receiver: after.receiver - before.receiver,
            tool: after.tool - before.tool,
            softirq: after.machine.softirq_since(&before.machine),
            machine: after.machine.worked_since(&before.machine),
        },
        peak_memory_bytes,
    })
}
