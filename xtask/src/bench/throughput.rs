//! How much slower a stream is while a tool watches it, and what the tool itself uses.

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

/// Measures without, with the first tool, without, with the second, without, and so on.
pub(crate) fn measure(lab: &Lab, receiver: &Receiver, tools: &[Tool], rounds: u32) -> Result<Throughput> {
    let mut alone = vec![stream(lab, receiver, None)?];
    let mut with: Vec<Vec<(Sample, f64)>> = tools.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (tool, samples) in tools.iter().zip(&mut with) {
            let watched = stream(lab, receiver, Some(tool))
                .with_context(|| format!("with {}", tool.name(Purpose::Cost)))?;
            let after = stream(lab, receiver, None)?;
            let before = alone.last().map_or(after.bits_per_s, |sample| sample.bits_per_s);
            let ratio = watched.bits_per_s / ((before + after.bits_per_s) / 2.0);
            samples.push((watched, ratio));
            alone.push(after);
        }
    }
    let rows = tools.iter().zip(&with).map(|(tool, samples)| {
        let each = |value: fn(&Sample) -> f64| Spread::of(samples.iter().map(|(sample, _)| value(sample)));
        Row {
            tool: tool.name(Purpose::Cost),
            bits_per_s: each(|sample| sample.bits_per_s),
            ratio: Spread::of(samples.iter().map(|(_, ratio)| *ratio)),
            cores: each(|sample| sample.cores),
            peak_memory_bytes: samples.iter().map(|(s, _)| s.peak_memory_bytes).max().unwrap_or_default(),
        }
    });
    let rows = rows.collect();
    let alone_bits_per_s = Spread::of(alone.iter().map(|sample| sample.bits_per_s));
    Ok(Throughput { alone_bits_per_s, rows })
}

fn stream(lab: &Lab, receiver: &Receiver, tool: Option<&Tool>) -> Result<Sample> {
    let directory = tempfile::tempdir().context("cannot make a directory for a record")?;
    let mut sender = Sender::start(lab.source(), receiver.address())?;
    let tool = tool.map(|tool| tool.start(lab.source(), Purpose::Cost, directory.path())).transpose()?;
    sender.go()?;
    let connection = receiver.accept()?;
    thread::sleep(WARM_UP);
    let read = || -> Result<(Instant, u64, Duration)> {
        let cpu_time = tool.as_ref().map_or(Ok(Duration::ZERO), Running::cpu_time)?;
        Ok((Instant::now(), connection.bytes(), cpu_time))
    };
    let (started, bytes_before, cpu_before) = read()?;
    thread::sleep(MEASURED);
    let (ended, bytes_after, cpu_after) = read()?;
    let peak_memory_bytes = tool.as_ref().map_or(Ok(0), Running::peak_memory_bytes)?;
    sender.stop()?;
    connection.finish()?;
    if let Some(tool) = tool {
        tool.finish(receiver.address().ip())?;
    }
    sender.quit()?;
    let seconds = (ended - started).as_secs_f64();
    Ok(Sample {
        bits_per_s: (bytes_after - bytes_before) as f64 * 8.0 / seconds,
        cores: (cpu_after - cpu_before).as_secs_f64() / seconds,
        peak_memory_bytes,
    })
}
