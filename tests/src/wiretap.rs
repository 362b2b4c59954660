//! Counts the TCP frames that cross an interface with a packet socket, which shares neither code nor hook with migtrace.
//!
//! It sees what the device receives from the kernel. With offloads on, these are TCP's buffers of many segments rather than
//! frames; [`Tally::longest_bytes`] shows which.

use crate::host::Host;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, setsockopt, socket, sockopt};
use nix::sys::time::TimeVal;
use std::collections::BTreeMap;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// Room for frames that arrive while this process has no CPU.
const BUFFER_BYTES: usize = 256 << 20;
/// All headers with options and extensions fit; payload is not read.
const SNAP_BYTES: usize = 256;

/// One direction of a connection: sender and receiver. Later IP fragments have no ports, and count for port 0.
pub type Stream = (SocketAddr, SocketAddr);

/// Sums over frames.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// Their number.
    pub frames: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
    /// The bytes after their TCP header, or after the IP headers of later fragments.
    pub payload_bytes: u64,
    /// The length of the longest.
    pub longest_bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64, payload_bytes: u64) {
        self.frames += 1;
        self.bytes += bytes;
        self.payload_bytes += payload_bytes;
        self.longest_bytes = self.longest_bytes.max(bytes);
    }
}

/// What a wiretap has counted.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// TCP frames, for each direction of each connection.
    pub streams: BTreeMap<Stream, Tally>,
    /// All frames, of TCP or not, in both directions.
    pub all: Tally,
}

impl Capture {
    /// What crossed from one end to the other; all zero if nothing did.
    #[must_use]
    pub fn stream(&self, from: SocketAddr, to: SocketAddr) -> Tally {
        self.streams.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Later IP fragments of TCP packets from one host to the other.
    #[must_use]
    pub fn fragments(&self, from: IpAddr, to: IpAddr) -> Tally {
        self.stream(SocketAddr::new(from, 0), SocketAddr::new(to, 0))
    }
}

/// Counts frames until it is stopped.
#[derive(Debug)]
pub struct Wiretap {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Capture>>,
}

impl Wiretap {
    /// Begins to count at `interface` of `host`, in both directions.
    ///
    /// # Errors
    ///
    /// When there is no such interface, or the kernel refuses (not root).
    pub fn start(host: &Host, interface: &str) -> Result<Self> {
        let socket = host
            .enter(|| open(interface))?
            .with_context(|| format!("cannot tap {interface} of {}", host.role()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || watch(&socket, &stopped));
        Ok(Self { stop, thread })
    }

    /// Counts what has crossed until now, and ends.
    ///
    /// # Errors
    ///
    /// When the kernel dropped a frame, or a frame could not be parsed: then the counts are incomplete.
    pub fn stop(self) -> Result<Capture> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the thread that counts has panicked"))?
    }
}

fn open(interface: &str) -> Result<OwnedFd> {
    // Without a protocol it receives nothing until it is bound to one interface.
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES)?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 20_000))?;
    bind(&socket, if_nametoindex(interface)?)?;
    Ok(socket)
}

