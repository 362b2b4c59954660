//! What the kernel programs put into the ring buffer, decoded.

use std::net::{IpAddr, Ipv6Addr};

use migtrace_ebpf::abi::{
    self, EGRESS, FlowEntry, FlowEvent, FlowKey, FlowOwned, FlowReplaced, INGRESS, QmpLine, Sum, Sums, kind,
    part,
};
use migtrace_ebpf::qmp_write::Part;
use zerocopy::FromBytes;

use super::flows::{FirstPacket, flow_of};

use crate::event::{Crossed, Vcpus};
use crate::units::{Counters, Directions, Flow, MonotonicNs};
use crate::vocabulary::Announcement;

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
    pub(crate) fn decode(record: &[u8]) -> Option<Self> {
        let (abi::Header { at_ns, kind, tgid: pid }, _) = abi::Header::read_from_prefix(record).ok()?;
        let body = match kind {
            kind::PROCESS_EXEC => Body::ProcessExec { pid },
            kind::PROCESS_FORK => Body::ProcessFork { pid },
            kind::PROCESS_EXIT => Body::ProcessExit { pid },
            kind::FLOW_SEEN => flow_seen(&read(record)?),
            kind::FLOW_OWNED => flow_owned(&read(record)?),
            kind::FLOW_PAYLOAD => flow_payload(&read(record)?),
            kind::FLOW_REPLACED => flow_replaced(&read(record)?),
            kind::QMP_LINE => qmp_line(record)?,
            kind::GUEST_RUN => {
                let abi::GuestRun { vcpus, .. } = read(record)?;
                Body::GuestRun { pid, vcpus: vcpus.into() }
            }
            kind::GUEST_RUN_VOID => {
                let abi::GuestRunVoid { entered_ns, certain, .. } = read(record)?;
                Body::GuestRunVoid { pid, entered_ns: MonotonicNs(entered_ns), certain: certain != 0 }
            }
            kind::DIRTY_LOG => {
                let abi::DirtyLogRead { sums, .. } = read(record)?;
                Body::DirtyLog { pid, sums: directions(&sums) }
            }
            kind::GUEST_FRAME => {
                let abi::GuestPortEvent { ifindex, .. } = read(record)?;
                Body::GuestFrame { ifindex }
            }
            kind::ANNOUNCEMENT => {
                let abi::GuestPortEvent { ifindex, announcement: kind, .. } = read(record)?;
                Body::Announcement { ifindex, kind: announcement(kind)? }
            }
            _ => return None,
        };
        Some(Self { at_ns: MonotonicNs(at_ns), body })
    }
}

/// What a record begins with.
fn read<T: FromBytes>(record: &[u8]) -> Option<T> {
    T::read_from_prefix(record).ok().map(|(event, _)| event)
}

fn opened(key: &FlowKey, opened_ns: u64) -> Opened {
    Opened { flow: flow_of(key), opened_ns: MonotonicNs(opened_ns) }
}

fn flow_seen(event: &FlowEvent) -> Body {
    let first = FirstPacket { at_ns: MonotonicNs(event.first_ns), ifindex: event.ifindex };
    Body::FlowSeen { flow: opened(&event.key, event.opened_ns), first }
}

fn flow_payload(event: &FlowEvent) -> Body {
    Body::FlowPayload { flow: opened(&event.key, event.opened_ns), first_bytes: event.first_payload }
}

fn flow_owned(event: &FlowOwned) -> Body {
    Body::FlowOwned {
        flow: opened(&event.key, event.opened_ns),
        pid: event.header.tgid,
        by_user_space: event.by_user_space != 0,
        crossed: Crossed { counters: directions(&event.crossed), last_ns: MonotonicNs(event.last_ns) },
    }
}

fn flow_replaced(event: &FlowReplaced) -> Body {
    Body::FlowReplaced { key: event.key, entry: Box::new(event.entry) }
}

