//! Which interface packets leave through.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::route::RouteType;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::table::context;
use crate::host::netlink::Connection;
use crate::host::route_netlink::{Answer, Question};

/// Index of the interface through which packets to `remote` leave. For one of this host's own addresses, that is the
/// loopback device.
///
/// # Errors
/// There is no route, or it leads nowhere (blackhole, prohibit); or the netlink socket's.
pub(crate) fn route_interface(remote: IpAddr) -> io::Result<u32> {
    let remote = remote.to_canonical();
    let no_route = |error: io::Error| context(&format!("no route to {remote}"), &error);
    let answer = Connection::open(NETLINK_ROUTE)?.ask(Question::route(remote)).map_err(no_route)?;
    let Answer::Route(route) = answer else {
        return Err(no_route(io::Error::new(io::ErrorKind::InvalidData, "unexpected answer")));
    };
    if !matches!(route.header.kind, RouteType::Unicast | RouteType::Local) {
        let kind = format!("the route is of type {:?}", route.header.kind);
        return Err(no_route(io::Error::new(io::ErrorKind::NetworkUnreachable, kind)));
    }
    route.attributes.u32(libc::RTA_OIF).ok_or_else(|| {
        no_route(io::Error::new(io::ErrorKind::NetworkUnreachable, "the route has no interface"))
    })
}
