//! Load on a lab's hosts and on the link between them, by processes that end with the lab.

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use migtrace_lab::{CpuLoad, Host, Lab};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The service that throws away what it receives (RFC 863). It is none of a migration's ports.
const DISCARD_PORT: u16 = 9;
/// How much is sent at once.
const CHUNK_BYTES: usize = 64 << 10;
/// A link that was full for longer than this is not made up for.
const LONGEST_DEBT: Duration = Duration::from_millis(100);

/// A load, in the process that makes it. It goes on until the process is killed.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Load {
    /// Keep all CPUs of the machine busy
    Cpus {
        /// This share of each, in percent
        percent: u8,
    },
    /// Receive what another sends, and throw it away
    Receive,
    /// Send at a steady rate
    Send {
        /// Where another receives
        to: Ipv4Addr,
        /// Payload, without headers
        rate: Rate,
    },
}

impl Load {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Cpus { percent } => {
                let _load = CpuLoad::share(*percent)?;
                report_begin()?;
                loop {
                    std::thread::park();
                }
            }
            Self::Receive => receive(),
            Self::Send { to, rate } => send(*to, *rate),
        }
    }

    /// Starts it on a host of a lab, and waits until it has begun. It ends with the lab.
    fn start(&self, host: &Host) -> Result<()> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.arg("load");
        match self {
            Self::Cpus { percent } => command.args(["cpus", &percent.to_string()]),
            Self::Receive => command.arg("receive"),
            Self::Send { to, rate } => command.args(["send", &to.to_string(), &rate.to_string()]),
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // It outlives this process, whose standard error may be a pipe for which somebody waits.
        let log = tempfile::tempfile().context("cannot make a file for errors")?;
        command.stderr(log.try_clone()?);
        let mut child = host.spawn_lasting(&mut command)?;
        let stdout = child.stdout.take().context("standard output is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.is_empty() {
            bail!("a load did not begin: {}", text_of(log)?.trim());
        }
        Ok(())
    }
}

/// Starts the loads of a lab.
pub(crate) fn start(lab: &Lab, cpu_percent: u8, network: Option<Rate>) -> Result<()> {
    if cpu_percent > 0 {
        // Both hosts are this machine, so one process is enough. It is on the switch, where no guest's is.
        Load::Cpus { percent: cpu_percent }.start(lab.switch())?;
    }
    if let Some(rate) = network {
        Load::Receive.start(lab.destination())?;
        Load::Send { to: lab.destination().ipv4(), rate }.start(lab.source())?;
    }
    Ok(())
}

/// Tells [`Load::start`] that the load has begun.
fn report_begin() -> Result<()> {
    println!("begun");
    io::stdout().flush().context("cannot write to standard output")
}

fn text_of(mut file: File) -> Result<String> {
    io::Seek::rewind(&mut file)?;
    io::read_to_string(file).context("cannot read what a load wrote")
}

fn receive() -> Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, DISCARD_PORT)))
        .context("cannot listen for a load")?;
    report_begin()?;
    let (mut stream, _) = listener.accept()?;
    io::copy(&mut stream, &mut io::sink())?;
    bail!("the sender of the load has ended")
}

fn send(to: Ipv4Addr, rate: Rate) -> Result<()> {
    let mut stream = TcpStream::connect((to, DISCARD_PORT)).context("cannot reach the receiver of a load")?;
    let chunk = vec![0x5a; CHUNK_BYTES];
    let interval = Duration::from_secs_f64(CHUNK_BYTES as f64 / rate.bytes_per_s());
    report_begin()?;
    let mut due = Instant::now();
    loop {
        stream.write_all(&chunk).context("cannot send a load")?;
        due = (due + interval).max(Instant::now().checked_sub(LONGEST_DEBT).unwrap_or(due));
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}

/// A rate as tc writes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    bits_per_s: u64,
}

impl Rate {
    const UNITS: [(&str, u64); 4] =
        [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];

    fn bytes_per_s(self) -> f64 {
        self.bits_per_s as f64 / 8.0
    }
}

impl FromStr for Rate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = Self::UNITS.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, bits)));
        let number = parts.and_then(|(number, unit)| number.parse::<u64>().ok()?.checked_mul(*unit));
        match number {
            Some(bits_per_s) if bits_per_s > 0 => Ok(Self { bits_per_s }),
            _ => bail!("a rate is a number and bit, kbit, mbit or gbit: 400mbit"),
        }
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}bit", self.bits_per_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_tc_writes_it() {
        let bits = |text: &str| text.parse::<Rate>().map(|rate| rate.bits_per_s).ok();
        assert_eq!(bits("400mbit"), Some(400_000_000));
        assert_eq!(bits("1gbit"), Some(1_000_000_000));
        assert_eq!(bits("9bit"), Some(9));
        for text in ["400", "mbit", "0mbit", "-1mbit", "1.5gbit", "99999999999gbit"] {
            assert_eq!(bits(text), None, "{text}");
        }
        assert_eq!(bits(&"20mbit".parse::<Rate>().unwrap().to_string()), Some(20_000_000));
    }
}
