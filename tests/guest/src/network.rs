//! Configures `eth0` by ioctl: addresses, the default route, and up. Other interfaces are only brought up.

use crate::config::Config;
use crate::system::check;
use std::error::Error;
use std::fs;
use std::io;
use std::mem;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

const INTERFACE: &str = "eth0";
const PROBE_PATIENCE: Duration = Duration::from_secs(20);

/// `struct in6_ifreq` of linux/ipv6.h, which libc does not have for this target.
#[repr(C)]
struct Ipv6Request {
    address: libc::in6_addr,
    prefix_length: u32,
    interface_index: libc::c_int,
}

/// Waits for the interfaces and brings them up, `eth0` with the addresses of `config`.
pub(crate) fn configure(config: &Config) -> Result<(), Box<dyn Error>> {
    bring_up("lo").map_err(|error| format!("cannot bring up lo: {error}"))?;
    if config.ip.is_none() && config.ip6.is_none() {
        return Ok(());
    }
    wait_for_interface(INTERFACE)?;
    // Duplicate address detection would keep the address silent for a second.
    for setting in ["accept_dad", "accept_ra"] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{INTERFACE}/{setting}"), "0")?;
    }
    if let Some((address, prefix)) = config.ip {
        set_ipv4(address, prefix).map_err(|error| format!("cannot set {address}/{prefix}: {error}"))?;
    }
    bring_up(INTERFACE).map_err(|error| format!("cannot bring up {INTERFACE}: {error}"))?;
    if let Some((address, prefix)) = config.ip6 {
        set_ipv6(address.octets(), prefix)
            .map_err(|error| format!("cannot set {address}/{prefix}: {error}"))?;
    }
    for interface in (1..config.nics).map(|number| format!("eth{number}")) {
        wait_for_interface(&interface)?;
        bring_up(&interface).map_err(|error| format!("cannot bring up {interface}: {error}"))?;
    }
    if let Some(gateway) = config.gateway {
        set_default_route(gateway).map_err(|error| format!("cannot route through {gateway}: {error}"))?;
    }
    Ok(())
}

/// Drivers probe asynchronously, so a loaded module does not yet mean an interface.
fn wait_for_interface(interface: &str) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    while !Path::new("/sys/class/net").join(interface).exists() {
        if started.elapsed() > PROBE_PATIENCE {
            return Err(format!("no {interface} after {} s", PROBE_PATIENCE.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn set_ipv4(address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut request = request(INTERFACE);
    request.ifr_ifru.ifru_addr = socket_address(address);
    ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR, &request)?;
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
    request.ifr_ifru.ifru_netmask = socket_address(Ipv4Addr::from_bits(mask));
    ioctl(socket.as_raw_fd(), libc::SIOCSIFNETMASK, &request)
}

fn set_ipv6(address: [u8; 16], prefix: u8) -> io::Result<()> {
    let index = fs::read_to_string(format!("/sys/class/net/{INTERFACE}/ifindex"))?;
    let request = Ipv6Request {
        address: libc::in6_addr { s6_addr: address },
        prefix_length: prefix.into(),
        interface_index: index.trim().parse().map_err(io::Error::other)?,
    };
    // The kernel chooses between the two request structures by the family of the socket.
    let socket = UdpSocket::bind("[::]:0")?;
    ioctl(socket.as_raw_fd(), libc::SIOCSIFADDR, &request)
}

fn bring_up(interface: &str) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let mut request = request(interface);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request)
}

fn set_default_route(gateway: Ipv4Addr) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: a C structure of integers and pointers, for which all zero is a value.
    let mut route: libc::rtentry = unsafe { mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    ioctl(socket.as_raw_fd(), libc::SIOCADDRT, &route)
}

fn request(interface: &str) -> libc::ifreq {
    // SAFETY: a C structure and unions of integers and a pointer, for which all zero is a value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last byte stays zero: it ends the C string.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(interface.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

fn ioctl<T>(socket: RawFd, request: libc::Ioctl, argument: &T) -> io::Result<()> {
    // SAFETY: each caller passes the structure that its request reads; none of these requests writes.
    check(unsafe { libc::ioctl(socket, request, std::ptr::from_ref(argument)) })
}
