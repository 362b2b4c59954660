//! The programs that follow echo requests and replies, for `migtrace probe`: loads and attaches them, reads
//! what they found.

use std::net::IpAddr;

use aya::maps::{MapData, RingBuf};
use aya::{Ebpf, EbpfLoader};
use migtrace_ebpf::abi::{
    self, ANY_IDENTIFIER, ECHO_SEQUENCES, EchoGapEvent, EchoKey, EchoSession, EchoTarget, kind,
};
use migtrace_ebpf::echo_session::BUCKETS;
use tokio::io::unix::AsyncFd;
use zerocopy::FromBytes as _;

use super::address::{address, words};
use super::{KernelError, drain, maps, object, tc};
use crate::event::EchoGap;
use crate::units::MonotonicNs;
use crate::vocabulary::AttachMode;

#[cfg(test)]
mod tests;

/// Gaps are rare: even when many requests are lost there is at most one for each round trip.
const RING_BYTES: u32 = 256 << 10;

const SLOTS: &str = "ECHO_SLOTS";
const KEYS: &str = "ECHO_KEYS";
const STATES: &str = "ECHO_STATES";
const ROUND_TRIPS: &str = "ECHO_ROUND_TRIPS";

/// Sets the sizes of the maps for this many sessions.
pub(super) fn size(loader: &mut EbpfLoader<'_>, sessions: u32) {
    loader
        .map_max_entries(STATES, sessions)
        .map_max_entries("ECHO_STAMPS", sessions * ECHO_SEQUENCES)
        .map_max_entries(ROUND_TRIPS, sessions * BUCKETS as u32);
}

/// The loaded programs. Dropping it detaches them.
pub(crate) struct EchoKernel {
    ebpf: Ebpf,
    events: AsyncFd<RingBuf<MapData>>,
    attached: Option<(tc::Attacher, tc::Attached)>,
}

/// One stream of requests, from one sender under one identifier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    /// Its place in the maps.
    pub(crate) slot: u32,
    pub(crate) target: IpAddr,
    pub(crate) peer: IpAddr,
    pub(crate) identifier: u16,
    pub(crate) state: EchoSession,
    key: EchoKey,
}

/// Identifies one session: another may have its slot later.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct SessionId {
    pub(crate) slot: u32,
    pub(crate) first_request_ns: u64,
}

impl Session {
    pub(crate) const fn id(&self) -> SessionId {
        SessionId { slot: self.slot, first_request_ns: self.state.first_request_ns }
    }
}

/// A gap that the programs have found, with everything about it known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SettledGap {
    pub(crate) session: SessionId,
    /// Its number among the reported gaps of its session, from 1.
    pub(crate) number: u64,
    pub(crate) gap: EchoGap,
}

impl EchoKernel {
    /// Loads the programs, with room for `sessions`. Gaps that are certainly shorter than `min_gap_ns` are
    /// ignored.
    pub(crate) fn load(sessions: u32, min_gap_ns: u64) -> Result<Self, KernelError> {
        let mut loader = EbpfLoader::new();
        size(&mut loader, sessions);
        loader
            .override_global("ECHO_LIMIT", &sessions, true)
            .override_global("ECHO_MIN_GAP_NS", &min_gap_ns, true)
            .map_max_entries("EVENTS", RING_BYTES)
            // Used by the other programs only.
            .map_max_entries("FLOWS", 1)
            .map_max_entries("FLOW_CLAIMS", 1)
            .map_max_entries("HANDSHAKES", 1)
            .map_max_entries("VCPUS", 1)
            .map_max_entries("VCPU_CLAIMS", 1)
            .map_max_entries("LINES", RING_BYTES)
            .map_max_entries("MILESTONES", RING_BYTES);
        let mut ebpf = object::make_maps(&mut loader)?;
        tc::load(&mut ebpf, &tc::ECHO)?;
        let events = maps::ring(&mut ebpf, "EVENTS")?;
        Ok(Self { ebpf, events, attached: None })
    }

    /// Attaches to an interface of this network namespace.
    pub(crate) fn attach(
        &mut self,
        interface: &str,
        index: u32,
        choice: tc::AttachChoice,
    ) -> Result<AttachMode, KernelError> {
        let mut attacher = tc::Attacher::new(choice);
        let attached = attacher.attach(&mut self.ebpf, &tc::ECHO, interface, index)?;
        let mode = attached.mode();
        self.attached = Some((attacher, attached));
        Ok(mode)
    }

    /// What happened to the programs since the last call. Those that somebody removed are attached again.
    pub(crate) fn look_after_attachments(&mut self) -> std::io::Result<Vec<tc::Change>> {
        let Some((attacher, attached)) = &mut self.attached else { return Ok(Vec::new()) };
        attacher.check(&mut self.ebpf, std::iter::once(attached))
    }

