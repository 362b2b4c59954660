//! The interface at which an address is watched.

use std::io;
use std::net::IpAddr;

use super::ProbeError;
use super::error::host;
use crate::host::links;

/// The kernel's `ARPHRD_ETHER`.
const ETHERNET: u16 = 1;

/// The interface at which to watch.
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) index: u32,
}

/// Finds the interface: the requested one, or the one of the route to `target`.
pub(super) fn find(target: IpAddr, requested: Option<&str>) -> Result<Interface, ProbeError> {
    let all = links::list().map_err(host("list the network interfaces"))?;
    let link = match requested {
        Some(name) => {
            all.iter().find(|link| link.name == name).ok_or_else(|| ProbeError::NoSuchInterface {
                name: name.into(),
                present: all.iter().map(|link| link.name.clone()).collect(),
            })?
        }
        None => {
            let index = links::route_interface(target).map_err(host("find the route to the address"))?;
            all.iter().find(|link| link.index == index).ok_or_else(|| {
                let vanished = io::Error::new(io::ErrorKind::NotFound, "its interface has vanished");
                host("find the route to the address")(vanished)
            })?
        }
    };
    let unfit = |why| Err(ProbeError::Unfit { target, interface: link.name.clone(), why });
    if link.loopback {
        return unfit(
            "it is an address of this host itself; probe from another host, or from another namespace",
        );
    }
    if link.hardware_type != ETHERNET {
        return unfit(
            "its packets have no Ethernet header; name the Ethernet device below it with --interface",
        );
    }
    Ok(Interface { name: link.name.clone(), index: link.index })
}