fn qmp_line(record: &[u8]) -> Option<Body> {
    let (line, bytes) = QmpLine::read_from_prefix(record).ok()?;
    let part = match line.part {
        part::WHOLE => Part::Whole,
        part::SECOND_LINE => Part::SecondLine,
        part::LINE => Part::Line,
        part::LAST_LINE => Part::LastLine,
        _ => return None,
    };
    let write = QmpWrite {
        sums: (line.summed != 0).then(|| directions(&line.sums)),
        vcpus: (line.vcpus.known > 0).then(|| line.vcpus.into()),
        bytes: bytes.to_vec(),
        cut: line.cut != 0,
    };
    Some(Body::QmpLine { pid: line.header.tgid, part, write })
}

fn directions(sums: &Sums) -> Directions<Counters> {
    let counters = |direction: u8| {
        let Sum { wire_bytes, payload_bytes, segments, skbs } = sums.by_direction[usize::from(direction)];
        Counters { wire_bytes, payload_bytes, segments, skbs }
    };
    Directions { tx: counters(EGRESS), rx: counters(INGRESS) }
}

impl From<abi::Vcpus> for Vcpus {
    fn from(vcpus: abi::Vcpus) -> Self {
        let abi::Vcpus { known, inside, starting, halted, first_left_ns, last_left_ns } = vcpus;
        let left = |left_ns| (left_ns != 0).then_some(MonotonicNs(left_ns));
        let (first_left_ns, last_left_ns) = (left(first_left_ns), left(last_left_ns));
        Self { known, inside, starting, halted, first_left_ns, last_left_ns }
    }
}

