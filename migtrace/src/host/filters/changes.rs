//! Listens for changes of traffic control.

use std::collections::BTreeSet;
use std::io;

use netlink_packet_core::NetlinkPayload;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::message::Message;
use crate::host::netlink::Connection;

/// The interfaces whose traffic control has changed.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Touched {
    /// These, by index.
    Some(BTreeSet<u32>),
    /// Any of them: there were too many changes to keep.
    Any,
}

impl Touched {
    pub(crate) fn contains(&self, interface: u32) -> bool {
        match self {
            Self::Some(interfaces) => interfaces.contains(&interface),
            Self::Any => true,
        }
    }
}

/// Receives every change of traffic control in the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct News(Connection);

impl News {
    /// # Errors
    /// The netlink socket's.
    pub(crate) fn listen() -> io::Result<Self> {
        Connection::listen(NETLINK_ROUTE, libc::RTNLGRP_TC).map(Self)
    }

    /// Where something has changed since the last call. Does not wait.
    ///
    /// # Errors
    /// The netlink socket's.
    pub(crate) fn touched(&mut self) -> io::Result<Touched> {
        let mut touched = BTreeSet::new();
        loop {
            match self.0.receive::<Message>() {
                Ok(messages) => {
                    touched.extend(messages.into_iter().filter_map(|message| match message.payload {
                        NetlinkPayload::InnerMessage(message) => Some(message.header.index.cast_unsigned()),
                        _ => None,
                    }));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Touched::Some(touched)),
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOBUFS)
                        || error.kind() == io::ErrorKind::InvalidData =>
                {
                    return Ok(Touched::Any);
                }
                Err(error) => return Err(error),
            }
        }
    }
}
