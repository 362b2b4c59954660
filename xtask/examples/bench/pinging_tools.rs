//! The tools that ping a guest: how each is started and ended, and what it reports of the gaps in the replies.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use migtrace::probe::ProbeReport;
use migtrace_lab::{Host, Process};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A tool, and its interval.
#[derive(Clone, Debug)]
pub(crate) enum PingingTool {
    /// The command at this path, every millisecond.
    Migtrace(PathBuf),
    /// Lost replies times this interval.
    Ping(Duration),
    /// The same, with fping.
    Fping(Duration),
}

/// A gap as a tool reports it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ReportedGap {
    /// Where it lies, as well as the tool shows: nanoseconds of the wall clock.
    pub(crate) from_ns: i64,
    pub(crate) until_ns: i64,
    pub(crate) length_ns: u64,
    /// The bounds of the length.
    pub(crate) low_ns: u64,
    pub(crate) high_ns: u64,
}

/// A tool at work; dropping it kills it.
pub(crate) struct Running {
    tool: PingingTool,
    process: Process,
    /// Where its standard output goes.
    output: PathBuf,
}

impl PingingTool {
    /// Its name in a table.
    pub(crate) fn name(&self) -> String {
        let seconds = |interval: &Duration| interval.as_secs_f64();
        match self {
            Self::Migtrace(_) => "migtrace probe --interval 1ms".to_owned(),
            Self::Ping(interval) => format!("ping -i {0}, lost x {0} s", seconds(interval)),
            Self::Fping(interval) => {
                format!("fping -l -p {}, lost x {} s", interval.as_millis(), seconds(interval))
            }
        }
    }

    /// Starts it on `host`; waits until migtrace has sent its first request.
    pub(crate) fn start(&self, host: &Host, target: &str, directory: &Path) -> Result<Running> {
        let output = directory.join(format!("{}.txt", self.name().replace(' ', "-")));
        let mut command = match self {
            Self::Migtrace(path) => {
                let mut command = Command::new(path);
                command.args(["probe", target, "--format", "json"]);
                command
            }
            Self::Ping(interval) => {
                let mut command = Command::new("ping");
                command.args(["-D", "-n", "-i", &interval.as_secs_f64().to_string(), target]);
                command
            }
            Self::Fping(interval) => {
                let mut command = Command::new("fping");
                command.args(["-D", "-l", "-p", &interval.as_millis().to_string(), target]);
                command
            }
        };
        let file = File::create(&output).with_context(|| format!("cannot write to {}", output.display()))?;
        let errors = output.with_extension("errors");
        let errors_file = File::create(&errors)?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors_file);
        let mut process = host.spawn(&mut command)?;
        if matches!(self, Self::Migtrace(_)) {
            let started = Instant::now();
            while !fs::read_to_string(&errors)?.contains("ready: ") {
                if process.try_wait()?.is_some() || started.elapsed() > PATIENCE {
                    bail!("migtrace does not start to ping: {}", fs::read_to_string(&errors)?.trim());
                }
                thread::sleep(POLL_INTERVAL);
            }
        }
        Ok(Running { tool: self.clone(), process, output })
    }
}

impl Running {
    /// Ends it as Ctrl-C does, and returns the gaps that it reports.
    pub(crate) fn finish(mut self) -> Result<Vec<ReportedGap>> {
        let name = self.tool.name();
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(PATIENCE).with_context(|| format!("ending {name}"))?;
        let output =
            fs::read_to_string(&self.output).with_context(|| format!("cannot read the output of {name}"))?;
        Ok(match &self.tool {
            PingingTool::Migtrace(_) => gaps(&serde_json::from_str(&output).context("migtrace's report")?),
            PingingTool::Ping(interval) => lost_times_interval(&replies(&output, ping_reply), *interval),
            PingingTool::Fping(interval) => lost_times_interval(&replies(&output, fping_reply), *interval),
        })
    }
}

fn gaps(report: &ProbeReport) -> Vec<ReportedGap> {
    let gaps = report.streams.iter().flat_map(|stream| &stream.gaps).filter(|gap| gap.is_sure());
    let reported = gaps.filter_map(|gap| {
        let from_ns = report.start.realtime_ns + gap.start.value_ns;
        Some(ReportedGap {
            from_ns,
            until_ns: from_ns.saturating_add_unsigned(gap.length.value_ns),
            length_ns: gap.length.value_ns,
            low_ns: gap.length.low_ns,
            high_ns: gap.length.high_ns?,
        })
    });
    reported.collect()
}

