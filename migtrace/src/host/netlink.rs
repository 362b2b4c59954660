//! Requests to the kernel over a netlink socket of the calling thread's network namespace.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// Larger than any datagram of the kernel: dumps come in pieces of at most 32 KiB.
const RECEIVE_BYTES: usize = 64 << 10;

/// How often a dump is tried, since the table may change while the kernel walks it.
const DUMP_ATTEMPTS: usize = 5;

/// A netlink socket. It stays in the namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    sequence: u32,
    receive: Vec<u8>,
}

impl Connection {
    /// Opens a socket of the given netlink protocol (`NETLINK_ROUTE`, `NETLINK_SOCK_DIAG`).
    pub(super) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0, receive: Vec::with_capacity(RECEIVE_BYTES) })
    }

    /// Opens a socket that only listens to a multicast group and never blocks.
    pub(super) fn listen(protocol: isize, group: u32) -> io::Result<Self> {
        let connection = Self::open(protocol)?;
        connection.socket.add_membership(group)?;
        connection.socket.set_non_blocking(true)?;
        Ok(connection)
    }

    /// The answer to a question about one object.
    ///
    /// # Errors
    /// The kernel's error number (`ENOENT`, `ENETUNREACH`, ...), or `InvalidData` when the answer cannot be read.
    pub(super) fn ask<Q, A>(&mut self, question: Q) -> io::Result<A>
    where
        Q: NetlinkSerializable,
        A: NetlinkDeserializable,
    {
        self.send(question, NLM_F_REQUEST)?;
        loop {
            for message in self.receive()? {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => return Ok(answer),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    other => return Err(unexpected(&other)),
                }
            }
        }
    }

    /// Requests a change with these flags (`NLM_F_CREATE`, ...), and returns when it is made.
    ///
    /// # Errors
    /// The kernel's error number, or `InvalidData` when the answer cannot be read.
    pub(super) fn change<T>(&mut self, change: T, flags: u16) -> io::Result<()>
    where
        T: NetlinkSerializable + NetlinkDeserializable,
    {
        self.send(change, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        loop {
            for message in self.receive::<T>()? {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Error(answer) if answer.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    other => return Err(unexpected(&other)),
                }
            }
        }
    }

    /// The whole table that a question is about.
    ///
    /// # Errors
    /// The kernel's error number; `Interrupted` when the table kept changing; `InvalidData` when it cannot be read.
    pub(super) fn dump<Q, A>(&mut self, question: &Q) -> io::Result<Vec<A>>
    where
        Q: NetlinkSerializable + Clone,
        A: NetlinkDeserializable,
    {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(table) = self.try_dump(question.clone())? {
                return Ok(table);
            }
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            format!("the kernel's table changed during each of {DUMP_ATTEMPTS} readings"),
        ))
    }

    /// One reading of a table, `None` when the table changed meanwhile and the reading may have holes.
    fn try_dump<A>(&mut self, question: impl NetlinkSerializable) -> io::Result<Option<Vec<A>>>
    where
        A: NetlinkDeserializable,
    {
        self.send(question, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut table = Vec::new();
        let mut consistent = true;
        loop {
            for message in self.receive()? {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(entry) => table.push(entry),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => return Ok(consistent.then_some(table)),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    other => return Err(unexpected(&other)),
                }
            }
        }
    }

    fn send<T>(&mut self, question: T, flags: u16) -> io::Result<()>
    where
        T: NetlinkSerializable,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// The messages of the next datagram.
    ///
    /// # Errors
    /// `WouldBlock` on a listening socket when there is no message; `ENOBUFS` when messages were dropped.
    pub(super) fn receive<T>(&mut self) -> io::Result<Vec<NetlinkMessage<T>>>
    where
        T: NetlinkDeserializable,
    {
        self.receive.clear();
        let length = loop {
            match self.socket.recv(&mut self.receive, libc::MSG_TRUNC) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        let datagram = self.receive.get(..length).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a netlink message of {length} bytes is longer than the buffer"),
            )
        })?;
        messages(datagram)
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn messages<T: NetlinkDeserializable>(mut datagram: &[u8]) -> io::Result<Vec<NetlinkMessage<T>>> {
    let mut messages = Vec::new();
    while !datagram.is_empty() {
        let message = NetlinkMessage::<T>::deserialize(datagram).map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("cannot read the kernel's netlink message: {error}"),
            )
        })?;
        // Messages start at multiples of four bytes; the last one need not be padded.
        let length = (message.header.length as usize).next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
        messages.push(message);
    }
    Ok(messages)
}

fn unexpected<T>(payload: &NetlinkPayload<T>) -> io::Error {
    let what = match payload {
        NetlinkPayload::Done(_) => "the end of a table",
        NetlinkPayload::Error(_) => "a verdict",
        NetlinkPayload::Noop => "nothing",
        NetlinkPayload::Overrun(_) => "an overrun",
        NetlinkPayload::InnerMessage(_) => "a message",
        _ => "something unknown",
    };
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected netlink answer: {what}"))
}