const fn announcement(kind: u32) -> Option<Announcement> {
    match kind {
        abi::announcement::RARP => Some(Announcement::Rarp),
        abi::announcement::GRATUITOUS_ARP => Some(Announcement::GratuitousArp),
        abi::announcement::NEIGHBOUR_ADVERTISEMENT => Some(Announcement::NeighbourAdvertisement),
        _ => None,
    }
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
    use zerocopy::IntoBytes as _;

    use super::*;

    const fn header(kind: u32) -> abi::Header {
        abi::Header { at_ns: 7, kind, tgid: 42 }
    }

    fn key() -> FlowKey {
        let address = |last: u32| [0, 0, 0xffff_u32.to_be(), last.to_be()];
        FlowKey { local: address(1), remote: address(2), local_port: 40000, remote_port: 49152 }
    }

    fn flow() -> Opened {
        let flow = Flow { local: "0.0.0.1:40000".parse().unwrap(), remote: "0.0.0.2:49152".parse().unwrap() };
        Opened { flow, opened_ns: MonotonicNs(5) }
    }

    fn event(kind: u32) -> FlowEvent {
        FlowEvent {
            header: header(kind),
            key: key(),
            ifindex: 3,
            opened_ns: 5,
            first_ns: 4,
            first_payload: 0x1122_3344,
            padding: 0,
        }
    }

    fn sums() -> Sums {
        let sum =
            |first| Sum { wire_bytes: first, payload_bytes: first + 1, segments: first + 2, skbs: first + 3 };
        Sums { by_direction: [sum(1), sum(5)] }
    }

    fn counters() -> Directions<Counters> {
        let counters = |first| Counters {
            wire_bytes: first,
            payload_bytes: first + 1,
            segments: first + 2,
            skbs: first + 3,
        };
        Directions { tx: counters(5), rx: counters(1) }
    }

    fn line(part: u32, vcpus: abi::Vcpus) -> QmpLine {
        QmpLine { header: header(kind::QMP_LINE), sums: sums(), vcpus, summed: 1, part, cut: 0, padding: 0 }
    }

    fn says(record: &[u8], body: Body) {
        assert_eq!(Message::decode(record), Some(Message { at_ns: MonotonicNs(7), body }));
    }

    #[test]
    fn a_process_event_is_its_header() {
        says(header(kind::PROCESS_EXIT).as_bytes(), Body::ProcessExit { pid: 42 });
    }

    #[test]
    fn a_flow_comes_with_its_first_packet_and_later_with_its_first_payload() {
        let first = FirstPacket { at_ns: MonotonicNs(4), ifindex: 3 };
        says(event(kind::FLOW_SEEN).as_bytes(), Body::FlowSeen { flow: flow(), first });
        let payload = Body::FlowPayload { flow: flow(), first_bytes: 0x1122_3344 };
        says(event(kind::FLOW_PAYLOAD).as_bytes(), payload);
    }

    #[test]
    fn an_owner_comes_with_what_had_crossed_in_each_direction() {
        let owned = FlowOwned {
            header: header(kind::FLOW_OWNED),
            key: key(),
            by_user_space: 1,
            opened_ns: 5,
            crossed: sums(),
            last_ns: 6,
        };
        let crossed = Crossed { counters: counters(), last_ns: MonotonicNs(6) };
        says(owned.as_bytes(), Body::FlowOwned { flow: flow(), pid: 42, by_user_space: true, crossed });
    }

    #[test]
    fn a_flow_that_is_replaced_comes_with_all_that_was_counted() {
        let entry = FlowEntry { opened_ns: 5, owner: 42, ..FlowEntry::default() };
        let replaced = FlowReplaced { header: header(kind::FLOW_REPLACED), key: key(), padding: 0, entry };
        says(replaced.as_bytes(), Body::FlowReplaced { key: key(), entry: Box::new(entry) });
    }

    #[test]
    fn a_line_is_what_follows_its_head() {
        let record = [line(part::WHOLE, abi::Vcpus::default()).as_bytes(), b"{}"].concat();
        let write = QmpWrite { sums: Some(counters()), vcpus: None, bytes: b"{}".to_vec(), cut: false };
        says(&record, Body::QmpLine { pid: 42, part: Part::Whole, write });

        let vcpus = abi::Vcpus { known: 2, inside: 1, last_left_ns: 9, ..abi::Vcpus::default() };
        let said = Message::decode(line(part::LINE, vcpus).as_bytes());
        let Some(Message { body: Body::QmpLine { write, .. }, .. }) = said else { panic!("{said:?}") };
        let seen = write.vcpus.unwrap();
        assert_eq!((seen.known, seen.inside, seen.halted), (2, 1, 0));
        assert_eq!((seen.first_left_ns, seen.last_left_ns), (None, Some(MonotonicNs(9))));
        assert!(write.bytes.is_empty());
        assert_eq!(Message::decode(line(part::NONE, vcpus).as_bytes()), None, "such a line is not told");
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_no_message() {
        assert_eq!(Message::decode(&[0; 3]), None);
        assert_eq!(Message::decode(header(99).as_bytes()), None);
        let whole = [event(kind::FLOW_SEEN).as_bytes(), &[0; 400]].concat();
        for (kind, size) in [
            (kind::FLOW_SEEN, size_of::<FlowEvent>()),
            (kind::FLOW_PAYLOAD, size_of::<FlowEvent>()),
            (kind::FLOW_OWNED, size_of::<FlowOwned>()),
            (kind::FLOW_REPLACED, size_of::<FlowReplaced>()),
            (kind::QMP_LINE, size_of::<QmpLine>()),
            (kind::GUEST_RUN, size_of::<abi::GuestRun>()),
            (kind::GUEST_RUN_VOID, size_of::<abi::GuestRunVoid>()),
            (kind::DIRTY_LOG, size_of::<abi::DirtyLogRead>()),
            (kind::GUEST_FRAME, size_of::<abi::GuestPortEvent>()),
            (kind::ANNOUNCEMENT, size_of::<abi::GuestPortEvent>()),
        ] {
            let record = [header(kind).as_bytes(), &whole[size_of::<abi::Header>()..size - 1]].concat();
            assert_eq!(Message::decode(&record), None, "kind {kind}");
        }
    }
}