/// A reply: when it came, in nanoseconds of the wall clock, and its number.
type Reply = (i64, u64);

/// The first reply to each request, in the order of the requests.
fn replies(output: &str, parse: fn(&str) -> Option<Reply>) -> Vec<Reply> {
    let mut replies: Vec<_> = output.lines().filter_map(parse).collect();
    replies.sort_by_key(|(at_ns, number)| (*number, *at_ns));
    replies.dedup_by_key(|(_, number)| *number);
    replies
}

/// The common method: n lost replies in a row make a gap of n intervals. It may have begun just before the first lost
/// request or nearly an interval earlier, and ended just after the last one or nearly an interval later.
fn lost_times_interval(replies: &[Reply], interval: Duration) -> Vec<ReportedGap> {
    let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
    let lost = replies.windows(2).filter_map(|pair| {
        let lost = pair[1].1.saturating_sub(pair[0].1).checked_sub(1).filter(|lost| *lost > 0)?;
        let length_ns = lost * interval_ns;
        Some(ReportedGap {
            from_ns: pair[0].0,
            until_ns: pair[1].0,
            length_ns,
            low_ns: length_ns - interval_ns,
            high_ns: length_ns + interval_ns,
        })
    });
    lost.collect()
}

/// `[1795387622.743579] 64 bytes from 127.0.0.1: icmp_seq=1 ttl=64 time=0.031 ms`
fn ping_reply(line: &str) -> Option<Reply> {
    let number = line.split_once("icmp_seq=")?.1.split(' ').next()?.parse().ok()?;
    line.contains(" bytes from ").then_some((stamp_ns(line)?, number))
}

/// `[1795387622.67044] 127.0.0.1 : [0], 64 bytes, 0.047 ms (0.047 avg, 0% loss)`
fn fping_reply(line: &str) -> Option<Reply> {
    let number = line.split_once(": [")?.1.split(']').next()?.parse().ok()?;
    line.contains(" bytes, ").then_some((stamp_ns(line)?, number))
}

/// The seconds in brackets at the start of a line.
fn stamp_ns(line: &str) -> Option<i64> {
    let seconds: f64 = line.strip_prefix('[')?.split(']').next()?.parse().ok()?;
    Some((seconds * 1e9) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_of_ping_is_as_many_intervals_as_replies_were_lost() {
        let output = "PING 10.77.0.1 (10.77.0.1) 56(84) bytes of data.\n\
                    [100.0] 64 bytes from 10.77.0.1: icmp_seq=1 ttl=64 time=0.1 ms\n\
                    [100.2] 64 bytes from 10.77.0.1: icmp_seq=2 ttl=64 time=0.1 ms\n\
                    [101.0] 64 bytes from 10.77.0.1: icmp_seq=6 ttl=64 time=0.1 ms\n\
                    [101.0] 64 bytes from 10.77.0.1: icmp_seq=6 ttl=64 time=0.2 ms (DUP!)\n\
                    [101.2] From 10.77.0.3 icmp_seq=7 Destination Host Unreachable\n";
        let reported = lost_times_interval(&replies(output, ping_reply), Duration::from_millis(200));
        let [gap] = reported[..] else { panic!("{reported:?}") };
        assert_eq!((gap.from_ns, gap.until_ns), (100_200_000_000, 101_000_000_000));
        assert_eq!((gap.length_ns, gap.low_ns, gap.high_ns), (600_000_000, 400_000_000, 800_000_000));
    }

    #[test]
    fn a_request_that_timed_out_is_a_gap_of_fping() {
        let output = "[1.00] 10.77.0.1 : [0], 64 bytes, 0.047 ms (0.047 avg, 0% loss)\n\
                    [1.02] 10.77.0.1 : [1], timed out (0.047 avg, 50% loss)\n\
                    [1.03] 10.77.0.1 : [2], 64 bytes, 0.039 ms (0.043 avg, 33% loss)\n";
        let reported = lost_times_interval(&replies(output, fping_reply), Duration::from_millis(10));
        assert_eq!((reported.len(), reported[0].length_ns, reported[0].low_ns), (1, 10_000_000, 0));
    }
}