fn bind(socket: &OwnedFd, index: u32) -> Result<()> {
    // SAFETY: all zero is a value of this structure of integers.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index.cast_signed();
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` has the length that is passed, and outlives the call.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    Errno::result(result).map(drop).context("cannot bind a packet socket")
}

/// How many frames the kernel dropped because the buffer was full.
fn dropped(socket: &OwnedFd) -> Result<u32> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = size_of_val(&statistics) as libc::socklen_t;
    let (level, option) = (libc::SOL_PACKET, libc::PACKET_STATISTICS);
    let value = (&raw mut statistics).cast();
    // SAFETY: `value` has room for `length` bytes, and both live longer than the call.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, value, &raw mut length) };
    Errno::result(result).context("cannot read a packet socket's statistics")?;
    Ok(statistics.tp_drops)
}

fn watch(socket: &OwnedFd, stop: &AtomicBool) -> Result<Capture> {
    let mut capture = Capture::default();
    let mut frame = [0; SNAP_BYTES];
    loop {
        // The flag is read first: frames that are queued when it is set must still be counted.
        let last = stop.load(Ordering::Relaxed);
        let flags = if last { MsgFlags::MSG_TRUNC | MsgFlags::MSG_DONTWAIT } else { MsgFlags::MSG_TRUNC };
        match recv(socket.as_raw_fd(), &mut frame, flags) {
            Ok(length) => count(&mut capture, &frame[..length.min(SNAP_BYTES)], length as u64)?,
            Err(Errno::EAGAIN) if last => break,
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot read from a packet socket"),
        }
    }
    match dropped(socket)? {
        0 => Ok(capture),
        dropped => bail!("the wiretap has missed {dropped} frames after {}", capture.all.frames),
    }
}

fn count(capture: &mut Capture, frame: &[u8], length_bytes: u64) -> Result<()> {
    capture.all.add(length_bytes, 0);
    if let Some((stream, payload_bytes)) = tcp(frame).with_context(|| format!("in the frame {frame:02x?}"))? {
        capture.streams.entry(stream).or_default().add(length_bytes, payload_bytes);
    }
    Ok(())
}

/// The stream and the payload bytes of a TCP frame, according to its IP header. The lab has no VLANs, no tunnels, and no
/// extension headers except for fragments.
fn tcp(frame: &[u8]) -> Result<Option<(Stream, u64)>> {
    let (ethernet, packet) = frame.split_at_checked(14).context("a frame without an Ethernet header")?;
    match u16::from_be_bytes([ethernet[12], ethernet[13]]) {
        0x0800 => tcp_of_ipv4(packet),
        0x86dd => tcp_of_ipv6(packet),
        _ => Ok(None),
    }
}

fn tcp_of_ipv4(packet: &[u8]) -> Result<Option<(Stream, u64)>> {
    ensure!(packet.len() >= 20, "no IPv4 header");
    if packet[9] != 6 {
        return Ok(None);
    }
    let header_bytes = usize::from(packet[0] & 0xf) * 4;
    let total_bytes = u64::from(u16::from_be_bytes([packet[2], packet[3]]));
    let from = Ipv4Addr::from(field::<4>(packet, 12)?);
    let to = Ipv4Addr::from(field::<4>(packet, 16)?);
    let fragment_offset = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff;
    let rest_bytes = total_bytes - header_bytes as u64;
    let segment = (fragment_offset == 0).then(|| &packet[header_bytes..]);
    stream(from.into(), to.into(), segment, rest_bytes).map(Some)
}

fn tcp_of_ipv6(packet: &[u8]) -> Result<Option<(Stream, u64)>> {
    ensure!(packet.len() >= 48, "a truncated IPv6 packet");
    let rest_bytes = u64::from(u16::from_be_bytes([packet[4], packet[5]]));
    let from = Ipv6Addr::from(field::<16>(packet, 8)?);
    let to = Ipv6Addr::from(field::<16>(packet, 24)?);
    match (packet[6], packet[40]) {
        (6, _) => stream(from.into(), to.into(), Some(&packet[40..]), rest_bytes).map(Some),
        (44, 6) => {
            let fragment_offset = u16::from_be_bytes([packet[42], packet[43]]) >> 3;
            let segment = (fragment_offset == 0).then(|| &packet[48..]);
            stream(from.into(), to.into(), segment, rest_bytes - 8).map(Some)
        }
        _ => Ok(None),
    }
}

/// `segment` is the TCP header and what follows it, or none if an earlier fragment has it.
fn stream(from: IpAddr, to: IpAddr, segment: Option<&[u8]>, rest_bytes: u64) -> Result<(Stream, u64)> {
    let Some(segment) = segment else {
        return Ok(((SocketAddr::new(from, 0), SocketAddr::new(to, 0)), rest_bytes));
    };
    ensure!(segment.len() >= 20, "a truncated TCP header");
    let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    let header_bytes = u64::from(segment[12] >> 4) * 4;
    let stream = (SocketAddr::new(from, port(0)), SocketAddr::new(to, port(2)));
    Ok((stream, rest_bytes - header_bytes))
}

fn field<const N: usize>(packet: &[u8], at: usize) -> Result<[u8; N]> {
    Ok(packet.get(at..at + N).context("a truncated header")?.try_into()?)
}
