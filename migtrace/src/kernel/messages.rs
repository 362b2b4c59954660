//! The messages of the kernel programs, as they come through the ring buffers.

use migtrace_ebpf::abi::{
    self, EGRESS, FlowEntry, FlowEvent, FlowKey, FlowOwned, FlowReplaced, INGRESS, QmpLine, Sum, Sums,
    content, crossed_by, kind,
};
use migtrace_ebpf::qmp_write::Content;
use zerocopy::FromBytes;

use super::flows::{FirstPacket, flow_of};
use crate::event::{Crossed, CrossedBy, Crossing, Vcpus, Way};
use crate::units::{Counters, Directions, Flow, MonotonicNs};
use crate::vocabulary::Announcement;

/// One message of a kernel program.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Message {
    /// When the program wrote it.
    pub(crate) at_ns: MonotonicNs,
    pub(crate) body: Body,
}

/// Identifies one connection: its ends may have another connection later.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct FlowId {
    pub(crate) flow: Flow,
    /// When its entry was made, as in [`FlowState`](super::FlowState).
    pub(crate) opened_ns: MonotonicNs,
}

/// The content of a message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    /// A flow is open; `first` is its first packet.
    FlowSeen { flow: FlowId, first: FirstPacket, initial_sequences: Directions<u32> },
    /// The owner of a flow is known: the process that uses its socket.
    FlowOwned { flow: FlowId, pid: u32, by_user_space: bool, crossed: Crossed },
    /// The first payload of a flow in one direction.
    FlowPayload { flow: FlowId, first_bytes: u32 },
    /// A flow is over: a new connection between the same ends has replaced it in the table. This was its
    /// entry.
    FlowReplaced { key: FlowKey, entry: Box<FlowEntry> },
    /// A process writes a QMP event, or a part of one, to its monitor.
    QmpLine { pid: u32, content: Content, write: QmpWrite },
    /// A vCPU enters KVM after none of its VM was in it for a while; one message for each vCPU that does.
    GuestRun { pid: u32, vcpus: Vcpus },
    /// Retracts the run that began at `entered_ns`; unless `certain`, it may have been one.
    GuestRunVoid { pid: u32, entered_ns: MonotonicNs, certain: bool },
    /// A process reads KVM's dirty log.
    DirtyLog { pid: u32, sums: Directions<Counters> },
    /// The first frame of a guest since its tap is watched, or since its QEMU last emitted a QMP event.
    GuestFrame { ifindex: u32 },
    /// An announcement of a guest's location to the network.
    Announcement { ifindex: u32, kind: Announcement },
    /// A process that may be a QEMU, or was one, runs another program now.
    ProcessExec { pid: u32 },
    /// A process that may be a QEMU has forked, and this is the child.
    ProcessFork { pid: u32 },
    /// A connection to a watched port opens, or somebody begins to listen on one. Reported once in each sleep.
    ConnectionOpens,
    /// A traced process has ended.
    ProcessExit { pid: u32 },
}

/// A write to a monitor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QmpWrite {
    /// The sum over the flows of the process; `None` when it was not read.
    pub(crate) sums: Option<Directions<Counters>>,
    /// `None` when none of its vCPUs is known.
    pub(crate) vcpus: Option<Vcpus>,
    /// The bytes that were written, or the first of them.
    pub(crate) bytes: Vec<u8>,
    /// Whether more was written than was copied.
    pub(crate) cut: bool,
}

