//! What an event log is about.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Read as _};
use std::net::SocketAddr;

use super::{Key, key};
use crate::event::{Event, Fact, LONGEST_LINE_BYTES, Lines, LogError, PeerRecording, Qemu, QmpEvent};
use crate::selection::Selection;
use crate::units::{Directions, Flow, MonotonicNs};
use crate::vocabulary::Purpose;

/// What an event log is about, as far as that decides which other logs belong to it.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Which recording it is.
    pub(super) recording: Key,
    /// Whose clocks were read.
    pub(super) peers: Box<[Key]>,
    /// The sequence numbers of the SYNs of its connections: of this host's, and of the other's.
    pub(super) syns: Box<[(u32, u32)]>,
    /// Whether a migration in it may have no connection that was seen to begin.
    pub(super) may_lack_syns: bool,
    /// The VMs that migrate, and the ends of their connections: what both halves of a migration have in common.
    pub(super) likenesses: Box<[Key]>,
    /// By what an observer may know the guests that migrate: their MACs, and the names and UUIDs of their VMs.
    pub(super) guests: Box<[Key]>,
    /// By what this host knows the guest that it pings: its MAC, its name.
    pub(super) pinged: Box<[Key]>,
    /// The wall time of its migrations or pings; none when no wall time is known.
    pub(super) time: Option<(i64, i64)>,
    /// Whether anything of a migration was seen.
    pub(super) has_migration: bool,
    /// Whether it has a QEMU that is selected.
    pub(super) is_selected: bool,
}

impl Summary {
    /// Reads what a log is about. Of most lines only the stamp and the kind are looked at, so damage goes unnoticed:
    /// [`crate::event::LogReader`] finds it.
    ///
    /// # Errors
    /// It is not an event log, or cannot be read.
    pub fn read(mut log: impl BufRead, selection: &Selection) -> Result<Self, LogError> {
        let (mut lines, mut line) = (Lines::default(), Vec::new());
        let mut look = Look::default();
        loop {
            line.clear();
            let read = (&mut log).take(LONGEST_LINE_BYTES + 1).read_until(b'\n', &mut line);
            let is_first = look.recording.is_none();
            match read {
                Err(error) => return Err(lines.error(error.into())),
                Ok(_) if is_first => {
                    let event = lines.event(&line).map_err(|what| lines.error(what))?;
                    event.iter().for_each(|event| look.take_in(event));
                    if look.recording.is_none() {
                        return Err(lines.error(crate::event::LogErrorKind::Empty));
                    }
                }
                Ok(0) => break,
                Ok(_) => match Head::of(&line) {
                    Some(Head { at_ns, matters: false }) => look.latest = look.latest.max(at_ns),
                    _ => serde_json::from_slice::<Event>(&line).iter().for_each(|event| look.take_in(event)),
                },
            }
        }
        Ok(look.summary(selection))
    }
}

/// Kinds of events of which there may be thousands, and which say nothing here.
const DETAILS: [&str; 8] = [
    "flow_counters",
    "milestones",
    "echo_gap",
    "guest_run",
    "guest_run_void",
    "dirty_log",
    "guest_frames",
    "query_migrate",
];

/// How a line begins, as migtrace writes it.
struct Head {
    at_ns: u64,
    matters: bool,
}

