//! The eBPF filters of the clsact qdisc: lists, adds and removes them, and hears of changes.
//!
//! Other filters are read only as far as they have to be told apart: hosts have kinds and attributes of them that no
//! parser knows, and none of these may hide ours.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable as _, NLM_F_CREATE, NLM_F_EXCL, NetlinkDeserializable, NetlinkHeader,
    NetlinkPayload, NetlinkSerializable, NlasIterator,
};
use netlink_packet_route::tc::{TcHandle, TcHeader};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::Connection;

/// Attributes of a filter, and of the options of one of kind `bpf` (include/uapi/linux/pkt_cls.h).
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_CHAIN: u16 = 11;
const TCA_BPF_FD: u16 = 6;
const TCA_BPF_NAME: u16 = 7;
const TCA_BPF_FLAGS: u16 = 8;
/// The program's result is what becomes of the packet.
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
/// Messages that begin as those of filters do: of qdiscs, classes, filters and chains (include/uapi/linux/rtnetlink.h).
const TC_MESSAGES: [std::ops::RangeInclusive<u16>; 2] = [36..=46, 100..=102];
const BYTES_OF_HEADER: usize = 20;
/// Two parts of a handle, and of a filter's priority and protocol.
const MAJOR_BITS: u32 = 16;
const EVERY_PROTOCOL: u16 = (libc::ETH_P_ALL as u16).to_be();

/// Which way packets go that a filter sees.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// They come in through the interface.
    Ingress,
    /// They go out through it.
    Egress,
}

impl Way {
    /// Where filters hang: the clsact qdisc's `TC_H_MIN_INGRESS` or `TC_H_MIN_EGRESS`.
    fn parent(self) -> TcHandle {
        TcHandle::from(match self {
            Self::Ingress => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        })
    }
}

/// Where filters are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Place {
    /// Index of the interface.
    pub(crate) interface: u32,
    pub(crate) way: Way,
}

/// A filter of kind `bpf`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Filter {
    pub(crate) place: Place,
    /// Filters of smaller ones run first.
    pub(crate) priority: u16,
    protocol: u16,
    handle: u32,
    /// What it was called when it was added.
    pub(crate) name: String,
}

/// Asks the kernel for filters of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Filters(Connection);

impl Filters {
    /// # Errors
    /// The netlink socket's.
    pub(crate) fn open() -> io::Result<Self> {
        Connection::open(NETLINK_ROUTE).map(Self)
    }

    /// The eBPF filters at a place in the order in which they run, or those of one priority only. None where there is
    /// no clsact qdisc, or no interface.
    ///
    /// # Errors
    /// The netlink socket's.
    pub(crate) fn list(&mut self, place: Place, priority: Option<u16>) -> io::Result<Vec<Filter>> {
        let header = header(place, 0, priority.unwrap_or(0), 0);
        let question = Message { kind: libc::RTM_GETTFILTER, header, attributes: Vec::new() };
        let answers = self.0.dump(&question)?;
        Ok(answers.into_iter().filter_map(|answer| answer.filter(place)).collect())
    }

    /// Adds a filter that runs before the others of its priority.
    ///
    /// # Errors
    /// `EINVAL` when the priority is that of filters of another kind or protocol; `ENOENT` without a clsact qdisc; what
    /// else the kernel refuses.
    pub(crate) fn add(
        &mut self,
        place: Place,
        priority: u16,
        name: &str,
        program: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let options = bytes(&[
            DefaultNla::new(TCA_BPF_FD, program.as_raw_fd().to_ne_bytes().to_vec()),
            DefaultNla::new(TCA_BPF_NAME, text(name)),
            DefaultNla::new(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes().to_vec()),
        ]);
        let attributes =
            bytes(&[DefaultNla::new(TCA_KIND, text("bpf")), DefaultNla::new(TCA_OPTIONS, options)]);
        let header = header(place, 0, priority, EVERY_PROTOCOL);
        let change = Message { kind: libc::RTM_NEWTFILTER, header, attributes };
        self.0.change(change, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes a filter. That it is gone already is no error.
    ///
    /// # Errors
    /// What the kernel refuses, and the netlink socket's.
    pub(crate) fn remove(&mut self, filter: &Filter) -> io::Result<()> {
        let Filter { place, priority, protocol, handle, .. } = *filter;
        let header = header(place, handle, priority, protocol);
        let change = Message { kind: libc::RTM_DELTFILTER, header, attributes: Vec::new() };
        match self.0.change(change, 0) {
            // With the last filter of its priority the priority goes, with the qdisc all of them.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)) =>
            {
                Ok(())
            }
            other => other,
        }
    }
}

/// The interfaces at which something of traffic control has changed.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Touched {
    /// These, by index.
    Some(BTreeSet<u32>),
    /// Nobody knows: there was too much news.
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

/// Hears of every change of traffic control in the namespace in which it was opened.
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

fn header(place: Place, handle: u32, priority: u16, protocol: u16) -> TcHeader {
    TcHeader {
        index: place.interface.cast_signed(),
        handle: TcHandle::from(handle),
        parent: place.way.parent(),
        info: u32::from(priority) << MAJOR_BITS | u32::from(protocol),
        ..TcHeader::default()
    }
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

fn bytes(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut bytes = vec![0; attributes.buffer_len()];
    attributes.emit(&mut bytes);
    bytes
}

/// The value of an attribute; `None` too where the attributes cannot be read that far.
fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let found = NlasIterator::new(attributes).map_while(Result::ok).find(|nla| nla.kind() == kind)?;
    let length = usize::from(found.length());
    // Its header is of four bytes.
    found.into_inner().get(4..length)
}

/// A message of traffic control. What follows its header is read when it is wanted.
#[derive(Clone, Debug)]
struct Message {
    kind: u16,
    header: TcHeader,
    attributes: Vec<u8>,
}

impl Message {
    fn filter(&self, place: Place) -> Option<Filter> {
        let chain = attribute(&self.attributes, TCA_CHAIN).is_none_or(|chain| chain == [0; 4]);
        let is_bpf = attribute(&self.attributes, TCA_KIND)? == b"bpf\0";
        if self.kind != libc::RTM_NEWTFILTER || !chain || !is_bpf {
            return None;
        }
        // The first entry of a priority stands for itself, and has no options.
        let options = attribute(&self.attributes, TCA_OPTIONS)?;
        let name = attribute(options, TCA_BPF_NAME).unwrap_or_default();
        let name = name.strip_suffix(b"\0").unwrap_or(name);
        Some(Filter {
            place,
            priority: (self.header.info >> MAJOR_BITS) as u16,
            protocol: self.header.info as u16,
            handle: self.header.handle.into(),
            name: String::from_utf8_lossy(name).into_owned(),
        })
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        BYTES_OF_HEADER + self.attributes.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, attributes) = buffer.split_at_mut(BYTES_OF_HEADER);
        self.header.emit(header);
        attributes.copy_from_slice(&self.attributes);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(netlink: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let kind = netlink.message_type;
        // Shared actions are told of in the same group, and belong to no interface.
        if !TC_MESSAGES.iter().any(|kinds| kinds.contains(&kind)) {
            return Ok(Self { kind, header: TcHeader::default(), attributes: Vec::new() });
        }
        let header = TcHeader::parse(payload)?;
        Ok(Self { kind, header, attributes: payload.get(BYTES_OF_HEADER..).unwrap_or_default().to_vec() })
    }
}

#[cfg(test)]
mod tests;