impl Message {
    /// Decodes one record of a ring buffer; `None` for a kind or size that no program writes.
    pub(crate) fn decode(record: &[u8]) -> Option<Self> {
        let (abi::EventHeader { at_ns, kind, tgid: pid }, _) =
            abi::EventHeader::read_from_prefix(record).ok()?;
        let body = match kind {
            kind::PROCESS_EXEC => Body::ProcessExec { pid },
            kind::PROCESS_FORK => Body::ProcessFork { pid },
            kind::PROCESS_EXIT => Body::ProcessExit { pid },
            kind::CONNECTION_OPENS => Body::ConnectionOpens,
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

/// Milestones of a flow that one packet has crossed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct MilestonesCrossed {
    pub(crate) flow: FlowId,
    pub(crate) crossing: Crossing,
}

impl MilestonesCrossed {
    /// Decodes one record of the ring buffer; `None` for what no program writes.
    pub(super) fn decode(record: &[u8]) -> Option<Self> {
        let event: abi::MilestonesCrossed = read(record)?;
        let by = match event.crossed_by {
            crossed_by::PAYLOAD => CrossedBy::Payload,
            crossed_by::ACKNOWLEDGEMENT => CrossedBy::Acknowledgement,
            _ => return None,
        };
        let way = if event.direction == u32::from(EGRESS) { Way::Tx } else { Way::Rx };
        let abi::MilestonesCrossed { header, first, last, .. } = event;
        Some(Self {
            flow: flow_id(&event.key, event.opened_ns),
            crossing: Crossing { at_ns: MonotonicNs(header.at_ns), way, by, first, last },
        })
    }
}

/// Reads a `T` from the beginning of a record.
fn read<T: FromBytes>(record: &[u8]) -> Option<T> {
    T::read_from_prefix(record).ok().map(|(event, _)| event)
}

fn flow_id(key: &FlowKey, opened_ns: u64) -> FlowId {
    FlowId { flow: flow_of(key), opened_ns: MonotonicNs(opened_ns) }
}

fn flow_seen(event: &FlowEvent) -> Body {
    let first = FirstPacket { at_ns: MonotonicNs(event.first_ns), ifindex: event.ifindex };
    let [rx, tx] = event.initial_sequences;
    let initial_sequences = Directions { tx, rx };
    Body::FlowSeen { flow: flow_id(&event.key, event.opened_ns), first, initial_sequences }
}

fn flow_payload(event: &FlowEvent) -> Body {
    Body::FlowPayload { flow: flow_id(&event.key, event.opened_ns), first_bytes: event.first_payload }
}

fn flow_owned(event: &FlowOwned) -> Body {
    Body::FlowOwned {
        flow: flow_id(&event.key, event.opened_ns),
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
    let content = match line.content {
        content::WHOLE => Content::Whole,
        content::SECOND_LINE => Content::SecondLine,
        content::LINE => Content::Line,
        content::LAST_LINE => Content::LastLine,
        _ => return None,
    };
    let write = QmpWrite {
        sums: (line.summed != 0).then(|| directions(&line.sums)),
        vcpus: (line.vcpus.known > 0).then(|| line.vcpus.into()),
        bytes: bytes.to_vec(),
        cut: line.cut != 0,
    };
    Some(Body::QmpLine { pid: line.header.tgid, content, write })
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

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;

    const fn header(kind: u32) -> abi::EventHeader {
        abi::EventHeader { at_ns: 7, kind, tgid: 42 }
    }

    fn key() -> FlowKey {
        let address = |last: u32| [0, 0, 0xffff_u32.to_be(), last.to_be()];
        FlowKey { local: address(1), remote: address(2), local_port: 40000, remote_port: 49152 }
    }

    fn flow() -> FlowId {
        let flow = Flow { local: "0.0.0.1:40000".parse().unwrap(), remote: "0.0.0.2:49152".parse().unwrap() };
        FlowId { flow, opened_ns: MonotonicNs(5) }
    }

    fn event(kind: u32) -> FlowEvent {
        FlowEvent {
            header: header(kind),
            key: key(),
            ifindex: 3,
            opened_ns: 5,
            first_ns: 4,
            first_payload: 0x1122_3344,
            initial_sequences: [11, 12],
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

    fn line(content: u32, vcpus: abi::Vcpus) -> QmpLine {
        QmpLine {
            header: header(kind::QMP_LINE),
            sums: sums(),
            vcpus,
            summed: 1,
            content,
            cut: 0,
            padding: 0,
        }
    }

    #[track_caller]
    fn assert_decodes(record: &[u8], body: Body) {
        assert_eq!(Message::decode(record), Some(Message { at_ns: MonotonicNs(7), body }));
    }

    #[test]
    fn a_message_about_a_process_is_a_header_alone() {
        assert_decodes(header(kind::PROCESS_EXIT).as_bytes(), Body::ProcessExit { pid: 42 });
    }

    #[test]
    fn a_new_flow_is_decoded_with_its_first_packet_and_later_with_its_first_payload() {
        let first = FirstPacket { at_ns: MonotonicNs(4), ifindex: 3 };
        let initial_sequences = Directions { tx: 12, rx: 11 };
        let seen = Body::FlowSeen { flow: flow(), first, initial_sequences };
        assert_decodes(event(kind::FLOW_SEEN).as_bytes(), seen);
        let payload = Body::FlowPayload { flow: flow(), first_bytes: 0x1122_3344 };
        assert_decodes(event(kind::FLOW_PAYLOAD).as_bytes(), payload);
    }

    #[test]
    fn an_owner_is_decoded_with_what_had_crossed_in_each_direction() {
        let owned = FlowOwned {
            header: header(kind::FLOW_OWNED),
            key: key(),
            by_user_space: 1,
            opened_ns: 5,
            crossed: sums(),
            last_ns: 6,
        };
        let crossed = Crossed { counters: counters(), last_ns: MonotonicNs(6) };
        assert_decodes(
            owned.as_bytes(),
            Body::FlowOwned { flow: flow(), pid: 42, by_user_space: true, crossed },
        );
    }

    #[test]
    fn a_replaced_flow_is_decoded_with_its_whole_entry() {
        let entry = FlowEntry { opened_ns: 5, owner: 42, ..FlowEntry::default() };
        let replaced = FlowReplaced { header: header(kind::FLOW_REPLACED), key: key(), padding: 0, entry };
        assert_decodes(replaced.as_bytes(), Body::FlowReplaced { key: key(), entry: Box::new(entry) });
    }

    #[test]
    fn the_bytes_of_a_line_follow_its_header() {
        let record = [line(content::WHOLE, abi::Vcpus::default()).as_bytes(), b"{}"].concat();
        let write = QmpWrite { sums: Some(counters()), vcpus: None, bytes: b"{}".to_vec(), cut: false };
        assert_decodes(&record, Body::QmpLine { pid: 42, content: Content::Whole, write });

        let vcpus = abi::Vcpus { known: 2, inside: 1, last_left_ns: 9, ..abi::Vcpus::default() };
        let decoded = Message::decode(line(content::LINE, vcpus).as_bytes());
        let Some(Message { body: Body::QmpLine { write, .. }, .. }) = decoded else { panic!("{decoded:?}") };
        let seen = write.vcpus.unwrap();
        assert_eq!((seen.known, seen.inside, seen.halted), (2, 1, 0));
        assert_eq!((seen.first_left_ns, seen.last_left_ns), (None, Some(MonotonicNs(9))));
        assert!(write.bytes.is_empty());
        assert_eq!(
            Message::decode(line(content::NONE, vcpus).as_bytes()),
            None,
            "the programs send no such line"
        );
    }

    #[test]
    fn a_truncated_or_unknown_record_is_not_decoded() {
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
            let record = [header(kind).as_bytes(), &whole[size_of::<abi::EventHeader>()..size - 1]].concat();
            assert_eq!(Message::decode(&record), None, "kind {kind}");
        }
    }
}
