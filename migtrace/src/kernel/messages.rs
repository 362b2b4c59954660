//! What the kernel programs put into the ring buffer, decoded.

use std::net::{IpAddr, Ipv6Addr};

use bytes::Buf;
use migtrace_ebpf::abi::{self, EGRESS, FlowEntry, FlowKey, INGRESS, kind, part};
use migtrace_ebpf::qmp_write::Part;

use super::flows::{FirstPacket, flow_of};

use crate::event::{Announcement, Crossed, Vcpus};
use crate::units::{Counters, Directions, Flow, MonotonicNs};

/// One message of a kernel program.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    /// The program's stamp.
    pub(crate) at_ns: MonotonicNs,
    /// What it says.
    pub(crate) body: Body,
}

/// A connection, and which of those that its ends have had.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Opened {
    pub(crate) flow: Flow,
    /// As in [`FlowState`](super::FlowState).
    pub(crate) opened_ns: MonotonicNs,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    /// A flow is open, from its first packet on.
    FlowSeen { flow: Opened, first: FirstPacket },
    /// A process uses a flow's socket.
    FlowOwned { flow: Opened, pid: u32, by_user_space: bool, crossed: Crossed },
    /// The first payload of a flow in one direction.
    FlowPayload { flow: Opened, first_bytes: u32 },
    /// A flow is over: a new connection between the same ends has taken its place in the table.
    FlowReplaced { key: FlowKey, entry: Box<FlowEntry> },
    /// What a process writes to its monitor of a QMP event.
    QmpLine { pid: u32, part: Part, write: QmpWrite },
    /// A vCPU enters KVM after none of its VM was in it.
    GuestRun { pid: u32, vcpus: Vcpus },
    /// That run was none, or (not `certain`) may have been none.
    GuestRunVoid { pid: u32, entered_ns: MonotonicNs, certain: bool },
    /// A process reads the log of dirtied pages.
    DirtyLog { pid: u32, sums: Directions<Counters> },
    /// The awaited frame of a guest.
    GuestFrame { ifindex: u32 },
    /// An announcement of where a guest is.
    Announcement { ifindex: u32, kind: Announcement },
    /// A process that may be a QEMU, or was one, has become another program.
    ProcessExec { pid: u32 },
    /// A process that may be a QEMU has forked this one.
    ProcessFork { pid: u32 },
    /// A traced process has ended.
    ProcessExit { pid: u32 },
}

/// A write to a monitor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QmpWrite {
    /// The sum over the process' flows, as far as it was read.
    pub(crate) sums: Option<Directions<Counters>>,
    /// None when none of its vCPUs was seen.
    pub(crate) vcpus: Option<Vcpus>,
    /// What was written, as far as it was copied.
    pub(crate) bytes: Vec<u8>,
    /// Whether it was longer.
    pub(crate) cut: bool,
}

impl Message {
    /// Decodes one record; `None` for a kind or a size that no program of ours writes.
    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.remaining() < size_of::<abi::Header>() {
            return None;
        }
        let at_ns = MonotonicNs(bytes.get_u64_ne());
        let kind = bytes.get_u32_ne();
        let pid = bytes.get_u32_ne();
        let body = match kind {
            kind::PROCESS_EXEC => Body::ProcessExec { pid },
            kind::PROCESS_FORK => Body::ProcessFork { pid },
            kind::PROCESS_EXIT => Body::ProcessExit { pid },
            kind::FLOW_SEEN | kind::FLOW_PAYLOAD => flow(kind, bytes)?,
            kind::FLOW_OWNED => flow_owned(pid, bytes)?,
            kind::FLOW_REPLACED => flow_replaced(bytes)?,
            kind::QMP_LINE => qmp_line(pid, bytes)?,
            kind::GUEST_RUN if bytes.remaining() >= size_of::<abi::Vcpus>() => {
                Body::GuestRun { pid, vcpus: vcpus(&mut bytes) }
            }
            kind::GUEST_RUN_VOID if bytes.remaining() >= 16 => Body::GuestRunVoid {
                pid,
                entered_ns: MonotonicNs(bytes.get_u64_ne()),
                certain: bytes.get_u64_ne() != 0,
            },
            kind::DIRTY_LOG if bytes.remaining() >= size_of::<abi::Sums>() => {
                Body::DirtyLog { pid, sums: sums(&mut bytes) }
            }
            kind::GUEST_FRAME | kind::ANNOUNCEMENT if bytes.remaining() >= 8 => {
                let ifindex = bytes.get_u32_ne();
                match (kind, announcement(bytes.get_u32_ne())) {
                    (kind::GUEST_FRAME, _) => Body::GuestFrame { ifindex },
                    (_, Some(kind)) => Body::Announcement { ifindex, kind },
                    (_, None) => return None,
                }
            }
            _ => return None,
        };
        Some(Self { at_ns, body })
    }
}

