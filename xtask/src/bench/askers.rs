//! Who asks a guest for echo replies: how each is started and ended, and what it says of the guest's silences.

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
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A tool, and how often it asks.
#[derive(Clone, Debug)]
pub(crate) enum Asker {
    /// The command at this path, every millisecond.
    Migtrace(PathBuf),
    /// Lost pings times their interval.
    Ping(Duration),
    /// The same with fping.
    Fping(Duration),
}

/// A silence as a tool tells it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Told {
    /// When, as far as the tool tells: nanoseconds of the wall clock.
    pub(crate) from_ns: i64,
    pub(crate) until_ns: i64,
    pub(crate) length_ns: u64,
    /// How well the length is known.
    pub(crate) low_ns: u64,
    pub(crate) high_ns: u64,
}

/// A tool at work. It is killed when this goes.
pub(crate) struct Asking {
    asker: Asker,
    process: Process,
    /// What it writes.
    output: PathBuf,
}

impl Asker {
    /// As in a table.
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

    /// Starts it on `host`, and waits until it has asked.
    pub(crate) fn start(&self, host: &Host, target: &str, directory: &Path) -> Result<Asking> {
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
                    bail!("migtrace does not begin to ask: {}", fs::read_to_string(&errors)?.trim());
                }
                thread::sleep(LOOK_EVERY);
            }
        }
        Ok(Asking { asker: self.clone(), process, output })
    }
}

impl Asking {
    /// Ends it as Ctrl-C does; the silences that it tells of.
    pub(crate) fn finish(mut self) -> Result<Vec<Told>> {
        let name = self.asker.name();
        self.process.signal(Signal::SIGINT)?;
        self.process.wait(PATIENCE).with_context(|| format!("ending {name}"))?;
        let said = fs::read_to_string(&self.output).with_context(|| format!("reading what {name} says"))?;
        Ok(match &self.asker {
            Asker::Migtrace(_) => gaps(&serde_json::from_str(&said).context("migtrace's report")?),
            Asker::Ping(interval) => lost_times_interval(&replies(&said, ping_reply), *interval),
            Asker::Fping(interval) => lost_times_interval(&replies(&said, fping_reply), *interval),
        })
    }
}

fn gaps(report: &ProbeReport) -> Vec<Told> {
    let gaps = report.streams.iter().flat_map(|stream| &stream.gaps).filter(|gap| gap.is_sure());
    let told = gaps.filter_map(|gap| {
        let from_ns = report.start.realtime_ns + gap.start.value_ns;
        Some(Told {
            from_ns,
            until_ns: from_ns.saturating_add_unsigned(gap.length.value_ns),
            length_ns: gap.length.value_ns,
            low_ns: gap.length.low_ns,
            high_ns: gap.length.high_ns?,
        })
    });
    told.collect()
}

/// A reply: when it came, on the wall clock in nanoseconds, and its number.
type Reply = (i64, u64);

/// The first reply to each request, in the order of the requests.
fn replies(said: &str, parse: fn(&str) -> Option<Reply>) -> Vec<Reply> {
    let mut replies: Vec<_> = said.lines().filter_map(parse).collect();
    replies.sort_by_key(|(at_ns, number)| (*number, *at_ns));
    replies.dedup_by_key(|(_, number)| *number);
    replies
}

/// The method: so many in a row were lost, so for so many intervals the guest was gone. It may have fallen silent just
/// before the first or nearly an interval earlier, and may have been back just after the last or nearly an interval later.
fn lost_times_interval(replies: &[Reply], interval: Duration) -> Vec<Told> {
    let interval_ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
    let lost = replies.windows(2).filter_map(|pair| {
        let lost = pair[1].1.saturating_sub(pair[0].1).checked_sub(1).filter(|lost| *lost > 0)?;
        let length_ns = lost * interval_ns;
        Some(Told {
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

/// The seconds in brackets that a line begins with.
fn stamp_ns(line: &str) -> Option<i64> {
    let seconds: f64 = line.strip_prefix('[')?.split(']').next()?.parse().ok()?;
    Some((seconds * 1e9) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_pings_are_counted_between_the_replies_around_them() {
        let said = "PING 10.77.0.1 (10.77.0.1) 56(84) bytes of data.\n\
                    [100.0] 64 bytes from 10.77.0.1: icmp_seq=1 ttl=64 time=0.1 ms\n\
                    [100.2] 64 bytes from 10.77.0.1: icmp_seq=2 ttl=64 time=0.1 ms\n\
                    [101.0] 64 bytes from 10.77.0.1: icmp_seq=6 ttl=64 time=0.1 ms\n\
                    [101.0] 64 bytes from 10.77.0.1: icmp_seq=6 ttl=64 time=0.2 ms (DUP!)\n\
                    [101.2] From 10.77.0.3 icmp_seq=7 Destination Host Unreachable\n";
        let told = lost_times_interval(&replies(said, ping_reply), Duration::from_millis(200));
        let [silence] = told[..] else { panic!("{told:?}") };
        assert_eq!((silence.from_ns, silence.until_ns), (100_200_000_000, 101_000_000_000));
        assert_eq!(
            (silence.length_ns, silence.low_ns, silence.high_ns),
            (600_000_000, 400_000_000, 800_000_000)
        );
    }

    #[test]
    fn fping_numbers_from_zero_and_says_what_timed_out() {
        let said = "[1.00] 10.77.0.1 : [0], 64 bytes, 0.047 ms (0.047 avg, 0% loss)\n\
                    [1.02] 10.77.0.1 : [1], timed out (0.047 avg, 50% loss)\n\
                    [1.03] 10.77.0.1 : [2], 64 bytes, 0.039 ms (0.043 avg, 33% loss)\n";
        let told = lost_times_interval(&replies(said, fping_reply), Duration::from_millis(10));
        assert_eq!((told.len(), told[0].length_ns, told[0].low_ns), (1, 10_000_000, 0));
    }
}
