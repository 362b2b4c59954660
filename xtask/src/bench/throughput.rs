//! How much slower a stream is while a tool watches it, and what the tool itself uses.

use std::iter;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lab::Lab;
use serde::Serialize;

use crate::statistics::Spread;
use crate::tools::{Purpose, Running, Tool};
use crate::traffic::{Receiver, Sender};

/// Until TCP has found its rate, and migtrace the owner of the flow.
const WARM_UP: Duration = Duration::from_millis(300);
const MEASURED: Duration = Duration::from_millis(1500);

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Throughput {
    /// Without any tool.
    pub(crate) alone_bits_per_s: Spread,
    pub(crate) rows: Vec<Row>,
}

/// One tool.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) tool: &'static str,
    pub(crate) bits_per_s: Spread,
    /// Throughput with the tool over the mean of the throughputs right before and right after, without it.
    pub(crate) ratio: Spread,
    /// CPU time of the tool's process a second.
    pub(crate) cores: Spread,
    pub(crate) peak_memory_bytes: u64,
}

/// One stream.
struct Sample {
    bits_per_s: f64,
    cores: f64,
    peak_memory_bytes: u64,
}

/// What a comparison of nothing with nothing is called: how far it is from 1 is how far to trust the others.
const CONTROL: &str = "nothing, as a tool";

/// Measures without, with nothing for a tool, without, with the first tool, without, with the second, and so on.
pub(crate) fn measure(lab: &Lab, receiver: &Receiver, tools: &[Tool], rounds: u32) -> Result<Throughput> {
    let mut alone = vec![stream(lab, receiver, None)?];
    let tools: Vec<_> = iter::once(None).chain(tools.iter().map(Some)).collect();
    let name = |tool: Option<&Tool>| tool.map_or(CONTROL, |tool| tool.name(Purpose::Cost));
    let mut with: Vec<Vec<(Sample, f64)>> = tools.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (tool, compared) in tools.iter().zip(&mut with) {
            let sample = stream(lab, receiver, *tool).with_context(|| format!("with {}", name(*tool)))?;
            let after = stream(lab, receiver, None)?;
            let before = alone.last().unwrap_or(&after).bits_per_s;
            let ratio = sample.bits_per_s / ((before + after.bits_per_s) / 2.0);
            compared.push((sample, ratio));
            alone.push(after);
        }
    }
    let rows = tools.iter().zip(&with).map(|(tool, compared)| {
        let spread = |of: fn(&Sample) -> f64| Spread::of(compared.iter().map(|(sample, _)| of(sample)));
        let peaks = compared.iter().map(|(sample, _)| sample.peak_memory_bytes);
        Row {
            tool: name(*tool),
            bits_per_s: spread(|sample| sample.bits_per_s),
            ratio: Spread::of(compared.iter().map(|(_, ratio)| *ratio)),
            cores: spread(|sample| sample.cores),
            peak_memory_bytes: peaks.max().unwrap_or_default(),
        }
    });
    let rows = rows.collect();
    let alone_bits_per_s = Spread::of(alone.iter().map(|sample| sample.bits_per_s));
    Ok(Throughput { alone_bits_per_s, rows })
}

/// What is read before and after the time that is measured.
struct Reading {
    at: Instant,
    bytes: u64,
    /// Of the tool.
    cpu_time: Duration,
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
            cpu_time: tool.as_ref().map_or(Ok(Duration::ZERO), Running::cpu_time)?,
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
    let seconds = (after.at - before.at).as_secs_f64();
    let bytes = (after.bytes - before.bytes) as f64;
    Ok(Sample {
        bits_per_s: bytes * 8.0 / seconds,
        cores: (after.cpu_time - before.cpu_time).as_secs_f64() / seconds,
        peak_memory_bytes,
    })
}