fn flow(kind: u32, mut bytes: &[u8]) -> Option<Body> {
    if bytes.remaining() < size_of::<abi::FlowEvent>() - size_of::<abi::Header>() {
        return None;
    }
    let key = flow_key(&mut bytes);
    let ifindex = bytes.get_u32_ne();
    let flow = Opened { flow: flow_of(&key), opened_ns: MonotonicNs(bytes.get_u64_ne()) };
    let first = FirstPacket { at_ns: MonotonicNs(bytes.get_u64_ne()), ifindex };
    let first_bytes = bytes.get_u32_ne();
    Some(match kind {
        kind::FLOW_SEEN => Body::FlowSeen { flow, first },
        _ => Body::FlowPayload { flow, first_bytes },
    })
}

fn flow_owned(pid: u32, mut bytes: &[u8]) -> Option<Body> {
    if bytes.remaining() < size_of::<abi::FlowOwned>() - size_of::<abi::Header>() {
        return None;
    }
    let key = flow_key(&mut bytes);
    let by_user_space = bytes.get_u32_ne() != 0;
    let flow = Opened { flow: flow_of(&key), opened_ns: MonotonicNs(bytes.get_u64_ne()) };
    let crossed = Crossed { counters: sums(&mut bytes), last_ns: MonotonicNs(bytes.get_u64_ne()) };
    Some(Body::FlowOwned { flow, pid, by_user_space, crossed })
}

fn flow_replaced(mut bytes: &[u8]) -> Option<Body> {
    if bytes.remaining() < size_of::<abi::FlowReplaced>() - size_of::<abi::Header>() {
        return None;
    }
    let key = flow_key(&mut bytes);
    bytes.advance(size_of::<u32>());
    // SAFETY: there are as many bytes, as checked above, and any are a value: integers without padding.
    let entry = unsafe { bytes.as_ptr().cast::<FlowEntry>().read_unaligned() };
    Some(Body::FlowReplaced { key, entry: Box::new(entry) })
}

fn qmp_line(pid: u32, mut bytes: &[u8]) -> Option<Body> {
    if bytes.remaining() < size_of::<abi::QmpLine>() - size_of::<abi::Header>() {
        return None;
    }
    let sums = sums(&mut bytes);
    let vcpus = vcpus(&mut bytes);
    let summed = bytes.get_u32_ne() != 0;
    let part = match bytes.get_u32_ne() {
        part::WHOLE => Part::Whole,
        part::SECOND_LINE => Part::SecondLine,
        part::LINE => Part::Line,
        part::LAST_LINE => Part::LastLine,
        _ => return None,
    };
    let cut = bytes.get_u32_ne() != 0;
    bytes.advance(4);
    let write = QmpWrite {
        sums: summed.then_some(sums),
        vcpus: (vcpus.known > 0).then_some(vcpus),
        bytes: bytes.to_vec(),
        cut,
    };
    Some(Body::QmpLine { pid, part, write })
}

