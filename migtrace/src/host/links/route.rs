//! Which interface packets leave through.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::table::context;
use crate::host::netlink::Connection;

/// Index of the interface through which packets to `remote` leave. For one of this host's own addresses, that is the
/// loopback device.
///
/// # Errors
/// There is no route, or it leads nowhere (blackhole, prohibit); or the netlink socket's.
pub(crate) fn route_interface(remote: IpAddr) -> io::Result<u32> {
    let remote = remote.to_canonical();
    let mut question = RouteMessage::default();
    (question.header.address_family, question.header.destination_prefix_length) = match remote {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    question.attributes.push(RouteAttribute::Destination(remote.into()));
    let no_route = |error: io::Error| context(&format!("no route to {remote}"), &error);
    let answer =
        Connection::open(NETLINK_ROUTE)?.ask(RouteNetlinkMessage::GetRoute(question)).map_err(no_route)?;
    let RouteNetlinkMessage::NewRoute(route) = answer else {
        return Err(no_route(io::Error::new(io::ErrorKind::InvalidData, "unexpected answer")));
    };
    if !matches!(route.header.kind, RouteType::Unicast | RouteType::Local) {
        let kind = format!("the route is of type {:?}", route.header.kind);
        return Err(no_route(io::Error::new(io::ErrorKind::NetworkUnreachable, kind)));
    }
    route
        .attributes
        .iter()
        .find_map(|attribute| if let RouteAttribute::Oif(index) = attribute { Some(*index) } else { None })
        .ok_or_else(|| {
            no_route(io::Error::new(io::ErrorKind::NetworkUnreachable, "the route has no interface"))
        })
}
