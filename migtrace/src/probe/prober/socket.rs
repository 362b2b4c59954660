//! The socket that echo requests leave through.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

use nix::errno::Errno;
use nix::sys::socket::sockopt::{BindToDevice, RcvBuf};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage, getsockname,
    getsockopt, setsockopt, socket,
};
use nix::{getsockopt_impl, sockopt_impl};

use super::error::host;
use super::{ProbeError, ProbeOptions};
use crate::kernel::echo::EchoKernel;

sockopt_impl!(
    /// The kernel's unique number of a socket.
    Cookie, GetOnly, libc::SOL_SOCKET, libc::SO_COOKIE, u64
);

const HEADER_BYTES: usize = 8;
/// RFC 792.
const ICMP_ECHO_REQUEST: u8 = 8;
/// RFC 4443.
const ICMPV6_ECHO_REQUEST: u8 = 128;

/// Sends echo requests to one address. Only the kernel programs look at replies; the socket drops them.
#[derive(Debug)]
pub(super) struct EchoSocket {
    // The standard library's calls work on every IP socket.
    socket: UdpSocket,
    is_ipv4: bool,
    identifier: u16,
    message: Vec<u8>,
}

impl EchoSocket {
    /// A socket for requests with `data_bytes` after the ICMP header. A raw socket where that is allowed;
    /// otherwise an ICMP ("ping") socket, whose identifier the kernel chooses.
    fn open(target: IpAddr, identifier: u16, data_bytes: u16, interface: Option<&str>) -> io::Result<Self> {
        let is_ipv4 = target.is_ipv4();
        let (family, protocol) = if is_ipv4 {
            (AddressFamily::Inet, SockProtocol::Icmp)
        } else {
            (AddressFamily::Inet6, SockProtocol::IcmpV6)
        };
        let open = |kind| socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol);
        let (socket, is_raw) = match open(SockType::Raw) {
            Ok(socket) => (socket, true),
            Err(Errno::EPERM) => (open(SockType::Datagram).map_err(|_| Errno::EPERM)?, false),
            Err(error) => return Err(error.into()),
        };
        // Nobody reads this socket: a reply that does not fit is dropped at once.
        setsockopt(&socket, RcvBuf, &0)?;
        if let Some(interface) = interface {
            setsockopt(&socket, BindToDevice, &interface.into())?;
        }
        let socket = UdpSocket::from(socket);
        socket.connect(SocketAddr::new(target, 0))?;
        let identifier = if is_raw { identifier } else { bound_identifier(&socket)? };
        let message = message(is_ipv4, identifier, data_bytes);
        Ok(Self { socket, is_ipv4, identifier, message })
    }

    /// The identifier of its requests.
    pub(super) const fn identifier(&self) -> u16 {
        self.identifier
    }

    /// The kernel's unique number of the socket, which the kernel programs see too.
    pub(super) fn cookie(&self) -> io::Result<u64> {
        Ok(getsockopt(&self.socket, Cookie)?)
    }

    /// Sends a request.
    pub(super) fn send(&mut self, sequence: u16) -> io::Result<()> {
        self.message[6..8].copy_from_slice(&sequence.to_be_bytes());
        if self.is_ipv4 {
            self.message[2..4].fill(0);
            let checksum = checksum(&self.message).to_be_bytes();
            self.message[2..4].copy_from_slice(&checksum);
        }
        self.socket.send(&self.message).map(drop)
    }
}

/// Opens the socket for what `options` ask for.
pub(super) fn open_socket(options: &ProbeOptions, identifier: u16) -> Result<EchoSocket, ProbeError> {
    EchoSocket::open(options.target, identifier, options.data_bytes, options.interface.as_deref())
        .map_err(host("open a socket for ICMP echo requests (this needs CAP_NET_RAW)"))
}

/// Follows what this socket sends, and nothing else.
pub(super) fn follow(kernel: &mut EchoKernel, target: IpAddr, socket: &EchoSocket) -> Result<(), ProbeError> {
    let cookie = socket.cookie().map_err(host("read the cookie of the socket"))?;
    Ok(kernel.follow(target, Some(socket.identifier()), Some(cookie))?)
}

/// The identifier of an ICMP socket is its local port.
fn bound_identifier(socket: &UdpSocket) -> io::Result<u16> {
    let address: SockaddrStorage = getsockname(socket.as_raw_fd())?;
    let port = address.as_sockaddr_in().map(SockaddrIn::port);
    port.or_else(|| address.as_sockaddr_in6().map(SockaddrIn6::port))
        .ok_or_else(|| io::Error::other("the ICMP socket has no identifier"))
}

/// A request without sequence number and checksum (the kernel fills in that of ICMPv6).
fn message(is_ipv4: bool, identifier: u16, data_bytes: u16) -> Vec<u8> {
    let mut message = vec![0; HEADER_BYTES + usize::from(data_bytes)];
    message[0] = if is_ipv4 { ICMP_ECHO_REQUEST } else { ICMPV6_ECHO_REQUEST };
    message[4..6].copy_from_slice(&identifier.to_be_bytes());
    for (byte, letter) in message[HEADER_BYTES..].iter_mut().zip(b"migtrace".iter().cycle()) {
        *byte = *letter;
    }
    message
}

/// The internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_over_a_complete_message_is_zero() {
        for data_bytes in [0, 1, 16, 1473] {
            let mut message = message(true, 0x1234, data_bytes);
            let sum = checksum(&message).to_be_bytes();
            message[2..4].copy_from_slice(&sum);
            assert_eq!(checksum(&message), 0, "{data_bytes}");
        }
    }

    #[test]
    fn a_request_has_its_type_identifier_and_size() {
        assert_eq!(message(true, 0x1234, 3), [8, 0, 0, 0, 0x12, 0x34, 0, 0, b'm', b'i', b'g']);
        assert_eq!(message(false, 0xffff, 0), [128, 0, 0, 0, 0xff, 0xff, 0, 0]);
    }
}