    /// Follows the requests to `target`: those with `identifier` if it is given, and only those of the socket
    /// with this cookie if `socket` is given.
    pub(crate) fn follow(
        &mut self,
        target: IpAddr,
        identifier: Option<u16>,
        socket: Option<u64>,
    ) -> Result<(), KernelError> {
        let identifier = identifier.map_or(ANY_IDENTIFIER, u32::from);
        let whose = EchoTarget { identifier, padding: 0, socket: socket.unwrap_or(0) };
        maps::set(&mut self.ebpf, "ECHO_TARGETS", words(target), whose)
    }

    /// Stops following a session: a later request of the same sender opens another one.
    ///
    /// Its slot stays taken until [`Self::free`]: a program that is running on another CPU may still count a
    /// packet there.
    pub(crate) fn retire(&mut self, session: &Session) -> Result<(), KernelError> {
        maps::remove::<_, u32>(&mut self.ebpf, SLOTS, session.key).map(drop)
    }

    /// Frees the slot of a session whose retirement is a [`GracePeriod`](super::GracePeriod) ago. Until then
    /// its final state and round trips can be read.
    pub(crate) fn free(&mut self, slot: u32) -> Result<(), KernelError> {
        for (bucket, count) in (first_bucket(slot)..).zip(self.round_trips(slot)?) {
            if count != 0 {
                maps::set_element(&mut self.ebpf, ROUND_TRIPS, bucket, 0_u64)?;
            }
        }
        maps::set_element(&mut self.ebpf, STATES, slot, EchoSession::default())?;
        maps::remove::<_, EchoKey>(&mut self.ebpf, KEYS, slot).map(drop)
    }

    /// The sessions so far, in the order of their slots.
    pub(crate) fn sessions(&self) -> Result<Vec<Session>, KernelError> {
        let mut sessions = Vec::new();
        for (slot, key) in maps::entries::<u32, EchoKey>(&self.ebpf, KEYS)? {
            sessions.push(Session {
                slot,
                target: address(key.target),
                peer: address(key.peer),
                identifier: key.identifier,
                state: maps::element(&self.ebpf, STATES, slot)?,
                key,
            });
        }
        sessions.sort_by_key(|session| session.slot);
        Ok(sessions)
    }

    /// The number of round trips in each bucket; see [`migtrace_ebpf::echo_session::bucket`].
    pub(crate) fn round_trips(&self, slot: u32) -> Result<Vec<u64>, KernelError> {
        let first = first_bucket(slot);
        maps::elements(&self.ebpf, ROUND_TRIPS, first..first + BUCKETS as u32)
    }

    /// How many packets belonged to sessions without a slot, and how many gaps found the ring buffer full.
    pub(crate) fn lost(&self) -> Result<(u64, u64), KernelError> {
        Ok((
            maps::element(&self.ebpf, "LOST", abi::lost::ECHO_SESSIONS)?,
            maps::element(&self.ebpf, "LOST", abi::lost::RING_BUFFER)?,
        ))
    }

    /// The next gaps; waits until there is one. Cancel-safe.
    pub(crate) async fn gaps(&mut self) -> Result<Vec<SettledGap>, KernelError> {
        let mut guard = self.events.readable_mut().await?;
        let gaps = drain(guard.get_inner_mut(), decode);
        guard.clear_ready();
        Ok(gaps)
    }

    /// The gaps that are there now.
    pub(crate) fn pending_gaps(&mut self) -> Vec<SettledGap> {
        drain(self.events.get_mut(), decode)
    }
}

const fn first_bucket(slot: u32) -> u32 {
    slot * BUCKETS as u32
}

/// Decodes one record of the ring buffer; `None` if it is not a gap.
fn decode(record: &[u8]) -> Option<SettledGap> {
    let (event, _) = EchoGapEvent::read_from_prefix(record).ok()?;
    let EchoGapEvent { header, slot, first_request_ns, number, gap, .. } = event;
    let session = SessionId { slot, first_request_ns };
    (header.kind == kind::ECHO_GAP).then(|| SettledGap { session, number, gap: gap.into() })
}

impl From<abi::EchoGap> for EchoGap {
    fn from(gap: abi::EchoGap) -> Self {
        Self {
            answered_request_ns: MonotonicNs(gap.answered_request_ns),
            last_reply_ns: MonotonicNs(gap.last_reply_ns),
            first_waiting_ns: MonotonicNs(gap.first_waiting_ns),
            before_resumed_ns: MonotonicNs(gap.before_resumed_ns),
            resuming_request_ns: MonotonicNs(gap.resuming_request_ns),
            resumed_ns: MonotonicNs(gap.resumed_ns),
            round_trip_before_ns: gap.round_trip_before_ns,
            round_trip_after_ns: gap.round_trip_after_ns,
            requests: gap.requests,
            overtaken: gap.overtaken,
            waited: gap.waited,
            prompt: gap.prompt,
            duplicate: gap.duplicate,
            worst_round_trip_ns: gap.worst_round_trip_ns,
            may_be: gap.may_be != 0,
            shortest_round_trip_ns: gap.shortest_round_trip_ns,
            longest_interval_ns: gap.longest_interval_ns,
            disordered: gap.disordered,
        }
    }
}
