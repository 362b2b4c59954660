//! Turns bytes into events: a few processes and flows on a coarse grid of time, so that facts collide.

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use migtrace::event::{
    EchoEnd, EchoGap, EchoOwnerMethod, EndReason, Event, Fact, FlowCounters, InstrumentStatus, OwnerMethod,
    PeerRecording, Qemu, QmpEvent, SCHEMA, Vcpus,
};
use migtrace::units::{ClockSample, Counters, Directions, Flow, MonotonicNs};
use migtrace::vocabulary::{Announcement, Lost, NotMeasured, Purpose};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::statuses::STATUSES;

const OFFSET_NS: i64 = 1_800_000_000_000_000_000;
/// More events find nothing new, and slow the search down.
const MOST_EVENTS: usize = 64;
const FLOWS: usize = 4;

/// The events for some bytes, the first of them `log_start`. The same bytes always give the same events.
pub fn from_bytes(bytes: &[u8]) -> Vec<Event> {
    let mut source = Unstructured::new(bytes);
    let mut events = Vec::new();
    // The events end where the bytes run out.
    let _ = fill(&mut source, &mut events);
    if events.is_empty() {
        events.push(Event { at_ns: MonotonicNs(0), fact: log_start(false) });
    }
    events
}

fn fill(source: &mut Unstructured<'_>, events: &mut Vec<Event>) -> Result<()> {
    let origin = *source.choose(&[1_000_000_000, 0, i64::MAX.cast_unsigned() - 50, u64::MAX - 5_000_000])?;
    let step_ns = *source.choose(&[1_000_000, 1, 1_000, 300_000_000, 3_600_000_000_000])?;
    let mut world = World { source, origin, step_ns, tick: 0 };
    let hears = world.source.ratio(7, 8)?;
    events.push(Event { at_ns: MonotonicNs(origin), fact: log_start(hears) });
    while !world.source.is_empty() && events.len() < MOST_EVENTS {
        // Mostly forward; two threads can be stamped in one order and seen in the other.
        world.tick = match world.source.int_in_range(0u8..=15)? {
            0 => world.source.int_in_range(0..=63)?,
            steps @ 1..=7 => world.tick + u64::from(steps % 4),
            _ => world.tick + 1,
        };
        let at_ns = world.now();
        let fact = world.fact()?;
        events.push(Event { at_ns, fact });
    }
    Ok(())
}

fn log_start(hears: bool) -> Fact {
    let status = if hears { InstrumentStatus::Ok } else { InstrumentStatus::Missing };
    made(json!({
        "event": "log_start", "schema": SCHEMA, "migtrace": "0.1.0", "host": "host-a", "kernel": "6.12.0",
        "interfaces": [], "ports": "49152-49215",
        "instruments": [{ "name": "qmp", "observes": "phases", "status": status }]
    }))
}

/// A value that only JSON can construct outside of the library. An instant beyond the clock's range, which JSON cannot hold,
/// is set afterwards.
fn made<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).expect("the library reads what it is given here")
}

/// What is observed: its clock, and the source of the next fact.
struct World<'s, 'b> {
    source: &'s mut Unstructured<'b>,
    origin: u64,
    step_ns: u64,
    tick: u64,
}

impl World<'_, '_> {
    fn at(&self, tick: u64) -> MonotonicNs {
        MonotonicNs(self.origin.saturating_add(tick.saturating_mul(self.step_ns)))
    }

    fn now(&self) -> MonotonicNs {
        self.at(self.tick)
    }

    /// An instant of the grid, more often a past one.
    fn instant(&mut self) -> Result<MonotonicNs> {
        let back = self.source.int_in_range(0..=8)?;
        let tick = if back == 8 { self.source.int_in_range(0..=63)? } else { self.tick.saturating_sub(back) };
        Ok(self.at(tick))
    }

    fn maybe_instant(&mut self) -> Result<Option<MonotonicNs>> {
        if self.source.ratio(3, 4)? { self.instant().map(Some) } else { Ok(None) }
    }

    fn pid(&mut self) -> Result<u32> {
        self.source.int_in_range(1..=3)
    }

