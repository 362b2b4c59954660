//! A TCP connection between two hosts of the lab, with both ends in this process.

use crate::host::Host;
use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

/// The content of the stream repeats at this length, which no segment has.
const PATTERN_BYTES: usize = 65521;
/// A transfer without progress for this long is taken to hang.
const PATIENCE: Duration = Duration::from_secs(30);
/// TIME_WAIT in /proc/net/tcp: nothing is in flight any more.
const TIME_WAIT: &str = "06";

/// Both ends of a connection.
#[derive(Debug)]
pub struct Connection {
    /// The end that connected.
    pub client: TcpStream,
    /// The end that accepted.
    pub server: TcpStream,
    hosts: [Host; 2],
}

impl Connection {
    /// Connects `from` to `port` of `to`.
    ///
    /// The kernel drops frames when more than 1000 of them (`net.core.netdev_max_backlog`) wait for a busy CPU. `window_bytes`
    /// limits what is in flight to less, so that only the test decides what is lost.
    ///
    /// # Errors
    ///
    /// When the port is taken, or the hosts do not reach each other.
    pub fn open(from: &Host, to: &Host, ipv6: bool, port: u16, window_bytes: usize) -> Result<Self> {
        let address: IpAddr = if ipv6 { to.ipv6().into() } else { to.ipv4().into() };
        let address = SocketAddr::new(address, port);
        let context = || format!("cannot connect {} to {address}", from.role());
        let listener = to.enter(|| TcpListener::bind(address))?.with_context(context)?;
        // This comes before the connection opens, because the scale of its window depends on it.
        setsockopt(&listener, sockopt::RcvBuf, &window_bytes)?;
        let client = from.enter(|| TcpStream::connect_timeout(&address, PATIENCE))?.with_context(context)?;
        setsockopt(&client, sockopt::RcvBuf, &window_bytes)?;
        let (server, _) = listener.accept().with_context(context)?;
        for end in [&client, &server] {
            end.set_read_timeout(Some(PATIENCE))?;
            end.set_write_timeout(Some(PATIENCE))?;
        }
        Ok(Self { client, server, hosts: [from.clone(), to.clone()] })
    }

    /// The address of the end that connected.
    ///
    /// # Errors
    ///
    /// When the socket has no address any more.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.client.local_addr()?)
    }

    /// The address of the end that has accepted.
    ///
    /// # Errors
    ///
    /// When the socket has no address any more.
    pub fn remote(&self) -> Result<SocketAddr> {
        Ok(self.server.local_addr()?)
    }

    /// Sends `bytes` from the client to the server, in writes of `chunk_bytes`, and checks each byte that arrives.
    ///
    /// # Errors
    ///
    /// When the connection breaks or hangs, or other bytes arrive than were sent.
    pub fn send(&self, bytes: u64, chunk_bytes: usize) -> Result<()> {
        transfer(&self.client, &self.server, bytes, chunk_bytes)
    }

    /// As [`Connection::send`], from the server to the client.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn send_back(&self, bytes: u64, chunk_bytes: usize) -> Result<()> {
        transfer(&self.server, &self.client, bytes, chunk_bytes)
    }

    /// Waits until the server's kernel has acknowledged everything that the client sent.
    ///
    /// # Errors
    ///
    /// When bytes are not acknowledged after half a minute.
    pub fn wait_until_acknowledged(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let mut bytes: libc::c_int = 0;
            // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ, tcp(7)) writes one integer, which outlives the call.
            let result = unsafe { libc::ioctl(self.client.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
            Errno::result(result).context("cannot ask a socket how much is not acknowledged")?;
            if bytes == 0 {
                return Ok(());
            }
            ensure!(started.elapsed() < PATIENCE, "{bytes} bytes are not acknowledged");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Closes both ends in order, and waits until nothing of the connection is in flight.
    ///
    /// # Errors
    ///
    /// When an end does not see the other's close, or unread data is left.
    pub fn close(self) -> Result<()> {
        let (local, remote) = (self.local()?, self.remote()?);
        self.client.shutdown(Shutdown::Write)?;
        read_end(&self.server)?;
        self.server.shutdown(Shutdown::Write)?;
        read_end(&self.client)?;
        let [from, to] = self.hosts;
        drop((self.client, self.server));
        let started = Instant::now();
        while is_alive(&from, local, remote)? || is_alive(&to, remote, local)? {
            ensure!(started.elapsed() < PATIENCE, "the connection {local} - {remote} does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

fn transfer(from: &TcpStream, to: &TcpStream, bytes: u64, chunk_bytes: usize) -> Result<()> {
    let pattern: Vec<u8> = (0..PATTERN_BYTES + chunk_bytes).map(|at| (at % PATTERN_BYTES) as u8).collect();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| write(from, &pattern, bytes, chunk_bytes));
        let read = read(to, &pattern, bytes);
        let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and(read)
    })
}

fn write(mut to: &TcpStream, pattern: &[u8], bytes: u64, chunk_bytes: usize) -> Result<()> {
    let mut written = 0;
    while written < bytes {
        let start = (written % PATTERN_BYTES as u64) as usize;
        let length = chunk_bytes.min((bytes - written).try_into()?);
        to.write_all(&pattern[start..start + length])
            .with_context(|| format!("after {written} of {bytes} bytes"))?;
        written += length as u64;
    }
    Ok(())
}

fn read(mut from: &TcpStream, pattern: &[u8], bytes: u64) -> Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut received = 0;
    while received < bytes {
        let wanted = buffer.len().min((bytes - received).try_into()?);
        let length =
            from.read(&mut buffer[..wanted]).with_context(|| format!("after {received} of {bytes} bytes"))?;
        ensure!(length != 0, "the stream ended after {received} of {bytes} bytes");
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let start = (received % PATTERN_BYTES as u64) as usize;
            let (part, more) = rest.split_at(rest.len().min(PATTERN_BYTES - start));
            ensure!(part == &pattern[start..start + part.len()], "altered bytes from {received} on");
            received += part.len() as u64;
            rest = more;
        }
    }
    Ok(())
}

fn read_end(mut from: &TcpStream) -> Result<()> {
    match from.read(&mut [0]).context("waiting for the end of a stream")? {
        0 => Ok(()),
        _ => bail!("more bytes arrived than were sent"),
    }
}

/// Whether a host's end of a connection may still send, or waits for an answer.
fn is_alive(host: &Host, here: SocketAddr, there: SocketAddr) -> Result<bool> {
    let table = if here.is_ipv4() { "tcp" } else { "tcp6" };
    // /proc/net would be that of the process's first thread.
    let path = format!("/proc/thread-self/net/{table}");
    let sockets = match host.enter(|| fs::read_to_string(&path))? {
        // A kernel without IPv6.
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        sockets => sockets.with_context(|| format!("cannot read {path}"))?,
    };
    let [here, there] = [here, there].map(|end| format!(":{:04X}", end.port()));
    Ok(sockets.lines().any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields[..], [_, local, remote, state, ..]
            if local.ends_with(&here) && remote.ends_with(&there) && state != TIME_WAIT)
    }))
}