impl Head {
    /// None where the line begins in another way: somebody has written it anew.
    fn of(line: &[u8]) -> Option<Self> {
        let rest = line.strip_prefix(br#"{"at_ns":"#)?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let at_ns = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
        let kind = rest[digits..].strip_prefix(br#","event":""#)?;
        let kind = &kind[..kind.iter().position(|byte| *byte == b'"')?];
        Some(Self { at_ns, matters: !DETAILS.iter().any(|detail| detail.as_bytes() == kind) })
    }
}

/// What was seen so far.
#[derive(Default)]
struct Look {
    recording: Option<PeerRecording>,
    peers: BTreeSet<Key>,
    flows: BTreeMap<Flow, Vec<Option<Directions<u32>>>>,
    /// What each carries, as often as that was found out.
    purposes: BTreeMap<Flow, BTreeSet<Purpose>>,
    qemus: BTreeMap<u32, Qemu>,
    /// Those that migrate.
    pids: BTreeSet<u32>,
    /// How many migrations have begun.
    beginnings: u32,
    pinged: Option<(u64, BTreeSet<Key>)>,
    /// The least and the most that was to be added to a stamp for its wall time.
    offset: Option<(i64, i64)>,
    /// When a migration was first seen.
    first: Option<u64>,
    latest: u64,
}

impl Look {
    fn take_in(&mut self, event: &Event) {
        self.latest = self.latest.max(event.at_ns.0);
        let of_migration = match &event.fact {
            Fact::LogStart(start) => {
                self.recording = Some(PeerRecording::new(start.host.clone(), event.at_ns));
                false
            }
            Fact::Clock(sample) => {
                let (low, high) = self.offset.unwrap_or((sample.offset_ns, sample.offset_ns));
                self.offset = Some((low.min(sample.offset_ns), high.max(sample.offset_ns)));
                false
            }
            Fact::PeerClock { peer, .. } => {
                self.peers.insert(key(peer));
                false
            }
            Fact::QemuSeen(qemu) => {
                self.qemus.insert(qemu.pid, qemu.clone());
                false
            }
            Fact::FlowSeen { flow, initial_sequences, .. } => {
                self.flows.entry(*flow).or_default().push(*initial_sequences);
                true
            }
            Fact::FlowPurpose { flow, purpose } => {
                self.purposes.entry(*flow).or_default().insert(*purpose);
                false
            }
            Fact::FlowOwner { pid, .. } => self.pids.insert(*pid),
            Fact::Qmp(qmp) => self.qmp(qmp),
            Fact::EchoStart(start) => {
                let names = start.mac.iter().chain(&start.vm).map(key);
                self.pinged = Some((event.at_ns.0, names.collect()));
                false
            }
            _ => false,
        };
        if of_migration {
            let first = self.first.get_or_insert(event.at_ns.0);
            *first = event.at_ns.0.min(*first);
        }
    }

    /// Returns whether it is about a migration.
    fn qmp(&mut self, qmp: &QmpEvent) -> bool {
        let status = qmp.data.get("status").and_then(serde_json::Value::as_str);
        self.beginnings += u32::from(qmp.name == "MIGRATION" && status == Some("setup"));
        self.pids.insert(qmp.pid);
        true
    }

    /// Whether a connection is of no migration in this log. With the one by which a guest has arrived, all logs of a guest that
    /// goes from host to host would belong together.
    fn is_of_none(&self, flow: &Flow, seen: usize) -> bool {
        let carries_other = |purposes: &BTreeSet<Purpose>| purposes.iter().eq([&Purpose::Other]);
        seen == 1 && self.purposes.get(flow).is_some_and(carries_other)
    }

    fn summary(self, selection: &Selection) -> Summary {
        let of_migrations = || self.flows.iter().filter(|(flow, all)| !self.is_of_none(flow, all.len()));
        let flows = || of_migrations().flat_map(|(flow, all)| all.iter().map(move |syns| (flow, syns)));
        let may_lack_syns =
            flows().next().is_none() || self.beginnings > 1 || flows().any(|(_, syns)| syns.is_none());
        let moving = || self.pids.iter().filter_map(|pid| self.qemus.get(pid));
        let ends = |flow: &Flow| {
            let (one, other): (SocketAddr, SocketAddr) = (flow.local, flow.remote);
            key((one.min(other), one.max(other)))
        };
        let likenesses: BTreeSet<_> = (moving().filter_map(|qemu| qemu.uuid.as_ref()).map(key))
            .chain(self.flows.keys().map(ends))
            .collect();
        let guests: BTreeSet<_> =
            moving().flat_map(|qemu| qemu.macs.iter().chain(&qemu.name).chain(&qemu.uuid)).map(key).collect();
        let since = self.first.or(self.pinged.as_ref().map(|(since, _)| *since));
        let wall = |at: u64, offset: i64| MonotonicNs(at).since(MonotonicNs(0)).saturating_add(offset);
        Summary {
            time: since
                .zip(self.offset)
                .map(|(since, offset)| (wall(since, offset.0), wall(self.latest, offset.1))),
            has_migration: self.first.is_some(),
            is_selected: *selection == Selection::default()
                || self.qemus.values().any(|qemu| selection.matches(qemu)),
            syns: flows().filter_map(|(_, syns)| syns.map(|syns| (syns.tx, syns.rx))).collect(),
            recording: self.recording.as_ref().map_or(0, key),
            peers: self.peers.into_iter().collect(),
            pinged: self.pinged.map(|(_, names)| names.into_iter().collect()).unwrap_or_default(),
            may_lack_syns,
            likenesses: likenesses.into_iter().collect(),
            guests: guests.into_iter().collect(),
        }
    }
}