    /// The empty status is one that QEMU never reports.
    fn status(&mut self) -> Result<&'static str> {
        let index = self.source.choose_index(STATUSES.len() + 1)?;
        Ok(STATUSES.get(index).copied().unwrap_or_default())
    }

    fn interface(&mut self) -> Result<String> {
        Ok((*self.source.choose(&["tap0", "tap1"])?).to_owned())
    }

    fn flow(&mut self) -> Result<(usize, Flow)> {
        let index = self.source.choose_index(FLOWS)?;
        let (local, remote) = if index == 3 { (49152, 40003) } else { (40000 + index as u16, 49152) };
        Ok((index, Flow { local: ([192, 0, 2, 1], local).into(), remote: ([192, 0, 2, 2], remote).into() }))
    }

    /// What has crossed by now on flow `index`: it grows with time, each at its own pace.
    fn carried(&self, index: usize) -> Directions<Counters> {
        let count = |segments: u64, payload: u64| Counters {
            wire_bytes: segments.saturating_mul(66 + payload),
            payload_bytes: segments.saturating_mul(payload),
            segments,
            skbs: segments,
        };
        let busy = count(self.tick.saturating_mul(index as u64 + 1), 1448);
        let quiet = count(self.tick, 0);
        if index == 3 { Directions { tx: quiet, rx: busy } } else { Directions { tx: busy, rx: quiet } }
    }

    /// The counters of some flows, or values that no counter can have.
    fn counters(&mut self) -> Result<Directions<Counters>> {
        let which = self.source.int_in_range(0u8..=17)?;
        if which > 15 {
            let wild = if which == 17 { u64::MAX } else { self.source.arbitrary()? };
            let side =
                Counters { wire_bytes: wild, payload_bytes: wild / 2, segments: wild / 3, skbs: wild / 4 };
            return Ok(Directions { tx: side, rx: side });
        }
        let mut sum = Directions::default();
        (0..FLOWS).filter(|index| which >> index & 1 == 1).for_each(|index| sum += self.carried(index));
        Ok(sum)
    }

    fn vcpus(&mut self) -> Result<Vcpus> {
        let (first_left_ns, last_left_ns) = (self.maybe_instant()?, self.maybe_instant()?);
        let (known, inside) = (self.source.int_in_range(0..=2)?, self.source.int_in_range(0..=1)?);
        let mut vcpus: Vcpus = made(json!({ "known": known, "inside": inside }));
        vcpus.halted = self.source.int_in_range(0..=1)?;
        vcpus.first_left_ns = first_left_ns.min(last_left_ns);
        vcpus.last_left_ns = first_left_ns.max(last_left_ns);
        Ok(vcpus)
    }

    fn fact(&mut self) -> Result<Fact> {
        Ok(match self.source.int_in_range(0u8..=39)? {
            0..=11 => self.qmp()?,
            12..=14 => Fact::QemuSeen(self.qemu()?),
            15 => Fact::QemuGone { pid: self.pid()? },
            kind @ 16..=25 => self.of_flow(kind)?,
            kind @ 26..=31 => self.of_guest(kind)?,
            32 => self.query_migrate()?,
            33 => self.query_migrate_parameters()?,
            34 => self.echo()?,
            35 | 36 => Fact::EchoGap(self.gap()?),
            37 => Fact::Clock(self.clock()?),
            38 => self.end()?,
            _ => self.rare()?,
        })
    }

    fn of_flow(&mut self, kind: u8) -> Result<Fact> {
        Ok(match kind {
            16 | 17 => {
                let (flow, interface) = (self.flow()?.1, self.interface()?);
                let from_start = self.source.ratio(3, 4)?;
                Fact::FlowSeen { flow, interface, from_start, initial_sequences: None }
            }
            18 | 19 => {
                let methods = [OwnerMethod::Socket, OwnerMethod::SockDiag];
                Fact::FlowOwner {
                    flow: self.flow()?.1,
                    pid: self.pid()?,
                    method: *self.source.choose(&methods)?,
                    crossed: None,
                }
            }
            20 | 21 => {
                let purposes = [
                    Purpose::Ram,
                    Purpose::Nbd,
                    Purpose::Multifd,
                    Purpose::Tls,
                    Purpose::PostcopyPreempt,
                    Purpose::Unknown,
                    Purpose::Other,
                ];
                Fact::FlowPurpose { flow: self.flow()?.1, purpose: *self.source.choose(&purposes)? }
            }
            22..=24 => Fact::FlowCounters(self.flow_counters()?),
            _ if self.source.ratio(1, 3)? => self.carried_before()?,
            _ => Fact::FlowGone { flow: self.flow()?.1 },
        })
    }

    fn of_guest(&mut self, kind: u8) -> Result<Fact> {
        Ok(match kind {
            26 => Fact::GuestRun { pid: self.pid()?, vcpus: self.vcpus()? },
            27 => Fact::GuestRunVoid {
                pid: self.pid()?,
                entered_ns: self.instant()?,
                certain: self.source.arbitrary()?,
            },
            28 => Fact::DirtyLog { pid: self.pid()?, counters: self.counters()? },
            29 => Fact::GuestFrame { pid: self.pid()?, interface: self.interface()? },
            30 => Fact::GuestFrames {
                pid: self.pid()?,
                interface: self.interface()?,
                frames: self.source.int_in_range(0..=2)?,
                last_ns: self.maybe_instant()?,
                announcements: 0,
            },
            _ => {
                let kinds =
                    [Announcement::Rarp, Announcement::GratuitousArp, Announcement::NeighbourAdvertisement];
                Fact::Announcement {
                    pid: self.pid()?,
                    interface: self.interface()?,
                    kind: *self.source.choose(&kinds)?,
                }
            }
        })
    }

    fn carried_before(&mut self) -> Result<Fact> {
        let (flow, began_ns) = (self.flow()?.1, self.instant()?.min(MonotonicNs::MAX));
        let counters = self.counters()?;
        let at_most = if self.source.ratio(1, 2)? { Some(self.counters()?) } else { None };
        let retransmitted = *self.source.choose(&[None, Some(0), Some(u64::MAX)])?;
        Ok(made(json!({
            "event": "flow_carried_before", "flow": flow, "began_ns": began_ns, "counters": counters, "at_most": at_most,
            "retransmitted_segments": retransmitted, "retransmitted_payload_bytes": retransmitted
        })))
    }

    fn query_migrate(&mut self) -> Result<Fact> {
        let status = self.status()?;
        let ms = *self.source.choose(&[0, 77, u64::MAX])?;
        let reply = json!({ "status": status, "downtime": ms, "total-time": ms, "error-desc": "no" });
        Ok(Fact::QueryMigrate { pid: self.pid()?, reply })
    }

    fn query_migrate_parameters(&mut self) -> Result<Fact> {
        let limit_ms = *self.source.choose(&[300, 0, u64::MAX])?;
        Ok(Fact::QueryMigrateParameters { pid: self.pid()?, reply: json!({ "downtime-limit": limit_ms }) })
    }

    fn domjobinfo(&mut self) -> Result<Fact> {
        let names =
            ["time_elapsed", "downtime", "downtime_net", "memory_processed", "memory_bps", "disk_processed"];
        let mut figures = BTreeMap::new();
        for name in names {
            if self.source.ratio(3, 4)? {
                figures.insert(name.to_owned(), *self.source.choose(&[0, 253, u64::MAX])?);
            }
        }
        Ok(Fact::Domjobinfo { pid: self.pid()?, figures })
    }

    fn qmp(&mut self) -> Result<Fact> {
        let pid = self.pid()?;
        let (name, data) = match self.source.int_in_range(0u8..=13)? {
            0..=5 => ("MIGRATION", json!({ "status": self.status()? })),
            6 => ("MIGRATION_PASS", json!({ "pass": self.source.int_in_range(1..=4)? })),
            7 => ("STOP", Value::Null),
            8 => ("RESUME", Value::Null),
            9 => {
                let status = *self.source.choose(&["created", "ready", "concluded"])?;
                ("JOB_STATUS_CHANGE", json!({ "id": "mirror", "status": status }))
            }
            10 => ("BLOCK_JOB_READY", json!({ "device": "mirror" })),
            11 => ("BLOCK_JOB_ERROR", json!({ "device": "mirror", "error": "no space" })),
            12 => ("BLOCK_JOB_CANCELLED", json!({ "device": "mirror", "type": "mirror" })),
            _ => {
                ("BLOCK_JOB_COMPLETED", json!({ "device": "mirror", "type": "mirror", "error": "no space" }))
            }
        };
        let built = match self.source.int_in_range(0u8..=7)? {
            0 => self.source.arbitrary()?,
            late => self.now().0.saturating_sub(u64::from(late) * 40_000).cast_signed(),
        };
        let qemu_realtime_us = built.saturating_add(OFFSET_NS) / 1_000;
        let mut event: QmpEvent =
            made(json!({ "pid": pid, "name": name, "data": data, "qemu_realtime_us": qemu_realtime_us }));
        event.counters = if self.source.ratio(7, 8)? { Some(self.counters()?) } else { None };
        event.vcpus = if self.source.arbitrary()? { Some(self.vcpus()?) } else { None };
        Ok(Fact::Qmp(event))
    }

    fn qemu(&mut self) -> Result<Qemu> {
        let pid = self.pid()?;
        // Two QEMUs with one name are the two ends of one migration.
        let vm = if self.source.arbitrary()? { 1 } else { pid };
        let uuid = self.source.arbitrary::<bool>()?;
        let mut qemu: Qemu = made(json!({ "pid": pid, "name": format!("web-{vm}") }));
        qemu.uuid = uuid.then(|| format!("11111111-2222-4333-8444-00000000000{vm}"));
        qemu.vcpus = Some(self.source.int_in_range(1..=2)?);
        qemu.accelerator = Some((*self.source.choose(&["kvm", "tcg"])?).to_owned());
        qemu.taps = if self.source.arbitrary()? { vec!["tap0".to_owned()] } else { Vec::new() };
        qemu.incoming = self.source.arbitrary()?;
        Ok(qemu)
    }

    fn flow_counters(&mut self) -> Result<FlowCounters> {
        let (index, flow) = self.flow()?;
        let wild = self.source.ratio(1, 16)?;
        let counters = if wild { self.counters()? } else { self.carried(index) };
        let (a, b) = (self.instant()?.min(self.now()), self.instant()?.min(self.now()));
        let mut counted: FlowCounters = made(json!({
            "flow": flow, "counters": counters, "first_ns": 0, "last_ns": 0, "retransmitted_segments": null,
            "retransmitted_payload_bytes": null
        }));
        (counted.first_ns, counted.last_ns) = (a.min(b), a.max(b));
        counted.last_byte_ns = Directions { tx: self.maybe_instant()?, rx: self.maybe_instant()? };
        counted.retransmitted_segments = *self.source.choose(&[Some(0), None, Some(3), Some(u64::MAX)])?;
        counted.retransmitted_payload_bytes = *self.source.choose(&[Some(0), None, Some(u64::MAX)])?;
        counted.elsewhere_skbs = u64::from(self.source.ratio(1, 16)?);
        counted.closed = self.source.arbitrary()?;
        Ok(counted)
    }

    fn echo(&mut self) -> Result<Fact> {
        let target = "192.0.2.10";
        Ok(match self.source.int_in_range(0u8..=3)? {
            0 => made(json!({
                "event": "echo_start", "target": target, "interface": "br0", "attach": "tcx",
                "interval_ns": 1_000_000, "min_gap_ns": 3_000_000
            })),
            1 => Fact::EchoOwner {
                pid: self.pid()?,
                method: *self.source.choose(&[EchoOwnerMethod::Mac, EchoOwnerMethod::Selected])?,
            },
            2 => made(json!({ "event": "echo_end" })),
            _ => {
                let answered = self.source.int_in_range(0..=2)?;
                let lost = self.source.int_in_range(0..=2)?;
                let sent = answered + lost;
                let trip = json!({ "p50_ns": 90_000, "p99_ns": 1_300_000, "max_ns": 13_000_000 });
                let mut end: EchoEnd = made(json!({ "echo": {
                    "target": target, "peer": "192.0.2.1", "identifier": 7, "sent": sent, "answered": answered,
                    "lost": lost, "late": 0, "duplicate": 0, "interval_ns": (sent > 1).then_some(self.step_ns),
                    "longest_interval_ns": self.step_ns, "round_trip": (answered > 0).then_some(trip)
                } }));
                end.open = if self.source.arbitrary()? { Some(self.gap()?) } else { None };
                Fact::EchoEnd(end)
            }
        })
    }

    fn gap(&mut self) -> Result<EchoGap> {
        let mut stamps = [MonotonicNs(0); 6];
        for stamp in &mut stamps {
            *stamp = self.instant()?;
        }
        // The kernel's are in this order; a log can hold others.
        if self.source.ratio(7, 8)? {
            stamps.sort();
        }
        let trips = [0, 90_000, 13_000_000, u64::MAX];
        let requests = self.source.int_in_range(0..=9)?;
        let mut gap: EchoGap = made(json!({
            "answered_request_ns": 0, "last_reply_ns": 0, "first_waiting_ns": 0, "before_resumed_ns": 0,
            "resuming_request_ns": 0, "resumed_ns": 0, "round_trip_before_ns": *self.source.choose(&trips)?,
            "round_trip_after_ns": *self.source.choose(&trips)?, "requests": requests,
            "overtaken": self.source.int_in_range(0..=requests)?, "waited": self.source.int_in_range(0..=requests)?,
            "prompt": self.source.int_in_range(0..=requests)?, "duplicate": 0,
            "worst_round_trip_ns": *self.source.choose(&trips)?, "may_be": self.source.arbitrary::<bool>()?,
            "shortest_round_trip_ns": *self.source.choose(&trips)?,
            "longest_interval_ns": *self.source.choose(&trips)?, "disordered": self.source.int_in_range(0..=1)?
        }));
        gap.answered_request_ns = stamps[0];
        gap.last_reply_ns = stamps[1];
        gap.first_waiting_ns = stamps[2];
        gap.before_resumed_ns = stamps[3];
        gap.resuming_request_ns = stamps[4];
        gap.resumed_ns = stamps[5];
        Ok(gap)
    }

    fn clock(&mut self) -> Result<ClockSample> {
        let offset_ns = *self.source.choose(&[OFFSET_NS, OFFSET_NS + 3_600_000_000_000, 0, i64::MIN])?;
        Ok(ClockSample { offset_ns, error_ns: *self.source.choose(&[100, 0, u64::MAX])? })
    }

    fn end(&mut self) -> Result<Fact> {
        let reasons = [EndReason::MigrationEnded, EndReason::Interrupted, EndReason::TimedOut];
        Ok(Fact::LogEnd { reason: *self.source.choose(&reasons)? })
    }

    fn milestones(&mut self) -> Result<Fact> {
        let last = *self.source.choose(&[1, 2, 16_384, 1 << 32, u64::MAX])?;
        let crossing = json!({
            "at_ns": self.instant()?.min(MonotonicNs::MAX), "way": self.source.choose(&["tx", "rx"])?,
            "by": self.source.choose(&["payload", "acknowledgement"])?,
            "first": self.source.choose(&[1, 2, last])?, "last": last,
        });
        Ok(made(json!({ "event": "milestones", "flow": self.flow()?.1, "crossings": [crossing] })))
    }

    fn rare(&mut self) -> Result<Fact> {
        Ok(match self.source.int_in_range(0u8..=5)? {
            0 => {
                let mut so_far = Lost::default();
                so_far.ring_buffer = self.source.int_in_range(0..=2)?;
                Fact::Lost { so_far, since_ns: None }
            }
            1 if self.source.ratio(1, 2)? => self.domjobinfo()?,
            1 => Fact::NotMeasured(NotMeasured { what: "owners".to_owned(), why: "no BTF".to_owned() }),
            2 => made(json!({ "event": "interface_added", "name": "eth1", "index": 3, "attach": "clsact" })),
            3 if self.source.ratio(1, 2)? => Fact::PeerClock {
                peer: PeerRecording::new(
                    "other".to_owned(),
                    *self.source.choose(&[MonotonicNs(0), MonotonicNs::MAX])?,
                ),
                asked_ns: self.instant()?.min(MonotonicNs::MAX),
                showed_ns: self.instant()?.min(MonotonicNs::MAX),
            },
            3 => Fact::InterfaceGone { interface: "eth1".to_owned() },
            4 => made(json!({
                "event": "tc_removed", "interface": "eth0", "program": self.source.choose(&["count", "guest", "echo"])?,
                "last_seen_ns": self.source.choose(&[0, i64::MAX as u64, 1_001_500_000_000])?,
                "attached_again_ns": self.source.choose(&[None, Some(0), Some(1_001_600_000_000_u64)])?,
            })),
            _ if self.source.ratio(1, 2)? => self.milestones()?,
            _ if self.source.ratio(1, 2)? => Fact::ClockSlew {
                since_ns: self.instant()?.min(MonotonicNs::MAX),
                ppm: *self.source.choose(&[501, 80_000, u64::MAX])?,
            },
            _ => Fact::Fragments {
                local: [192, 0, 2, 1].into(),
                remote: [192, 0, 2, 2].into(),
                counters: self.counters()?,
            },
        })
    }
}
