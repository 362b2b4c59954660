//! The programs that follow echo requests and replies: loads and attaches them, reads what they found.

use std::net::IpAddr;

use aya::maps::{MapData, RingBuf};
use aya::{Ebpf, EbpfLoader};
use migtrace_ebpf::abi::{
    self, ANY_IDENTIFIER, ECHO_SEQUENCES, EchoGapEvent, EchoKey, EchoSession, EchoTarget, kind,
};
use migtrace_ebpf::session::BUCKETS;
use tokio::io::unix::AsyncFd;
use zerocopy::FromBytes as _;

use super::messages::address;
use super::{KernelError, OBJECT, flows, maps, tc};
use crate::errors::with_causes;
use crate::event::EchoGap;
use crate::units::MonotonicNs;
use crate::vocabulary::AttachMode;

#[cfg(test)]
mod tests;

/// Gaps are rare, and even where many requests are lost there is one at most for each round trip.
const RING_BYTES: u32 = 256 << 10;

const SLOTS: &str = "ECHO_SLOTS";
const KEYS: &str = "ECHO_KEYS";
const STATES: &str = "ECHO_STATES";
const ROUND_TRIPS: &str = "ECHO_ROUND_TRIPS";

/// Makes room for this many sessions.
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

/// One stream of requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    /// Its number.
    pub(crate) slot: u32,
    pub(crate) target: IpAddr,
    pub(crate) peer: IpAddr,
    pub(crate) identifier: u16,
    pub(crate) state: EchoSession,
    key: EchoKey,
}

/// A number, and which of the sessions that it has had.
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

/// A gap that the programs have found and settled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct SettledGap {
    pub(crate) session: SessionId,
    /// The number of the gap among those that were told of its session, from 1.
    pub(crate) number: u64,
    pub(crate) gap: EchoGap,
}

impl EchoKernel {
    /// Loads the programs, with room for `sessions`. A gap that surely lasted for less than `min_gap_ns` is none.
    pub(crate) fn load(sessions: u32, min_gap_ns: u64) -> Result<Self, KernelError> {
        let mut loader = EbpfLoader::new();
        size(&mut loader, sessions);
        let mut ebpf = loader
            .btf(None)
            .override_global("ECHO_LIMIT", &sessions, true)
            .override_global("ECHO_MIN_GAP_NS", &min_gap_ns, true)
            .map_max_entries("EVENTS", RING_BYTES)
            // Of use to the other programs only.
            .map_max_entries("FLOWS", 1)
            .map_max_entries("FLOW_CLAIMS", 1)
            .map_max_entries("HANDSHAKES", 1)
            .map_max_entries("VCPUS", 1)
            .map_max_entries("VCPU_CLAIMS", 1)
            .map_max_entries("LINES", RING_BYTES)
            .load(OBJECT)
            .map_err(|error| KernelError::Refused { what: "object".into(), why: with_causes(&error) })?;
        tc::load(&mut ebpf, &tc::ECHO)?;
        let events = maps::ring(&mut ebpf, "EVENTS")?;
        Ok(Self { ebpf, events, attached: None })
    }

    /// Attaches to an interface of this network namespace.
    pub(crate) fn attach(
        &mut self,
        interface: &str,
        index: u32,
        preference: tc::AttachPreference,
    ) -> Result<AttachMode, KernelError> {
        let mut attacher = tc::Attacher::new(preference);
        let attached = attacher.attach(&mut self.ebpf, &tc::ECHO, interface, index)?;
        let mode = attached.mode();
        self.attached = Some((attacher, attached));
        Ok(mode)
    }

    /// What has become of the programs since the last time. Those that somebody removed are attached again.
    pub(crate) fn look_after_attachments(&mut self) -> std::io::Result<Vec<tc::Change>> {
        let Some((attacher, attached)) = &mut self.attached else { return Ok(Vec::new()) };
        attacher.look(&mut self.ebpf, std::iter::once(attached))
    }

    /// Follows the requests to `target` that carry `identifier`, or all of them; with the cookie of a `socket`, the stream
    /// of requests that it sends and no other.
    pub(crate) fn follow(
        &mut self,
        target: IpAddr,
        identifier: Option<u16>,
        socket: Option<u64>,
    ) -> Result<(), KernelError> {
        let identifier = identifier.map_or(ANY_IDENTIFIER, u32::from);
        let whose = EchoTarget { identifier, padding: 0, socket: socket.unwrap_or(0) };
        maps::set(&mut self.ebpf, "ECHO_TARGETS", flows::words(target), whose)
    }

    /// Follows a session no more: a later request of the same asker opens another.
    ///
    /// Its number stays taken until [`Self::give_back`]: a program that runs on another CPU may still count a packet there.
    pub(crate) fn retire(&mut self, session: &Session) -> Result<(), KernelError> {
        maps::remove::<_, u32>(&mut self.ebpf, SLOTS, session.key).map(drop)
    }

    /// Gives back the number of a session that was retired a while ago. Before, its state and its round trips are final.
    pub(crate) fn give_back(&mut self, slot: u32) -> Result<(), KernelError> {
        for (bucket, count) in (first_bucket(slot)..).zip(self.round_trips(slot)?) {
            if count != 0 {
                maps::set_element(&mut self.ebpf, ROUND_TRIPS, bucket, 0_u64)?;
            }
        }
        maps::set_element(&mut self.ebpf, STATES, slot, EchoSession::default())?;
        maps::remove::<_, EchoKey>(&mut self.ebpf, KEYS, slot).map(drop)
    }

    /// The sessions so far, by number.
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

    /// How many round trips fell into each bucket; see [`migtrace_ebpf::session::bucket`].
    pub(crate) fn round_trips(&self, slot: u32) -> Result<Vec<u64>, KernelError> {
        let first = first_bucket(slot);
        maps::elements(&self.ebpf, ROUND_TRIPS, first..first + BUCKETS as u32)
    }

    /// Packets of sessions beyond those that there was room for, and gaps that found the ring buffer full.
    pub(crate) fn lost(&self) -> Result<(u64, u64), KernelError> {
        Ok((
            maps::element(&self.ebpf, "LOST", abi::lost::ECHO_SESSIONS)?,
            maps::element(&self.ebpf, "LOST", abi::lost::RING_BUFFER)?,
        ))
    }

    /// The next gaps; waits until there is one. Cancel-safe.
    pub(crate) async fn gaps(&mut self) -> Result<Vec<SettledGap>, KernelError> {
        let mut guard = self.events.readable_mut().await?;
        let gaps = drain(guard.get_inner_mut());
        guard.clear_ready();
        Ok(gaps)
    }

    /// The gaps that are there now.
    pub(crate) fn pending_gaps(&mut self) -> Vec<SettledGap> {
        drain(self.events.get_mut())
    }
}

const fn first_bucket(slot: u32) -> u32 {
    slot * BUCKETS as u32
}

fn drain(ring: &mut RingBuf<MapData>) -> Vec<SettledGap> {
    let mut gaps = Vec::new();
    while let Some(item) = ring.next() {
        gaps.extend(decode(&item));
    }
    gaps
}

/// Decodes one record of the ring buffer; `None` for what is no gap.
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
