//! How the lab gives orders to a virtual machine: over one TCP connection for each. Its first line is the order; what follows
//! belongs to it.

use crate::clock::monotonic_ns;
use crate::host::Host;
use anyhow::{Context as _, Result, bail};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where the agent listens.
const PORT: u16 = 4000;
/// The order to answer each byte with what the clocks show.
const CLOCK: &str = "clock";
/// The order to run a command line, with the connection as its input and output.
const RUN: &str = "run ";
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// For one answer: an emulated CPU can be busy for long.
const ANSWER_PATIENCE: Duration = Duration::from_secs(30);

/// Obeys orders until this process is killed.
///
/// # Errors
///
/// When nobody may listen here.
pub fn serve() -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("cannot listen for orders")?;
    for stream in listener.incoming() {
        let stream = stream.context("cannot accept an order")?;
        thread::spawn(move || {
            if let Err(error) = obey(stream) {
                eprintln!("agent: {error:#}");
            }
        });
    }
    Ok(())
}

fn obey(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let order = first_line(&mut stream).context("no order came")?;
    if order == CLOCK {
        return Ok(show_clocks(&mut stream)?);
    }
    let Some(command_line) = order.strip_prefix(RUN) else { bail!("there is no order `{order}`") };
    let [input, output] = [stream.try_clone()?, stream].map(OwnedFd::from);
    // The agent's own standard error is the console.
    let mut shell = Command::new("sh");
    shell.args(["-c", command_line]).stdin(input).stdout(output);
    let status = shell.status().with_context(|| format!("cannot run `{command_line}`"))?;
    if !status.success() {
        eprintln!("agent: `{command_line}` ended with {status}");
    }
    Ok(())
}

/// Reads up to the first newline and not a byte more.
fn first_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        line.extend(byte);
    }
}

fn show_clocks(stream: &mut TcpStream) -> io::Result<()> {
    while stream.read(&mut [0])? > 0 {
        let realtime = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let realtime_ns = u64::try_from(realtime.as_nanos()).unwrap_or(u64::MAX);
        let answer = [monotonic_ns(), realtime_ns].map(u64::to_le_bytes).concat();
        stream.write_all(&answer)?;
    }
    Ok(())
}

/// A connection over which the clocks of a virtual machine are read.
#[derive(Debug)]
pub struct Clock(TcpStream);

/// What the clocks of a virtual machine showed at some instant between two readings of this machine's.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// This machine's `CLOCK_MONOTONIC` before.
    pub asked_ns: i64,
    /// The other's.
    pub showed_ns: i64,
    /// What the other's wall clock showed, in nanoseconds since the epoch.
    pub realtime_ns: i64,
    /// This machine's `CLOCK_MONOTONIC` afterwards.
    pub answered_ns: i64,
}

impl Clock {
    pub(super) fn connect(from: &Host, to: IpAddr) -> Result<Self> {
        Ok(Self(order(from, to, CLOCK)?))
    }

    /// Reads them.
    ///
    /// # Errors
    ///
    /// When the virtual machine does not answer.
    pub fn read(&mut self) -> Result<Reading> {
        let mut answer = [[0; 8]; 2];
        let asked_ns = monotonic_ns();
        self.0.write_all(&[0])?;
        self.0.read_exact(answer.as_flattened_mut()).context("the VM does not say what its clock shows")?;
        let answered_ns = monotonic_ns();
        let [showed_ns, realtime_ns] = answer.map(u64::from_le_bytes);
        let [asked_ns, showed_ns, realtime_ns, answered_ns] =
            [asked_ns, showed_ns, realtime_ns, answered_ns].map(u64::cast_signed);
        Ok(Reading { asked_ns, showed_ns, realtime_ns, answered_ns })
    }
}

/// Runs a command line to its end and returns what it wrote to standard output.
pub(super) fn run(from: &Host, to: IpAddr, command_line: &str) -> Result<String> {
    // The connection ends with the command, so its success is said in words.
    let mut stream = order(from, to, &format!("{RUN}{{ {command_line}; }} </dev/null && echo ok"))?;
    let mut output = String::new();
    stream.read_to_string(&mut output).with_context(|| format!("`{command_line}` has not ended"))?;
    let said = output.strip_suffix("ok\n");
    said.map(str::to_owned).with_context(|| format!("`{command_line}` failed in the VM: {output}"))
}

/// Runs a command line there, with the standard input and output of this process, as ssh does.
///
/// # Errors
///
/// When the virtual machine cannot be reached.
pub fn attach(to: IpAddr, command_line: &str) -> Result<()> {
    let mut stream = connected(to, &format!("{RUN}{command_line}"))?;
    stream.set_read_timeout(None)?;
    let mut input = stream.try_clone()?;
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut input);
        let _ = input.shutdown(Shutdown::Write);
    });
    io::copy(&mut stream, &mut io::stdout()).context("the connection to the VM broke off")?;
    Ok(())
}

fn order(from: &Host, to: IpAddr, order: &str) -> Result<TcpStream> {
    from.enter(|| connected(to, order))?
}

fn connected(to: IpAddr, order: &str) -> Result<TcpStream> {
    let address = SocketAddr::new(to, PORT);
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_PATIENCE)
        .with_context(|| format!("cannot reach the VM at {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
    writeln!(stream, "{order}").context("cannot give an order to the VM")?;
    Ok(stream)
}