fn sums(bytes: &mut &[u8]) -> Directions<Counters> {
    let mut sum = || Counters {
        wire_bytes: bytes.get_u64_ne(),
        payload_bytes: bytes.get_u64_ne(),
        segments: bytes.get_u64_ne(),
        skbs: bytes.get_u64_ne(),
    };
    const { assert!(INGRESS == 0 && EGRESS == 1) };
    let rx = sum();
    let tx = sum();
    Directions { tx, rx }
}

fn vcpus(bytes: &mut &[u8]) -> Vcpus {
    let (known, inside) = (bytes.get_u32_ne(), bytes.get_u32_ne());
    let (starting, halted) = (bytes.get_u32_ne(), bytes.get_u32_ne());
    let mut left = || Some(bytes.get_u64_ne()).filter(|&left_ns| left_ns != 0).map(MonotonicNs);
    Vcpus { known, inside, starting, halted, first_left_ns: left(), last_left_ns: left() }
}

const fn announcement(kind: u32) -> Option<Announcement> {
    match kind {
        abi::announcement::RARP => Some(Announcement::Rarp),
        abi::announcement::GRATUITOUS_ARP => Some(Announcement::GratuitousArp),
        abi::announcement::NEIGHBOUR_ADVERTISEMENT => Some(Announcement::NeighbourAdvertisement),
        _ => None,
    }
}

fn flow_key(bytes: &mut &[u8]) -> FlowKey {
    let mut address = || [bytes.get_u32_ne(), bytes.get_u32_ne(), bytes.get_u32_ne(), bytes.get_u32_ne()];
    let (local, remote) = (address(), address());
    FlowKey { local, remote, local_port: bytes.get_u16_ne(), remote_port: bytes.get_u16_ne() }
}

pub(super) fn address(words: [u32; 4]) -> IpAddr {
    let mut octets = [0; 16];
    for (bytes, word) in octets.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    Ipv6Addr::from(octets).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn a_process_event_is_its_header() {
        let bytes = bytes_of(&[7, 0, kind::PROCESS_EXIT, 42]);
        let expected = Message { at_ns: MonotonicNs(7), body: Body::ProcessExit { pid: 42 } };
        assert_eq!(Message::decode(&bytes), Some(expected));
    }

    #[test]
    fn an_owner_comes_with_what_had_crossed_in_each_direction() {
        let mut words = vec![7, 0, kind::FLOW_OWNED, 42];
        words.extend(
            [[0, 0, 0xffff_u32.to_be(), 1_u32.to_be()], [0, 0, 0xffff_u32.to_be(), 2_u32.to_be()]].concat(),
        );
        words.extend([40000 | 49152 << 16, 1, 5, 0]);
        // What came in, what went out, and when the last of it did, in words of 32 bits.
        words.extend((1..=8).flat_map(|count| [count, 0]));
        words.extend([6, 0]);
        let Some(Message { at_ns, body: Body::FlowOwned { flow, pid, by_user_space, crossed } }) =
            Message::decode(&bytes_of(&words))
        else {
            panic!("no owner")
        };
        assert_eq!((at_ns, pid, by_user_space), (MonotonicNs(7), 42, true));
        assert_eq!(
            flow.flow,
            Flow { local: "0.0.0.1:40000".parse().unwrap(), remote: "0.0.0.2:49152".parse().unwrap() }
        );
        assert_eq!(flow.opened_ns, MonotonicNs(5));
        let counters = |wire_bytes| Counters {
            wire_bytes,
            payload_bytes: wire_bytes + 1,
            segments: wire_bytes + 2,
            skbs: wire_bytes + 3,
        };
        assert_eq!(crossed.counters, Directions { tx: counters(5), rx: counters(1) });
        assert_eq!(crossed.last_ns, MonotonicNs(6));
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_no_message() {
        assert_eq!(Message::decode(&[0; 3]), None);
        assert_eq!(Message::decode(&bytes_of(&[7, 0, 99, 42])), None);
        for kind in [kind::FLOW_SEEN, kind::FLOW_OWNED, kind::FLOW_REPLACED, kind::QMP_LINE] {
            assert_eq!(Message::decode(&bytes_of(&[7, 0, kind, 42, 1, 2, 3])), None);
        }
    }
}
