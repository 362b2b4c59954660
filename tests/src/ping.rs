//! Pings a guest from inside a network namespace.

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Between two requests.
const INTERVAL: Duration = Duration::from_millis(100);

/// The differences between ICMP and ICMPv6.
struct Protocol {
    family: AddressFamily,
    number: SockProtocol,
    request: u8,
    reply: u8,
}

const ICMP: Protocol =
    Protocol { family: AddressFamily::Inet, number: SockProtocol::Icmp, request: 8, reply: 0 };
const ICMPV6: Protocol =
    Protocol { family: AddressFamily::Inet6, number: SockProtocol::IcmpV6, request: 128, reply: 129 };

/// Sends echo requests to `address` from the calling thread's namespace until one is answered, and returns its round-trip
/// time.
///
/// # Errors
///
/// When there is no answer within `patience`, or the socket cannot be made (not root).
pub(crate) fn ping(address: IpAddr, patience: Duration) -> Result<Duration> {
    static NEXT_ID: AtomicU16 = AtomicU16::new(1);
    let protocol = if address.is_ipv4() { ICMP } else { ICMPV6 };
    let socket = socket(protocol.family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol.number)
        .context("cannot open a raw socket")?;
    // The standard library's calls for datagram sockets work on a raw socket too.
    let socket = UdpSocket::from(socket);
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let started = Instant::now();
    for sequence in 1_u16.. {
        let sequence = sequence.to_be_bytes();
        let mut request = [protocol.request, 0, 0, 0, id[0], id[1], sequence[0], sequence[1]];
        if address.is_ipv4() {
            // The kernel fills in the checksum of ICMPv6, but not that of ICMP.
            let checksum = checksum(&request).to_be_bytes();
            request[2..4].copy_from_slice(&checksum);
        }
        let sent = Instant::now();
        let deadline = sent + INTERVAL;
        // This may fail while the neighbour is not resolved yet.
        let _ = socket.send_to(&request, SocketAddr::new(address, 0));
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            socket.set_read_timeout(Some(left))?;
            let mut buffer = [0; 512];
            let (length, from) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // An ICMP error for an earlier request.
                Err(_) => {
                    std::thread::sleep(left);
                    break;
                }
            };
            let reply = icmp(&buffer[..length], address.is_ipv4());
            if from.ip() == address && reply.is_some_and(|reply| matches(reply, &protocol, id, sequence)) {
                return Ok(sent.elapsed());
            }
        }
        if started.elapsed() > patience {
            break;
        }
    }
    bail!("{address} does not answer ping within {} s", patience.as_secs_f32())
}

/// The ICMP message of a packet. A raw IPv4 socket delivers the IP header too.
fn icmp(packet: &[u8], ipv4: bool) -> Option<&[u8]> {
    let header = if ipv4 { usize::from(packet.first()? & 0xf) * 4 } else { 0 };
    packet.get(header..)
}

fn matches(reply: &[u8], protocol: &Protocol, id: [u8; 2], sequence: [u8; 2]) -> bool {
    reply.first() == Some(&protocol.reply)
        && reply.get(4..8) == Some(&[id[0], id[1], sequence[0], sequence[1]])
}

/// The internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_message_with_its_checksum_is_zero() {
        let mut message = [8, 0, 0, 0, 0x12, 0x34, 0, 7];
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        assert_eq!(checksum(&message), 0);
    }
}
