//! Counts the TCP frames that cross an interface, one by one, as a witness of its own: a packet socket that shares
//! nothing with migtrace, neither code nor hook.
//!
//! It sees what the device is handed. Put it where real frames pass (offloads off), or it sees what TCP hands down
//! instead: [`Tally::longest_bytes`] tells.

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

/// Room for what arrives while this process has no CPU.
const BUFFER_BYTES: usize = 256 << 20;
/// Headers with every option and extension fit; payload is not looked at.
const SNAP_BYTES: usize = 256;

/// From one end of a connection to the other. The ports of later IP fragments, which carry none, are 0.
pub type Stream = (SocketAddr, SocketAddr);

/// A sum over frames.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Tally {
    /// How many.
    pub frames: u64,
    /// Their bytes, from the Ethernet header on.
    pub bytes: u64,
    /// What follows their TCP header (of later fragments: their IP headers).
    pub payload_bytes: u64,
    /// The longest of them.
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

/// What a wiretap has seen.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// TCP, each direction of each connection.
    pub streams: BTreeMap<Stream, Tally>,
    /// Every frame, of TCP or not, in both directions.
    pub all: Tally,
}

impl Capture {
    /// What crossed from one end to the other; nothing is a tally too.
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

/// Counts until it is stopped.
#[derive(Debug)]
pub struct Wiretap {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Capture>>,
}

impl Wiretap {
    /// Counts at `interface` of `host`, in both directions, from now on.
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
    /// When the kernel had no room for a frame, or a frame was not understood: then no figure is the truth.
    pub fn stop(self) -> Result<Capture> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the thread that counts has panicked"))?
    }
}

fn open(interface: &str) -> Result<OwnedFd> {
    // Without a protocol it receives nothing until it is bound to the one interface.
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
    // SAFETY: `address` is of the length that is said, and lives longer than the call.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    Errno::result(result).map(drop).context("cannot bind a packet socket")
}

/// Frames for which the kernel had no room.
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
        // Read first: what is queued when the flag rises is still to be counted.
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

/// The stream of a TCP frame, and its payload by the account of its IP header. The lab has no VLANs, no tunnels and
/// no extension headers but that of fragments.
fn tcp(frame: &[u8]) -> Result<Option<(Stream, u64)>> {
    let (ethernet, packet) = frame.split_at_checked(14).context("no Ethernet header")?;
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
    ensure!(packet.len() >= 48, "no IPv6 packet");
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

/// `segment`: the TCP header and what follows, unless it is in an earlier fragment.
fn stream(from: IpAddr, to: IpAddr, segment: Option<&[u8]>, rest_bytes: u64) -> Result<(Stream, u64)> {
    let Some(segment) = segment else {
        return Ok(((SocketAddr::new(from, 0), SocketAddr::new(to, 0)), rest_bytes));
    };
    ensure!(segment.len() >= 20, "no TCP header");
    let port = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
    let header_bytes = u64::from(segment[12] >> 4) * 4;
    let stream = (SocketAddr::new(from, port(0)), SocketAddr::new(to, port(2)));
    Ok((stream, rest_bytes - header_bytes))
}

fn field<const N: usize>(packet: &[u8], at: usize) -> Result<[u8; N]> {
    Ok(packet.get(at..at + N).context("cut off")?.try_into()?)
}
